//! The host's hold on an adapter: its cable, and what went through it.

use crate::alarm::Alarm;
use crate::device::Interrupts;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The cable and its counters. They stay when the machine resets and its
/// devices are made anew; may be used from any thread.
#[derive(Default)]
pub struct LinkState {
    /// The cable is out.
    down: AtomicBool,
    /// The driver, if there is one. Nothing is called while it is locked.
    driver: Mutex<Option<Driver>>,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) not_sent: AtomicU64,
    pub(super) not_received: AtomicU64,
}

#[derive(Clone)]
struct Driver {
    interrupts: Arc<dyn Interrupts>,
    alarm: Arc<Alarm>,
}

/// Frames that an adapter has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// From the guest to the network.
    pub sent: u64,
    /// From the network to the guest.
    pub received: u64,
    /// From the guest, but dropped: the cable was out, or it made no sense.
    pub not_sent: u64,
    /// For the guest, but dropped: there was no room, or the cable was out.
    /// What the driver does not want is not counted.
    pub not_received: u64,
}

impl LinkState {
    /// The cable is plugged in, as it is at first.
    pub fn is_up(&self) -> bool {
        !self.down.load(Ordering::Acquire)
    }

    /// Plugs the cable in or out and tells the driver.
    pub fn set_up(&self, up: bool) {
        if self.down.swap(!up, Ordering::AcqRel) != up {
            return;
        }
        let driver = self.driver.lock().clone();
        if let Some(driver) = driver {
            driver.interrupts.config_changed();
            driver.alarm.raise();
        }
    }

    /// What went through so far.
    pub fn counters(&self) -> Counters {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            sent: value(&self.sent),
            received: value(&self.received),
            not_sent: value(&self.not_sent),
            not_received: value(&self.not_received),
        }
    }

    pub(super) fn attach(&self, interrupts: Arc<dyn Interrupts>, alarm: Arc<Alarm>) {
        *self.driver.lock() = Some(Driver { interrupts, alarm });
    }

    pub(super) fn detach(&self) {
        *self.driver.lock() = None;
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
