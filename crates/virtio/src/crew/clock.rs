//! Whether a request waits for a device of the host.
#![allow(unsafe_code, reason = "getrusage")]

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Whoever waits for a device waits longer.
const SLOW: Duration = Duration::from_micros(60);
/// Besides, what copying takes: 2 GB/s.
const BYTES_PER_MICROSECOND: usize = 2000;

/// Of a request, on the thread that serves it.
pub(super) struct Clock {
    begin: Cell<Instant>,
    /// Longest time that does not mean waiting.
    patience: Cell<Duration>,
    /// Of a request that is known to copy, how often its thread had slept
    /// before: others who use the host's CPUs and its memory may make it as
    /// late as a device does, but only who waits for something sleeps.
    sleeps: Cell<Option<i64>>,
    /// It waited before `begin`.
    waited: Cell<bool>,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self {
            begin: Cell::new(Instant::now()),
            patience: Cell::new(SLOW),
            sleeps: Cell::new(None),
            waited: Cell::new(false),
        }
    }

    /// The request moves so many bytes.
    pub(super) fn moves(&self, bytes: usize) {
        let copying = Duration::from_micros((bytes / BYTES_PER_MICROSECOND) as u64);
        self.patience.set(SLOW + copying);
    }

    /// It copies them, unless it must wait for them first.
    pub(super) fn copies(&self) {
        self.sleeps.set(Some(sleeps()));
    }

    /// The thread waited for a device, by all that is known.
    pub(super) fn waited(&self) -> bool {
        let late = || self.begin.get().elapsed() > self.patience.get();
        let slept = || self.sleeps.get().is_none_or(|before| sleeps() > before);
        self.waited.get() || late() && slept()
    }

    /// Does what makes the thread wait, but not for a device.
    pub(super) fn except<R>(&self, wait: impl FnOnce() -> R) -> R {
        self.waited.set(self.waited());
        let result = wait();
        self.begin.set(Instant::now());
        if self.sleeps.get().is_some() {
            self.copies();
        }
        result
    }
}

/// How often this thread has slept.
fn sleeps() -> i64 {
    // SAFETY: all-zero bytes are a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: it is ours to fill.
    match unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) } {
        0 => usage.ru_nvcsw,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_millis(3);

    #[test]
    fn who_copies_waits_only_when_asleep() {
        for copies in [false, true] {
            let clock = Clock::start();
            clock.moves(1 << 20);
            if copies {
                clock.copies();
            }
            while clock.begin.get().elapsed() < LONG {}
            assert_eq!(clock.waited(), !copies);
        }
    }

    #[test]
    fn other_waits_do_not_count() {
        let clock = Clock::start();
        clock.copies();
        clock.except(|| std::thread::sleep(LONG));
        assert!(!clock.waited());
        std::thread::sleep(LONG);
        assert!(clock.waited());
        clock.except(|| ());
        assert!(clock.waited(), "that is not forgotten");
    }
}
