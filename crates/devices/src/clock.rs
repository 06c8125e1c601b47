//! Time as devices get it.

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
