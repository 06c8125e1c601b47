//! What is half made goes, also when the process is told to end meanwhile.

use crate::places;
use anyhow::{Context, Result};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// What goes with this process.
struct Mortal {
    folders: Vec<PathBuf>,
    processes: Vec<OwnedFd>,
}

static MORTAL: Mutex<Mortal> = Mutex::new(Mortal {
    folders: Vec::new(),
    processes: Vec::new(),
});
/// A signal came; who holds folders leaves them to its thread. The handler sets
/// it, before anybody hears of a tool that the terminal's signal ended too.
static ENDING: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

fn mortal() -> MutexGuard<'static, Mortal> {
    MORTAL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A new folder that goes unless it is renamed.
pub struct Unfinished(PathBuf);

impl Unfinished {
    /// Makes the folder.
    ///
    /// # Errors
    /// The host's.
    pub fn new(path: &Path) -> Result<Self> {
        watch()?;
        let _ = fs::remove_dir_all(path);
        mortal().folders.push(path.into());
        let unfinished = Self(path.into());
        places::make(path)?;
        Ok(unfinished)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        while ENDING.load(Ordering::SeqCst) {
            // What is said now would only be about our own signal.
            std::thread::park();
        }
        // Renamed, it is not there any more.
        let _ = fs::remove_dir_all(&self.0);
        mortal().folders.retain(|f| *f != self.0);
    }
}

/// A child, not waited for yet, that is killed when this process is told to end.
pub fn ends_with_us(child: u32) {
    let pid = i32::try_from(child).ok().and_then(Pid::from_raw);
    if let Some(process) = pid.and_then(|p| pidfd_open(p, PidfdFlags::empty()).ok()) {
        mortal().processes.push(process);
    }
}

/// Starts the thread that signals wake, once.
fn watch() -> Result<()> {
    static STARTED: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    let started = STARTED.get_or_init(|| start().map_err(|why| why.to_string()));
    started
        .clone()
        .map_err(anyhow::Error::msg)
        .context("signals")
}

fn start() -> std::io::Result<()> {
    let ignored = ignored();
    // A shell's `nohup` or `&` has said that these are none of our business.
    let heeded = [SIGHUP, SIGINT, SIGTERM].into_iter();
    let heeded: Vec<i32> = heeded.filter(|s| ignored & (1 << (s - 1)) == 0).collect();
    for signal in &heeded {
        signal_hook::flag::register(*signal, Arc::clone(&ENDING))?;
    }
    let mut signals = Signals::new(heeded)?;
    std::thread::Builder::new().spawn(move || {
        for signal in signals.forever() {
            clear();
            // It kills, as these signals do.
            let _ = emulate_default_handler(signal);
        }
    })?;
    Ok(())
}

/// The set of signals that this process was started to ignore (proc(5)).
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    line.and_then(|l| u64::from_str_radix(l.trim(), 16).ok())
        .unwrap_or(0)
}

fn clear() {
    let mortal = mortal();
    for process in &mortal.processes {
        // It may have ended.
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
    for folder in &mortal.folders {
        // Tools that the terminal's signal ends too may still write there.
        for _ in 0..50 {
            let _ = fs::remove_dir_all(folder);
            if !folder.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
