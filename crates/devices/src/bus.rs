//! Port and MMIO buses: ranges of addresses, each owned by one device.
//!
//! Reads that no device claims float high: all bits 1, as on a PC.

use crate::Effect;
use std::sync::Arc;

/// A device behind I/O ports. `offset` counts from the start of its range.
pub trait PortDevice: Send + Sync {
    /// Widest access in bytes that reaches the device whole (1, 2, 4); the
    /// bus splits wider ones into bytes, as an 8-bit ISA card sees them.
    fn max_width(&self) -> u8 {
        1
    }
    /// Reads `size` bytes; higher bytes of the result are ignored.
    fn read(&self, offset: u16, size: u8) -> u32;
    /// Writes the low `size` bytes of `value`.
    fn write(&self, offset: u16, size: u8, value: u32) -> Option<Effect>;
}

/// A device behind guest-physical addresses.
pub trait MmioDevice: Send + Sync {
    /// Reads `size` (1..=8) bytes.
    fn read(&self, offset: u64, size: u8) -> u64;
    /// Writes the low `size` bytes of `value`.
    fn write(&self, offset: u64, size: u8, value: u64) -> Option<Effect>;
}

/// Ranges that move while the machine runs. A bus asks for what no fixed
/// range claims; an access is offered whole first, then byte by byte.
pub trait Decoder: Send + Sync {
    /// Reads ports, if they are decoded.
    fn port_read(&self, port: u16, size: u8) -> Option<u32>;
    /// Writes ports, if they are decoded.
    fn port_write(&self, port: u16, size: u8, value: u32) -> Claim;
    /// Reads memory, if it is decoded.
    fn memory_read(&self, gpa: u64, size: u8) -> Option<u64>;
    /// Writes memory, if it is decoded.
    fn memory_write(&self, gpa: u64, size: u8, value: u64) -> Claim;
}

/// Whether a [`Decoder`] took a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It did.
    Done(Option<Effect>),
    /// The address is nobody's.
    NotMine,
}

/// A range that cannot be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusError {
    /// Empty, or past the end of the address space.
    BadRange,
    /// Part of it belongs to another device.
    Overlap,
}

/// What an absent device answers to a read of `size` bytes.
pub const fn all_ones(size: u8) -> u64 {
    match size {
        0 => 0,
        1..=7 => (1 << (size as u32 * 8)) - 1,
        _ => u64::MAX,
    }
}

/// Ranges sorted by first address.
struct Map<D: ?Sized>(Vec<Range<D>>);

struct Range<D: ?Sized> {
    first: u64,
    last: u64,
    device: Arc<D>,
}

impl<D: ?Sized> Map<D> {
    fn insert(&mut self, first: u64, len: u64, max: u64, device: Arc<D>) -> Result<(), BusError> {
        let last = len
            .checked_sub(1)
            .and_then(|n| first.checked_add(n))
            .filter(|&last| last <= max)
            .ok_or(BusError::BadRange)?;
        let at = self.0.partition_point(|r| r.first <= last);
        if at > 0 && self.0[at - 1].last >= first {
            return Err(BusError::Overlap);
        }
        self.0.insert(
            at,
            Range {
                first,
                last,
                device,
            },
        );
        Ok(())
    }

    fn find(&self, addr: u64) -> Option<&Range<D>> {
        let at = self.0.partition_point(|r| r.first <= addr);
        self.0[..at].last().filter(|r| addr <= r.last)
    }
}

/// The 64 Ki I/O ports.
pub struct PortBus {
    fixed: Map<dyn PortDevice>,
    moving: Option<Arc<dyn Decoder>>,
}

impl Default for PortBus {
    fn default() -> Self {
        Self {
            fixed: Map(Vec::new()),
            moving: None,
        }
    }
}

impl PortBus {
    /// A bus without devices.
    pub fn new() -> Self {
        Self::default()
    }

    /// Who is asked for ports that no device was given.
    pub fn set_decoder(&mut self, decoder: Arc<dyn Decoder>) {
        self.moving = Some(decoder);
    }

    /// Gives `len` ports from `first` to a device.
    pub fn register(
        &mut self,
        first: u16,
        len: u16,
        device: Arc<dyn PortDevice>,
    ) -> Result<(), BusError> {
        self.fixed.insert(first.into(), len.into(), 0xffff, device)
    }

    /// An IN of `size` (1, 2, 4) bytes.
    pub fn read(&self, port: u16, size: u8) -> u32 {
        if let Some(value) = self.read_whole(port, size) {
            return value & all_ones(size) as u32;
        }
        (0..size).fold(0, |value, i| {
            let byte = self.read_whole(port.wrapping_add(i.into()), 1);
            value | (byte.unwrap_or(0xff) & 0xff) << (8 * i)
        })
    }

    /// An OUT of `size` (1, 2, 4) bytes; the first effect of its bytes wins.
    pub fn write(&self, port: u16, size: u8, value: u32) -> Option<Effect> {
        let value = value & all_ones(size) as u32;
        if let Claim::Done(effect) = self.write_whole(port, size, value) {
            return effect;
        }
        let mut effect = None;
        for i in 0..size {
            let byte = value >> (8 * i) & 0xff;
            if let Claim::Done(done) = self.write_whole(port.wrapping_add(i.into()), 1, byte) {
                effect = effect.or(done);
            }
        }
        effect
    }

    fn read_whole(&self, port: u16, size: u8) -> Option<u32> {
        match self.whole(port, size) {
            Some((device, offset)) => Some(device.read(offset, size)),
            None => self.moving.as_ref()?.port_read(port, size),
        }
    }

    fn write_whole(&self, port: u16, size: u8, value: u32) -> Claim {
        match (self.whole(port, size), &self.moving) {
            (Some((device, offset)), _) => Claim::Done(device.write(offset, size, value)),
            (None, Some(moving)) => moving.port_write(port, size, value),
            (None, None) => Claim::NotMine,
        }
    }

    /// The device that takes this access in one piece.
    fn whole(&self, port: u16, size: u8) -> Option<(&dyn PortDevice, u16)> {
        let range = self.fixed.find(port.into())?;
        let inside = u64::from(port) + u64::from(size) - 1 <= range.last;
        let takes = size == 1 || (inside && size <= range.device.max_width());
        takes.then(|| (&*range.device, port - range.first as u16))
    }
}

/// Guest-physical addresses without memory.
pub struct MmioBus {
    fixed: Map<dyn MmioDevice>,
    moving: Option<Arc<dyn Decoder>>,
}

impl Default for MmioBus {
    fn default() -> Self {
        Self {
            fixed: Map(Vec::new()),
            moving: None,
        }
    }
}

impl MmioBus {
    /// A bus without devices.
    pub fn new() -> Self {
        Self::default()
    }

    /// Who is asked for addresses that no device was given.
    pub fn set_decoder(&mut self, decoder: Arc<dyn Decoder>) {
        self.moving = Some(decoder);
    }

    /// Gives `len` bytes from `first` to a device.
    pub fn register(
        &mut self,
        first: u64,
        len: u64,
        device: Arc<dyn MmioDevice>,
    ) -> Result<(), BusError> {
        self.fixed.insert(first, len, u64::MAX, device)
    }

    /// A read of `size` (1..=8) bytes; one that leaves its range floats high.
    pub fn read(&self, gpa: u64, size: u8) -> u64 {
        let value = match (self.whole(gpa, size), &self.moving) {
            (Some((device, offset)), _) => Some(device.read(offset, size)),
            (None, Some(moving)) => moving.memory_read(gpa, size),
            (None, None) => None,
        };
        value.unwrap_or(u64::MAX) & all_ones(size)
    }

    /// A write of `size` (1..=8) bytes.
    pub fn write(&self, gpa: u64, size: u8, value: u64) -> Option<Effect> {
        let value = value & all_ones(size);
        let claim = match (self.whole(gpa, size), &self.moving) {
            (Some((device, offset)), _) => Claim::Done(device.write(offset, size, value)),
            (None, Some(moving)) => moving.memory_write(gpa, size, value),
            (None, None) => Claim::NotMine,
        };
        match claim {
            Claim::Done(effect) => effect,
            Claim::NotMine => None,
        }
    }

    fn whole(&self, gpa: u64, size: u8) -> Option<(&dyn MmioDevice, u64)> {
        let range = self.fixed.find(gpa)?;
        let last = gpa.checked_add(u64::from(size).checked_sub(1)?)?;
        (last <= range.last).then(|| (&*range.device, gpa - range.first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    struct Recorder {
        width: u8,
        log: Mutex<Vec<(u16, u8, u32)>>,
    }

    impl Recorder {
        fn new(width: u8) -> Arc<Self> {
            let log = Mutex::new(Vec::new());
            Arc::new(Self { width, log })
        }
    }

    impl PortDevice for Recorder {
        fn max_width(&self) -> u8 {
            self.width
        }
        fn read(&self, offset: u16, _size: u8) -> u32 {
            0xa0 + u32::from(offset)
        }
        fn write(&self, offset: u16, size: u8, value: u32) -> Option<Effect> {
            self.log.lock().unwrap().push((offset, size, value));
            (value & 0xff == 0x99).then_some(Effect::Reset)
        }
    }

    #[test]
    fn unclaimed_reads_float_high() {
        let bus = PortBus::new();
        assert_eq!(bus.read(0xcfc, 4), 0xffff_ffff);
        assert_eq!(bus.read(0xffff, 1), 0xff);
        assert_eq!(MmioBus::new().read(0xb8000, 8), u64::MAX);
        assert_eq!(MmioBus::new().read(0xb8000, 2), 0xffff);
    }

    #[test]
    fn wide_access_is_split_for_byte_devices() {
        let device = Recorder::new(1);
        let mut bus = PortBus::new();
        bus.register(0x70, 2, device.clone()).unwrap();
        assert_eq!(bus.read(0x70, 2), 0xa1a0);
        // The upper two bytes lie outside the range.
        assert_eq!(bus.read(0x70, 4), 0xffff_a1a0);
        assert_eq!(bus.write(0x70, 2, 0x9911), Some(Effect::Reset));
        assert_eq!(*device.log.lock().unwrap(), [(0, 1, 0x11), (1, 1, 0x99)]);
    }

    #[test]
    fn wide_access_reaches_wide_devices_whole() {
        let device = Recorder::new(4);
        let mut bus = PortBus::new();
        bus.register(0x600, 8, device.clone()).unwrap();
        bus.write(0x604, 2, 0xffff_3400);
        assert_eq!(*device.log.lock().unwrap(), [(4, 2, 0x3400)]);
    }

    #[test]
    fn ranges_may_touch_but_not_overlap() {
        let mut bus = PortBus::new();
        bus.register(0x60, 1, Recorder::new(1)).unwrap();
        bus.register(0x64, 1, Recorder::new(1)).unwrap();
        bus.register(0x61, 3, Recorder::new(1)).unwrap();
        let taken = bus.register(0x5f, 0x10, Recorder::new(1));
        assert_eq!(taken, Err(BusError::Overlap));
        assert_eq!(
            bus.register(0x80, 0, Recorder::new(1)),
            Err(BusError::BadRange)
        );
        assert_eq!(
            bus.register(0xffff, 2, Recorder::new(1)),
            Err(BusError::BadRange)
        );
        bus.register(0xffff, 1, Recorder::new(1)).unwrap();
        // An access that wraps from the last port to port 0 does not panic.
        assert_eq!(bus.read(0xffff, 4), 0xffff_ffa0);
    }
}
