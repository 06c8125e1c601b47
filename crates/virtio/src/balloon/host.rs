//! The host's end of a balloon.

use crate::device::Interrupts;
use crate::doorbell::Doorbell;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of the configuration (5.5.4).
pub(super) const CONFIG_LEN: usize = 16;
/// Offsets in it; between them is the id of free-page hints.
const ACTUAL: usize = 4;
const POISON: usize = 12;

/// Bytes of a statistic in its buffer.
pub(super) const RECORD: usize = 10;

/// A number that the guest tells of itself (5.5.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistic {
    /// QEMU's name for it.
    pub name: &'static str,
    /// As the driver said; `None` if it did not.
    pub value: Option<u64>,
}

/// Their names, by tag. Sizes are in bytes.
pub(super) const STATISTICS: [&str; 16] = [
    "stat-swap-in",
    "stat-swap-out",
    "stat-major-faults",
    "stat-minor-faults",
    "stat-free-memory",
    "stat-total-memory",
    "stat-available-memory",
    "stat-disk-caches",
    "stat-htlb-pgalloc",
    "stat-htlb-pgfail",
    "stat-oom-kills",
    "stat-alloc-stalls",
    "stat-async-scans",
    "stat-direct-scans",
    "stat-async-reclaims",
    "stat-direct-reclaims",
];

/// The host's hold on a balloon: what it asks of it and hears from it. It
/// stays when the machine resets and its devices are made anew. Clones of the
/// `Arc` may be used from any thread.
#[derive(Default)]
pub struct Host {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Pages the balloon shall hold.
    target: u32,
    /// Pages it holds, as the driver says.
    actual: u32,
    /// What the driver fills free pages with.
    poison: u32,
    statistics: [Option<u64>; STATISTICS.len()],
    /// How many times they came.
    reports: u64,
    /// The driver shall send its statistics.
    poll: bool,
    /// The buffer for them goes back when the device stops.
    release: bool,
    interrupts: Option<Arc<dyn Interrupts>>,
    stats: Option<Arc<Doorbell>>,
}

impl Host {
    /// Asks the driver to take or to give back pages until the balloon holds
    /// `pages` of 4 KiB. It does so in its own time, if there is one.
    pub fn set_target(&self, pages: u32) {
        let interrupts = {
            let mut state = self.state.lock();
            state.target = pages;
            state.interrupts.clone()
        };
        if let Some(interrupts) = interrupts {
            interrupts.config_changed();
        }
    }

    /// Pages that the host asks for.
    pub fn target(&self) -> u32 {
        self.state.lock().target
    }

    /// Pages that the balloon holds, as its driver says.
    pub fn pages(&self) -> u32 {
        self.state.lock().actual
    }

    /// Waits until the balloon holds what was asked for; false if it does
    /// not in time.
    pub fn wait(&self, patience: Duration) -> bool {
        self.wait_until(patience, |state| state.actual == state.target)
    }

    fn wait_until(&self, patience: Duration, condition: impl Fn(&State) -> bool) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.state.lock();
        while !condition(&state) {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return false;
            }
        }
        true
    }

    /// Asks the driver for its statistics, which come later; false if there
    /// is no driver that has any.
    pub fn poll_statistics(&self) -> bool {
        let mut state = self.state.lock();
        state.poll = state.stats.is_some();
        let bell = state.stats.clone();
        drop(state);
        bell.as_ref().inspect(|bell| bell.ring()).is_some()
    }

    /// How many times statistics came.
    pub fn reports(&self) -> u64 {
        self.state.lock().reports
    }

    /// Waits until they came more than `before` times; false if they do not in
    /// time.
    pub fn wait_for_report(&self, before: u64, patience: Duration) -> bool {
        self.wait_until(patience, |state| state.reports > before)
    }

    /// The statistics that came last.
    pub fn statistics(&self) -> Vec<Statistic> {
        let values = self.state.lock().statistics;
        let rows = STATISTICS.iter().zip(values);
        rows.map(|(name, value)| Statistic { name, value })
            .collect()
    }

    pub(super) fn set_statistics(&self, records: &[u8]) {
        let mut state = self.state.lock();
        state.statistics = Default::default();
        for record in records.chunks_exact(RECORD) {
            let (tag, value) = record.split_at(2);
            let tag = tag.try_into().map_or(u16::MAX, u16::from_le_bytes);
            let value = value.try_into().map_or(0, u64::from_le_bytes);
            if let Some(place) = state.statistics.get_mut(usize::from(tag)) {
                *place = Some(value);
            }
        }
        state.reports += 1;
        self.changed.notify_all();
    }

    pub(super) fn take_poll(&self) -> bool {
        std::mem::take(&mut self.state.lock().poll)
    }

    pub(super) fn release_buffer(&self, on: bool) {
        self.state.lock().release = on;
    }

    pub(super) fn must_release_buffer(&self) -> bool {
        self.state.lock().release
    }

    pub(super) fn poison(&self) -> u32 {
        self.state.lock().poison
    }

    /// A driver is there.
    pub(super) fn attach(&self, interrupts: Arc<dyn Interrupts>, stats: Option<Arc<Doorbell>>) {
        let mut state = self.state.lock();
        state.interrupts = Some(interrupts);
        state.stats = stats;
    }

    /// It is gone.
    pub(super) fn detach(&self) {
        let mut state = self.state.lock();
        state.interrupts = None;
        state.stats = None;
        state.poll = false;
    }

    /// It is gone, and with it what it said.
    pub(super) fn reset(&self) {
        let mut state = self.state.lock();
        state.actual = 0;
        state.poison = 0;
        state.statistics = Default::default();
    }

    pub(super) fn config(&self) -> [u8; CONFIG_LEN] {
        let state = self.state.lock();
        let words = [state.target, state.actual, 0, state.poison];
        let mut config = [0; CONFIG_LEN];
        for (place, word) in config.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        config
    }

    /// The driver writes its two words; the rest is read-only.
    pub(super) fn write_config(&self, offset: usize, bytes: &[u8]) {
        let mut config = self.config();
        for (at, &byte) in (offset..).zip(bytes) {
            if matches!(at, ACTUAL..8 | POISON..CONFIG_LEN) {
                config[at] = byte;
            }
        }
        let word = |at: usize| {
            let bytes = config[at..at + 4].try_into();
            bytes.map_or(0, u32::from_le_bytes)
        };
        let mut state = self.state.lock();
        state.actual = word(ACTUAL);
        state.poison = word(POISON);
        self.changed.notify_all();
    }

    pub(super) fn save(&self) -> state::virtio::Balloon {
        let state = self.state.lock();
        state::virtio::Balloon {
            target: state.target,
            actual: state.actual,
            poison: state.poison,
        }
    }

    pub(super) fn restore(&self, saved: &state::virtio::Balloon) {
        let mut state = self.state.lock();
        state.target = saved.target;
        state.actual = saved.actual;
        state.poison = saved.poison;
    }
}
