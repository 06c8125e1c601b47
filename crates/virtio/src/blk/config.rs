//! The configuration structure (5.2.4).

use super::Options;
use disk::BlockDevice;

/// Bytes.
pub(super) const LEN: usize = 60;
/// Unit of all sector numbers (5.2.4).
pub(super) const SECTOR: u64 = 512;
/// Most sectors in one discard or write-zeroes segment: 2 GiB and less, so
/// that bytes fit 32 bits in any driver.
pub(super) const MAX_RANGE_SECTORS: u32 = (1 << 22) - 1;
/// Most segments of a discard or write-zeroes, as QEMU's.
pub(super) const MAX_SEGMENTS: u32 = 1;
const WRITEBACK: usize = 32;
/// Buffers of a request besides the data: header and status.
const OVERHEAD: u32 = 2;

/// The bytes.
pub(super) struct Config([u8; LEN]);

impl Config {
    pub(super) fn new(disk: &dyn BlockDevice, options: &Options) -> Self {
        let sizes = disk.block_sizes();
        let sectors = disk.len() / SECTOR;
        let logical = sizes.logical.max(SECTOR as u32);
        let exponent = (sizes.physical / logical).max(1).ilog2() as u8;
        // The geometry QEMU makes up: 16 heads of 63 sectors.
        let cylinders = (sectors / (16 * 63)).clamp(2, 16383) as u16;
        let discard_unit = (sizes.discard / SECTOR as u32).max(1);
        let mut config = Self([0; LEN]);
        let fields: [(usize, &[u8]); 14] = [
            (0, &sectors.to_le_bytes()),
            (
                12,
                &(u32::from(options.queue_size).saturating_sub(OVERHEAD)).to_le_bytes(),
            ),
            (16, &cylinders.to_le_bytes()),
            (18, &[16, 63]),
            (20, &logical.to_le_bytes()),
            (24, &[exponent, 0]),
            (34, &options.queues.to_le_bytes()),
            (36, &MAX_RANGE_SECTORS.to_le_bytes()),
            (40, &MAX_SEGMENTS.to_le_bytes()),
            (44, &discard_unit.to_le_bytes()),
            (48, &MAX_RANGE_SECTORS.to_le_bytes()),
            (52, &MAX_SEGMENTS.to_le_bytes()),
            (56, &[u8::from(options.discard)]),
            (WRITEBACK, &[u8::from(options.write_cache)]),
        ];
        for (at, bytes) in fields {
            config.0[at..at + bytes.len()].copy_from_slice(bytes);
        }
        config
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The disk has another size now.
    pub(super) fn set_len(&mut self, bytes: u64) {
        self.0[..8].copy_from_slice(&(bytes / SECTOR).to_le_bytes());
    }

    pub(super) fn set_write_cache(&mut self, on: bool) {
        self.0[WRITEBACK] = on.into();
    }

    /// A write by the driver; the new state of the write cache if it set
    /// that. Nothing else can be changed.
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) -> Option<bool> {
        let at = WRITEBACK.checked_sub(offset)?;
        let on = bytes.get(at)? & 1 != 0;
        self.set_write_cache(on);
        Some(on)
    }
}
