//! Host memory that a machine costs above its guest's RAM.
//!
//! Measured from outside as the process's proportional set size less that of
//! the mapping that is guest RAM (proc(5), smaps). Proportional, because the
//! code cache is mapped twice and would otherwise count twice.

use anyhow::{Context, Result, bail};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Most that a machine with one vCPU may cost.
const LIMIT: u64 = 64 << 20;
const PAUSE: Duration = Duration::from_millis(50);

/// Samples a process until it is dropped.
pub(super) struct Watch {
    pid: u32,
    ram: u64,
    peak: Arc<Peak>,
}

#[derive(Default)]
struct Peak {
    bytes: AtomicU64,
    failed: AtomicBool,
}

impl Watch {
    /// Watches process `pid`, whose guest has `ram` bytes.
    pub(super) fn start(pid: u32, ram: u64) -> Self {
        let peak = Arc::new(Peak::default());
        let weak = Arc::downgrade(&peak);
        std::thread::spawn(move || follow(pid, ram, &weak));
        Self { pid, ram, peak }
    }

    /// Bytes above guest RAM now.
    pub(super) fn now(&self) -> Result<u64> {
        let bytes = sample(self.pid, self.ram)?.context("the process has no guest RAM")?;
        self.peak.bytes.fetch_max(bytes, Ordering::Relaxed);
        Ok(bytes)
    }

    /// The most so far, now included.
    pub(super) fn peak(&self) -> Result<u64> {
        self.now()?;
        if self.peak.failed.load(Ordering::Relaxed) {
            bail!("the memory could not be watched");
        }
        Ok(self.peak.bytes.load(Ordering::Relaxed))
    }
}

fn follow(pid: u32, ram: u64, peak: &Weak<Peak>) {
    while let Some(peak) = peak.upgrade() {
        match sample(pid, ram) {
            // Guest RAM is not mapped yet at the very start.
            Ok(bytes) => _ = peak.bytes.fetch_max(bytes.unwrap_or(0), Ordering::Relaxed),
            Err(_) => peak.failed.store(true, Ordering::Relaxed),
        }
        drop(peak);
        std::thread::sleep(PAUSE);
    }
}

fn sample(pid: u32, ram: u64) -> Result<Option<u64>> {
    let path = format!("/proc/{pid}/smaps");
    let text = std::fs::read_to_string(&path).context(path)?;
    Ok(above(&text, ram))
}

/// Bytes of `smaps` less those of the mapping that is as large as guest RAM.
fn above(smaps: &str, ram: u64) -> Option<u64> {
    let (mut total, mut guest, mut is_ram) = (0, None, false);
    for line in smaps.lines() {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let Some(kib) = value.trim().strip_suffix(" kB") else {
            continue;
        };
        let bytes = kib.trim().parse::<u64>().ok()? << 10;
        match name {
            "Size" => is_ram = bytes == ram,
            "Pss" if is_ram => guest = Some(guest.unwrap_or(0) + bytes),
            "Pss" => total += bytes,
            _ => {}
        }
    }
    guest.map(|_| total)
}

/// An error if it was too much.
pub(super) fn judge(booted: u64, peak: u64) -> Result<()> {
    match peak < LIMIT {
        true => Ok(()),
        false => bail!("{}; the limit is {} MiB", show(booted, peak), LIMIT >> 20),
    }
}

/// For the reader.
pub(super) fn show(booted: u64, peak: u64) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    format!(
        "{:.1} MiB above guest RAM at the shell, {:.1} at most",
        mib(booted),
        mib(peak)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55c48831f000-55c488410000 r--p 00000000 fe:00 123    /usr/bin/x: y
Size:                964 kB
Rss:                 900 kB
Pss:                 450 kB
Pss_Dirty:            10 kB
VmFlags: rd mr mw me sd
7f32b2c00000-7f32f2c00000 rw-p 00000000 00:00 0
Size:            1048576 kB
Pss:              110592 kB
7f3290000000-7f3291d80000 rw-p 00000000 00:00 0
Size:              30208 kB
Pss:               27750 kB
";

    #[test]
    fn guest_ram_is_left_out() {
        assert_eq!(above(SMAPS, 1 << 30), Some((450 + 27750) << 10));
        assert_eq!(above(SMAPS, 1 << 29), None);
        assert_eq!(above("", 1 << 30), None);
    }

    #[test]
    fn the_peak_counts() {
        assert!(judge(10 << 20, (64 << 20) - 1).is_ok());
        let why = judge(10 << 20, 65 << 20).unwrap_err().to_string();
        assert!(why.contains("10.0 MiB") && why.contains("65.0") && why.contains("64 MiB"));
    }
}
