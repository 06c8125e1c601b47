//! Time as devices get it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A source of time.
pub trait Clock: Send + Sync {
    /// Nanoseconds since some fixed moment; never runs backwards.
    fn monotonic_ns(&self) -> u64;
    /// Nanoseconds since 1970-01-01 00:00 UTC.
    fn wall_ns(&self) -> u64;
}

/// The host's clocks; the monotonic one starts at 0 when this is made.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock(Instant);

impl SystemClock {
    /// A clock that starts now.
    pub fn new() -> Self {
        Self(Instant::now())
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn monotonic_ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
    fn wall_ns(&self) -> u64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_nanos() as u64)
    }
}

/// Another clock whose wall time is somewhere else.
pub struct ShiftedClock {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// What is added to its wall time, in ns.
    pub wall_offset_ns: i64,
}

impl Clock for ShiftedClock {
    fn monotonic_ns(&self) -> u64 {
        self.clock.monotonic_ns()
    }
    fn wall_ns(&self) -> u64 {
        let wall = self.clock.wall_ns();
        wall.saturating_add_signed(self.wall_offset_ns)
    }
}

/// A clock that stands still until it is told to advance; for tests and
/// deterministic runs.
#[derive(Debug, Default)]
pub struct ManualClock {
    monotonic: AtomicU64,
    epoch: u64,
}

impl ManualClock {
    /// Monotonic time 0, wall time `epoch_s` seconds after 1970.
    pub fn at(epoch_s: u64) -> Self {
        Self {
            monotonic: AtomicU64::new(0),
            epoch: epoch_s.saturating_mul(1_000_000_000),
        }
    }
    /// Moves both clocks forward.
    pub fn advance_ns(&self, ns: u64) {
        self.monotonic.fetch_add(ns, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn monotonic_ns(&self) -> u64 {
        self.monotonic.load(Ordering::Relaxed)
    }
    fn wall_ns(&self) -> u64 {
        self.epoch.saturating_add(self.monotonic_ns())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shifted_clock_runs_as_the_other_does() {
        let clock = Arc::new(ManualClock::at(1000));
        let shifted = ShiftedClock {
            clock: clock.clone(),
            wall_offset_ns: -900_000_000_000,
        };
        clock.advance_ns(5);
        assert_eq!(shifted.wall_ns(), 100_000_000_005);
        assert_eq!(shifted.monotonic_ns(), 5);
    }
}
