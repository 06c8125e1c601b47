//! The host's hold on an adapter: its cable, and what went through it.

use super::control::Settings;
use super::filter::RxFilter;
use crate::alarm::Alarm;
use crate::device::Interrupts;
use parking_lot::{Mutex, RwLock};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// The cable and its counters. They stay when the machine resets and its
/// devices are made anew; may be used from any thread.
#[derive(Default)]
pub struct LinkState {
    /// The cable is out.
    down: AtomicBool,
    /// The network's end of it is.
    no_carrier: AtomicBool,
    /// The driver, if there is one. Nothing is called while it is locked.
    driver: Mutex<Option<Driver>>,
    /// What the adapter's driver set, while there is an adapter.
    settings: Mutex<Weak<RwLock<Settings>>>,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) not_sent: AtomicU64,
    pub(super) not_received: AtomicU64,
}

#[derive(Clone)]
struct Driver {
    interrupts: Arc<dyn Interrupts>,
    /// Its threads'.
    alarms: Vec<Arc<Alarm>>,
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
    /// The cable is plugged in at both ends, as it is at first.
    pub fn is_up(&self) -> bool {
        self.is_plugged() && !self.no_carrier.load(Ordering::Acquire)
    }

    /// The cable is plugged in at this end.
    pub(super) fn is_plugged(&self) -> bool {
        !self.down.load(Ordering::Acquire)
    }

    /// Plugs the cable in or out and tells the driver.
    pub fn set_up(&self, up: bool) {
        if self.down.swap(!up, Ordering::AcqRel) == up {
            self.tell();
        }
    }

    /// The same at the network's end.
    pub fn set_carrier(&self, carrier: bool) {
        if self.no_carrier.swap(!carrier, Ordering::AcqRel) == carrier {
            self.tell();
        }
    }

    fn tell(&self) {
        let driver = self.driver.lock().clone();
        if let Some(driver) = driver {
            driver.interrupts.config_changed();
            driver.alarms.iter().for_each(|alarm| alarm.raise());
        }
    }

    /// A frame went to the network, though not through an adapter.
    pub fn count_sent(&self) {
        count(&self.sent);
    }

    /// One came from it.
    pub fn count_received(&self) {
        count(&self.received);
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

    /// Which frames the driver wants; none if no adapter is on the network.
    pub fn rx_filter(&self) -> Option<RxFilter> {
        let settings = self.settings.lock().upgrade()?;
        let filter = settings.read().filter.view();
        Some(filter)
    }

    pub(super) fn set_settings(&self, settings: &Arc<RwLock<Settings>>) {
        *self.settings.lock() = Arc::downgrade(settings);
    }

    pub(super) fn attach(&self, interrupts: Arc<dyn Interrupts>, alarms: Vec<Arc<Alarm>>) {
        *self.driver.lock() = Some(Driver { interrupts, alarms });
    }

    pub(super) fn detach(&self) {
        *self.driver.lock() = None;
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
