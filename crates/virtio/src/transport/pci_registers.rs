//! The common configuration structure of virtio over PCI (4.1.4.3) on top of
//! [`Setup`].

use super::setup::{NO_VECTOR, Setup, Signals};
use std::sync::atomic::{AtomicU16, Ordering};

/// Offsets; those of rings are of 64-bit registers.
mod at {
    pub const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub const DEVICE_FEATURE: u64 = 0x04;
    pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub const DRIVER_FEATURE: u64 = 0x0c;
    pub const CONFIG_VECTOR: u64 = 0x10;
    pub const NUM_QUEUES: u64 = 0x12;
    pub const STATUS: u64 = 0x14;
    pub const GENERATION: u64 = 0x15;
    pub const QUEUE_SELECT: u64 = 0x16;
    pub const QUEUE_SIZE: u64 = 0x18;
    pub const QUEUE_VECTOR: u64 = 0x1a;
    pub const QUEUE_ENABLE: u64 = 0x1c;
    pub const NOTIFY_OFF: u64 = 0x1e;
    pub const RINGS: u64 = 0x20;
    pub const END: u64 = 0x38;
}

/// The vector register of the selected queue.
pub(super) fn queue_vector<'a>(common: &Setup, signals: &'a Signals) -> Option<&'a AtomicU16> {
    signals.queue_vectors.get(usize::from(common.queue_select))
}

/// Reads a register; drivers use the width of each (4.1.3.1).
pub(super) fn read(common: &Setup, signals: &Signals, offset: u64, size: u8) -> u64 {
    let queue = common.queue();
    let vector = |v: &AtomicU16| u64::from(v.load(Ordering::Relaxed));
    match offset {
        at::DEVICE_FEATURE_SELECT => common.device_feature_select.into(),
        at::DEVICE_FEATURE => common.device_features().into(),
        at::DRIVER_FEATURE_SELECT => common.driver_feature_select.into(),
        at::DRIVER_FEATURE => common.driver_features().into(),
        at::CONFIG_VECTOR => vector(&signals.config_vector),
        at::NUM_QUEUES => common.queues().into(),
        at::STATUS => signals.status().into(),
        at::GENERATION => signals.generation.load(Ordering::Acquire).into(),
        at::QUEUE_SELECT => common.queue_select.into(),
        at::QUEUE_SIZE => queue.size.into(),
        at::QUEUE_VECTOR => queue_vector(common, signals).map_or(NO_VECTOR.into(), vector),
        at::QUEUE_ENABLE => queue.enabled.into(),
        // Queue number times the multiplier is its place.
        at::NOTIFY_OFF => common.queue_select.into(),
        at::RINGS..at::END => {
            let (ring, high) = ring_at(offset);
            match (size, high) {
                (4, true) => queue.rings[ring] >> 32,
                (4 | 8, false) => queue.rings[ring],
                _ => 0,
            }
        }
        _ => 0,
    }
}

/// Number of the ring and which half of its address.
fn ring_at(offset: u64) -> (usize, bool) {
    let ring = (offset - at::RINGS) / 8;
    (ring as usize % 3, offset % 8 == 4)
}

/// Writes a register other than the status. `vectors` is how many the
/// function has.
pub(super) fn write(
    common: &mut Setup,
    signals: &Signals,
    vectors: u16,
    (offset, size): (u64, u8),
    value: u64,
) {
    let exists = |v: u64| {
        if v < vectors.into() {
            v as u16
        } else {
            NO_VECTOR
        }
    };
    match offset {
        at::DEVICE_FEATURE_SELECT => common.device_feature_select = value as u32,
        at::DRIVER_FEATURE_SELECT => common.driver_feature_select = value as u32,
        at::DRIVER_FEATURE => common.set_driver_features(value as u32),
        at::CONFIG_VECTOR => signals
            .config_vector
            .store(exists(value), Ordering::Relaxed),
        at::QUEUE_SELECT => common.queue_select = value as u16,
        at::QUEUE_SIZE => common.set_queue_size(value),
        at::QUEUE_VECTOR => {
            if let Some(vector) = queue_vector(common, signals) {
                vector.store(exists(value), Ordering::Relaxed);
            }
        }
        at::QUEUE_ENABLE if value == 1 => {
            if let Some(queue) = common.queue_mut() {
                queue.enabled = true;
            }
        }
        at::RINGS..at::END => set_ring(common, (offset, size), value),
        _ => {}
    }
}

/// The offset of the status register.
pub(super) const STATUS: u64 = at::STATUS;

fn set_ring(common: &mut Setup, (offset, size): (u64, u8), value: u64) {
    let (ring, high) = ring_at(offset);
    let Some(queue) = common.queue_mut() else {
        return;
    };
    let address = &mut queue.rings[ring];
    match (size, high) {
        (8, false) => *address = value,
        (4, false) => *address = *address >> 32 << 32 | value & 0xffff_ffff,
        (4, true) => *address = value << 32 | *address & 0xffff_ffff,
        _ => {}
    }
}
