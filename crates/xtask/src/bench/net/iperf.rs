//! iperf3: its jobs, its server and what it says.

use crate::bench::guest::{Guest, Kit};
use crate::process::output_of;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const PROGRAM: &str = "iperf3";

/// What a guest needs.
pub(super) const KIT: Kit = Kit {
    programs: &[PROGRAM],
    modules: &["failover", "net_failover", "virtio_net"],
};

/// One job.
pub(crate) struct Job {
    pub(super) name: &'static str,
    /// What is counted.
    pub(super) unit: &'static str,
    words: &'static str,
    /// Packets of so many bytes count, not bytes.
    packets: Option<u32>,
}

const fn streams(name: &'static str, words: &'static str) -> Job {
    Job {
        name,
        unit: "Gbit/s",
        words,
        packets: None,
    }
}

const fn packets(name: &'static str, words: &'static str) -> Job {
    Job {
        name,
        unit: "1000 packets/s",
        words,
        packets: Some(64),
    }
}

pub(crate) const JOBS: [Job; 6] = [
    streams("send, 1 stream", "-P 1"),
    streams("send, 8 streams", "-P 8"),
    streams("receive, 1 stream", "-R -P 1"),
    streams("receive, 8 streams", "-R -P 8"),
    packets("send, 64 bytes UDP", "-u -b 0 -l 64"),
    packets("receive, 64 bytes UDP", "-R -u -b 0 -l 64"),
];

/// The other side. Ends with this.
pub(crate) struct Server {
    child: Child,
    port: u16,
}

impl Server {
    pub(crate) fn start() -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = Command::new(PROGRAM)
            .args(["-s", "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context(PROGRAM)?;
        let server = Self { child, port };
        let limit = Instant::now() + Duration::from_secs(10);
        // A connection would be a test that begins; the port being taken says it, too.
        while TcpListener::bind(("127.0.0.1", port)).is_ok() {
            if Instant::now() > limit {
                bail!("{PROGRAM} does not listen");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    fn words(&self, host: &str, job: &Job, seconds: u32) -> String {
        let (port, words) = (self.port, job.words);
        format!("-c {host} -p {port} -t {seconds} -O 1 -J {words}")
    }

    /// The job from a guest, which knows the host as `host`.
    pub(crate) fn with_guest(
        &self,
        guest: &mut Guest,
        host: &str,
        job: &Job,
        seconds: u32,
    ) -> Result<f64> {
        let words = self.words(host, job, seconds);
        let said = guest.say(&format!("{PROGRAM} {words}"), seconds + 1)?;
        rate(&said, job).with_context(|| job.name)
    }

    /// The job from the host itself.
    pub(super) fn natively(&self, job: &Job, seconds: u32) -> Result<f64> {
        let words = self.words("127.0.0.1", job, seconds);
        let said = output_of(Command::new(PROGRAM).args(words.split(' ')))?;
        rate(&said, job).with_context(|| job.name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It is ours, and has nothing to lose.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What arrived in a second, in the job's unit, from iperf3's JSON in `text`.
fn rate(text: &str, job: &Job) -> Result<f64> {
    let start = text.find("\n{").map_or(0, |at| at + 1);
    let end = text.rfind('}').context("iperf3 said nothing")?;
    let said: Value = serde_json::from_str(text.get(start..=end).unwrap_or_default())
        .with_context(|| format!("iperf3 said: {}", text.trim()))?;
    if let Some(why) = said["error"].as_str() {
        bail!("iperf3: {why}");
    }
    let received = &said["end"]["sum_received"]["bits_per_second"];
    let bits = received
        .as_f64()
        .context("iperf3 says nothing of what arrived")?;
    let rate = match job.packets {
        // What was lost on the way is not counted, whatever the sender says.
        Some(bytes) => bits / f64::from(8 * bytes) / 1e3,
        None => bits / 1e9,
    };
    match rate > 0.0 {
        true => Ok(rate),
        false => bail!("nothing arrived"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_understood() {
        let streams = r#"{"end": {"sum_received": {"bits_per_second": 2.5e9}}}"#;
        assert_eq!(rate(&format!("end 0\n{streams}\n"), &JOBS[0]).unwrap(), 2.5);
        let packets = r#"{"end": {"sum_received": {"bits_per_second": 1.024e6}}}"#;
        assert_eq!(rate(packets, &JOBS[4]).unwrap(), 2.0);
        assert!(rate(r#"{"error": "unable to connect"}"#, &JOBS[0]).is_err());
        assert!(rate("iperf3: not found", &JOBS[0]).is_err());
    }
}
