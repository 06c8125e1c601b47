//! A client of QEMU's machine protocol (QMP) on a Unix socket: one JSON object
//! a line, answers between events.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection that takes commands.
pub struct Client {
    reader: BufReader<UnixStream>,
}

impl Client {
    /// Connects and leaves the mode in which only capabilities are negotiated.
    ///
    /// # Errors
    /// Nobody is there, or it is no QMP.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).with_context(|| path.display().to_string())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut client = Self {
            reader: BufReader::new(stream),
        };
        if client.next()?.get("QMP").is_none() {
            bail!("{}: no QMP greeting", path.display());
        }
        client.execute("qmp_capabilities")?;
        Ok(client)
    }

    /// Runs a command without arguments; what it returns.
    ///
    /// # Errors
    /// The machine's answer.
    pub fn execute(&mut self, command: &str) -> Result<Value> {
        self.execute_with(command, json!({}))
    }

    /// Runs a command; what it returns.
    ///
    /// # Errors
    /// The machine's answer.
    pub fn execute_with(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let line = format!(
            "{}\n",
            json!({ "execute": command, "arguments": arguments })
        );
        self.reader.get_mut().write_all(line.as_bytes())?;
        loop {
            let mut answer = self.next()?;
            if let Some(error) = answer.get("error") {
                bail!("{command}: {}", error["desc"].as_str().unwrap_or("refused"));
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    fn next(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            bail!("the machine closed its QMP socket");
        }
        Ok(serde_json::from_str(&line)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// QEMU itself is at the other end.
    #[test]
    fn a_machine_of_qemu_answers_and_quits() {
        let path = std::env::temp_dir().join(format!("vms-qmp-{}", std::process::id()));
        let mut qemu = Command::new("qemu-system-x86_64")
            .args(["-S", "-nodefaults", "-display", "none", "-m", "16", "-qmp"])
            .arg(format!("unix:{},server=on,wait=off", path.display()))
            .spawn()
            .unwrap();
        let connect = || Client::connect(&path).ok();
        let mut client = loop {
            if let Some(client) = connect() {
                break client;
            }
            assert!(qemu.try_wait().unwrap().is_none());
            std::thread::yield_now();
        };
        let status = client.execute("query-status").unwrap();
        assert_eq!(status["running"], false);
        let why = client.execute("no-such-command").unwrap_err();
        assert!(why.to_string().contains("not been found"), "{why}");
        client.execute("quit").unwrap();
        assert!(qemu.wait().unwrap().success());
    }
}
