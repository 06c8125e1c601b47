//! The boot test of the balloon: what the guest frees the host gets back.

use super::{Devices, PATIENCE, PROMPT};
use crate::expect::Session;
use crate::paths::TempFolder;
use anyhow::{Context, Result, bail};
use std::fs;
use std::time::{Duration, Instant};

pub(super) const DEVICES: Devices = Devices {
    modules: &["virtio_balloon"],
    act: fill_and_free,
};

pub(super) const OPTIONS: &[&str] = &[
    "-device",
    "virtio-balloon-pci,free-page-reporting=on,deflate-on-oom=on",
];

pub(super) const MICROVM_OPTIONS: &[&str] = &[
    "-M",
    "microvm",
    "-device",
    "virtio-balloon-device,free-page-reporting=on,deflate-on-oom=on",
];

pub(super) const STEPS: &[(&str, &str)] = &[
    (PROMPT, super::boards::LOAD),
    ("\nin 0", ""),
    (
        PROMPT,
        "dmesg | grep reporting; mount -o remount,size=700m /tmp\r",
    ),
    ("Free page reporting enabled", ""),
];

/// MiB that the guest fills and frees.
const FILLED: u64 = 500;
/// Of these the host gets back within [`SOON`]: Linux reports every 2 s, and
/// only large pieces.
const RETURNED: u64 = 400;
const SOON: Duration = Duration::from_secs(30);

fn fill_and_free(session: &mut Session, _: &TempFolder) -> Result<()> {
    let fill = format!("dd if=/dev/urandom of=/tmp/a bs=1M count={FILLED}; echo filled $?\r");
    run(session, &fill, "\nfilled 0")?;
    let before = resident(session.pid())?;
    run(session, "rm /tmp/a; echo freed $?\r", "\nfreed 0")?;
    let deadline = Instant::now() + SOON;
    while resident(session.pid())? + RETURNED > before {
        if Instant::now() > deadline {
            let now = resident(session.pid())?;
            bail!("{before} MiB were resident, after {FILLED} were freed {now}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    // Pages that came back read as the guest left them: zeros.
    let zeros = "dd if=/dev/zero of=/tmp/a bs=1M count=100; md5sum /tmp/a\r";
    run(session, zeros, "2f282b84e7e608d5852449ed940bfc51")?;
    session.expect(PROMPT, PATIENCE)?;
    session.send("poweroff\r")
}

fn run(session: &mut Session, command: &str, answer: &str) -> Result<()> {
    session.expect(PROMPT, PATIENCE)?;
    session.send(command)?;
    session.expect(answer, PATIENCE).map(drop)
}

/// MiB of a process that the host holds.
fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(kib.context("no VmRSS in its status")? >> 10)
}
