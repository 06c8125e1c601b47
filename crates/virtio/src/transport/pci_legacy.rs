//! The legacy register block in BAR 0 (virtio 1.2, 4.1.4.10) on top of
//! [`Setup`]: one 32-bit feature word, queues given by page number.

use super::pci_registers::queue_vector;
use super::setup::{NO_VECTOR, Setup, Signals};
use std::sync::atomic::Ordering;

/// Offsets of the registers in front of the device's configuration.
pub(super) mod at {
    pub const DEVICE_FEATURES: u64 = 0x00;
    pub const DRIVER_FEATURES: u64 = 0x04;
    pub const QUEUE_PFN: u64 = 0x08;
    pub const QUEUE_SIZE: u64 = 0x0c;
    pub const QUEUE_SELECT: u64 = 0x0e;
    pub const QUEUE_NOTIFY: u64 = 0x10;
    pub const STATUS: u64 = 0x12;
    pub const ISR: u64 = 0x13;
    /// With MSI-X on; otherwise the device's configuration begins here.
    pub const CONFIG_VECTOR: u64 = 0x14;
    pub const QUEUE_VECTOR: u64 = 0x16;
    pub const CONFIG_WITH_MSIX: u64 = 0x18;
}

/// Rings lie in pages of this size, the used ring at the start of one.
const PAGE: u64 = 4096;

/// Where the device's configuration begins.
pub(super) const fn config_offset(msix: bool) -> u64 {
    match msix {
        true => at::CONFIG_WITH_MSIX,
        false => at::CONFIG_VECTOR,
    }
}

/// Reads a register other than the ISR, below [`config_offset`].
pub(super) fn read(common: &mut Setup, signals: &Signals, offset: u64) -> u64 {
    match offset {
        at::DEVICE_FEATURES => {
            common.device_feature_select = 0;
            common.device_features().into()
        }
        at::DRIVER_FEATURES => {
            common.driver_feature_select = 0;
            common.driver_features().into()
        }
        at::QUEUE_PFN if common.queue().enabled => common.queue().rings[0] / PAGE,
        at::QUEUE_SIZE => common.queue().max_size.into(),
        at::QUEUE_SELECT => common.queue_select.into(),
        at::STATUS => signals.status().into(),
        at::CONFIG_VECTOR => signals.config_vector.load(Ordering::Relaxed).into(),
        at::QUEUE_VECTOR => queue_vector(common, signals)
            .map_or(NO_VECTOR, |v| v.load(Ordering::Relaxed))
            .into(),
        _ => 0,
    }
}

/// Writes a register other than status and notification.
pub(super) fn write(common: &mut Setup, signals: &Signals, vectors: u16, offset: u64, value: u64) {
    let exists = |v: u64| {
        if v < vectors.into() {
            v as u16
        } else {
            NO_VECTOR
        }
    };
    match offset {
        at::DRIVER_FEATURES => {
            common.driver_feature_select = 0;
            common.set_driver_features(value as u32);
        }
        at::QUEUE_PFN => set_page(common, value as u32),
        at::QUEUE_SELECT => common.queue_select = value as u16,
        at::CONFIG_VECTOR => signals
            .config_vector
            .store(exists(value), Ordering::Relaxed),
        at::QUEUE_VECTOR => {
            if let Some(vector) = queue_vector(common, signals) {
                vector.store(exists(value), Ordering::Relaxed);
            }
        }
        _ => {}
    }
}

/// The layout of 2.7.2: descriptors, available ring, then the used ring on
/// the next page.
fn set_page(common: &mut Setup, page: u32) {
    if let Some(queue) = common.queue_mut() {
        let size = u64::from(queue.max_size);
        let descriptors = u64::from(page) * PAGE;
        let available = descriptors + 16 * size;
        let used = (available + 6 + 2 * size).next_multiple_of(PAGE);
        queue.size = queue.max_size;
        queue.rings = [descriptors, available, used];
        queue.enabled = page != 0;
    }
}
