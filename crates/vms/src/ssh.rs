//! ssh to a machine, with a key and known hosts of its own.

use crate::{Vm, places};
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Ours, made once.
///
/// # Errors
/// `ssh-keygen` is missing or fails.
pub fn key() -> Result<PathBuf> {
    let folder = places::state()?;
    places::make(&folder)?;
    let _lock = places::lock(&folder.join("key.lock"))?;
    let key = folder.join("id_ed25519");
    let public = key.with_extension("pub");
    if key.is_file() && public.is_file() {
        return Ok(key);
    }
    let _ = fs::remove_file(&key);
    let output = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "trapeze", "-f"])
        .arg(&key)
        .stdin(Stdio::null())
        .output()
        .context("ssh-keygen cannot be run; it comes with the package openssh-client")?;
    if !output.status.success() {
        bail!(
            "ssh-keygen: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(key)
}

/// What the guest's root accepts: our key, and the user's own.
///
/// # Errors
/// Those of [`key`].
pub fn authorized_keys() -> Result<String> {
    let ours = key()?.with_extension("pub");
    let mut text = fs::read_to_string(&ours).with_context(|| ours.display().to_string())?;
    let home = std::env::var_os("HOME")
        .map(PathBuf::from)
        .unwrap_or_default();
    let entries = fs::read_dir(home.join(".ssh"));
    let mut paths: Vec<PathBuf> = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("id_") && name.ends_with(".pub") {
            text.push_str(&fs::read_to_string(&path).unwrap_or_default());
            if !text.ends_with('\n') {
                text.push('\n');
            }
        }
    }
    Ok(text)
}

/// `ssh` to the machine; what it shall do there comes behind.
///
/// # Errors
/// Those of [`key`].
pub fn command(vm: &Vm) -> Result<Command> {
    let key = key()?;
    let mut command = Command::new("ssh");
    command.args(["-p", &vm.config.ssh_port.to_string(), "-i"]);
    command.arg(key).args(["-o", "IdentitiesOnly=yes"]);
    let known = vm.path("known_hosts");
    for option in [
        format!("UserKnownHostsFile=\"{}\"", known.display()),
        format!("HostKeyAlias={}", vm.name),
        "StrictHostKeyChecking=accept-new".into(),
        "LogLevel=ERROR".into(),
        "ConnectTimeout=30".into(),
    ] {
        command.args(["-o", &option]);
    }
    command.arg("root@127.0.0.1");
    Ok(command)
}

/// A word that a shell leaves as it is.
pub fn quoted(word: impl AsRef<str>) -> String {
    format!("'{}'", word.as_ref().replace('\'', "'\\''"))
}

/// Whether the guest's ssh says hello.
pub fn answers(vm: &Vm) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, vm.config.ssh_port));
    let wait = Duration::from_secs(1);
    let Ok(mut stream) = TcpStream::connect_timeout(&address, wait) else {
        return false;
    };
    let mut hello = [0; 4];
    stream.set_read_timeout(Some(wait)).is_ok()
        && stream.read_exact(&mut hello).is_ok()
        && hello == *b"SSH-"
}

/// Waits for that.
///
/// # Errors
/// The machine ended, or it takes too long.
pub fn wait(vm: &Vm, patience: Duration) -> Result<()> {
    let begin = Instant::now();
    while !answers(vm) {
        if vm.pid().is_none() {
            bail!("{0} ended; 'trapeze logs {0}' shows its console", vm.name);
        }
        if begin.elapsed() > patience {
            bail!(
                "{0} runs, but its ssh has not answered for {1} s; 'trapeze console {0}' \
                 leads to it, 'trapeze logs {0}' shows what it said",
                vm.name,
                patience.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Whether nobody listens on that port of the loopback.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A port of the loopback that nobody listens on.
///
/// # Errors
/// The host's.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_shell_sees_words_as_they_are() {
        let words = ["it's", "$HOME", "a b", "", "\\", "`x`;&"];
        let line = words.map(super::quoted).join(" ");
        let output = std::process::Command::new("sh")
            .args(["-c", &format!("printf '%s\\n' {line}")])
            .output()
            .unwrap();
        let expected: String = words.iter().map(|word| format!("{word}\n")).collect();
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    }
}
