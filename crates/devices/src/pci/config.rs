//! A function's configuration space (PCI Local Bus 3.0, 6; PCI Express Base
//! 3.0, 7.2): which bits can be written, base address registers, the capability
//! list.

mod saved;

use super::function::Window;

/// Bytes of a conventional configuration space.
pub const SIZE: usize = 256;
/// Bytes of a PCI Express function's.
pub const EXTENDED_SIZE: usize = 4096;

/// Offsets in a type 0 header (6.1), and in a bridge's, type 1 (PCI-to-PCI
/// Bridge Architecture 1.2, 3.2).
pub mod header {
    #![allow(missing_docs, reason = "the specification's names")]
    pub const VENDOR: usize = 0x00;
    pub const DEVICE: usize = 0x02;
    pub const COMMAND: usize = 0x04;
    pub const STATUS: usize = 0x06;
    pub const REVISION: usize = 0x08;
    pub const CLASS: usize = 0x09;
    pub const HEADER_TYPE: usize = 0x0e;
    pub const BARS: usize = 0x10;
    pub const PRIMARY_BUS: usize = 0x18;
    pub const SECONDARY_BUS: usize = 0x19;
    pub const SUBORDINATE_BUS: usize = 0x1a;
    pub const IO_BASE: usize = 0x1c;
    pub const IO_LIMIT: usize = 0x1d;
    pub const SECONDARY_STATUS: usize = 0x1e;
    pub const MEMORY_BASE: usize = 0x20;
    pub const MEMORY_LIMIT: usize = 0x22;
    pub const PREFETCH_BASE: usize = 0x24;
    pub const PREFETCH_LIMIT: usize = 0x26;
    pub const PREFETCH_BASE_UPPER: usize = 0x28;
    pub const PREFETCH_LIMIT_UPPER: usize = 0x2c;
    pub const SUBSYSTEM_VENDOR: usize = 0x2c;
    pub const SUBSYSTEM: usize = 0x2e;
    pub const CAPABILITIES: usize = 0x34;
    pub const INTERRUPT_LINE: usize = 0x3c;
    pub const INTERRUPT_PIN: usize = 0x3d;
    pub const BRIDGE_CONTROL: usize = 0x3e;
    /// First byte behind the header.
    pub const END: usize = 0x40;
}

/// Bits of the command register (6.2.2).
pub mod command {
    #![allow(missing_docs, reason = "the specification's names")]
    pub const IO: u16 = 1 << 0;
    pub const MEMORY: u16 = 1 << 1;
    pub const MASTER: u16 = 1 << 2;
    pub const PARITY: u16 = 1 << 6;
    pub const SERR: u16 = 1 << 8;
    pub const INTX_DISABLE: u16 = 1 << 10;
}

/// Command bits that exist here.
const COMMAND_BITS: u16 = command::IO
    | command::MEMORY
    | command::MASTER
    | command::PARITY
    | command::SERR
    | command::INTX_DISABLE;
/// Status: the function drives INTx; it has a capability list.
const STATUS_INTX: u8 = 1 << 3;
const STATUS_CAPABILITIES: u8 = 1 << 4;
/// Header type: the slot has more functions.
pub(super) const MULTIFUNCTION: u8 = 1 << 7;
const HEADER_BRIDGE: u8 = 1;
/// Bits of the bridge control register that can be written: parity, SERR, ISA
/// and VGA forwarding, master abort, reset of the bus, back-to-back transfers,
/// discard timers.
const BRIDGE_CONTROL_BITS: u16 = 0x0bff;
/// SERR of the bridge control register, as firmware sets it.
pub const BRIDGE_SERR: u16 = 1 << 1;
/// The prefetchable window has 64-bit addresses.
const PREFETCH_64: u8 = 1;

/// The two address spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// I/O ports.
    Io,
    /// Memory.
    Memory,
}

/// Kinds of base address registers (6.2.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// 32-bit memory.
    Memory32,
    /// 64-bit prefetchable memory; it takes the next register too.
    Memory64,
}

/// A base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// What it decodes.
    pub kind: BarKind,
    /// Bytes, a power of two; at least 4 ports or 16 bytes of memory.
    pub size: u64,
}

impl BarKind {
    /// The read-only low bits: space, width, prefetchable.
    const fn low_bits(self) -> u8 {
        match self {
            Self::Io => 0b1,
            Self::Memory32 => 0b0000,
            Self::Memory64 => 0b1100,
        }
    }
    /// Which space it decodes.
    pub const fn space(self) -> Space {
        match self {
            Self::Io => Space::Io,
            _ => Space::Memory,
        }
    }
}

/// What a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Revision id.
    pub revision: u8,
    /// Class, subclass and programming interface, from bit 23 down.
    pub class: u32,
    /// Subsystem vendor and device.
    pub subsystem: (u16, u16),
}

/// A configuration space.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: Vec<u8>,
    /// Bits the guest can change.
    writable: Vec<u8>,
    bars: [Option<Bar>; 6],
    /// First byte no capability occupies.
    free: usize,
}

impl ConfigSpace {
    /// A type 0 header without BARs, interrupt pin and capabilities.
    pub fn new(identity: &Identity) -> Self {
        let mut space = Self {
            bytes: vec![0; SIZE],
            writable: vec![0; SIZE],
            bars: [None; 6],
            free: header::END,
        };
        space.set(header::VENDOR, &identity.vendor.to_le_bytes());
        space.set(header::DEVICE, &identity.device.to_le_bytes());
        space.set(header::REVISION, &[identity.revision]);
        space.set(header::CLASS, &identity.class.to_le_bytes()[..3]);
        space.set(
            header::SUBSYSTEM_VENDOR,
            &identity.subsystem.0.to_le_bytes(),
        );
        space.set(header::SUBSYSTEM, &identity.subsystem.1.to_le_bytes());
        space.allow(header::COMMAND, &COMMAND_BITS.to_le_bytes());
        space.allow(header::INTERRUPT_LINE, &[0xff]);
        space
    }

    /// A type 1 header: a bridge whose windows are shut. It has no subsystem
    /// registers, and the upper halves of its port window do not exist.
    pub fn bridge(identity: &Identity) -> Self {
        let mut space = Self::new(&Identity {
            subsystem: (0, 0),
            ..*identity
        });
        space.set(header::HEADER_TYPE, &[HEADER_BRIDGE]);
        space.set(header::IO_BASE, &[0xf0]);
        space.set(header::MEMORY_BASE, &[0xf0, 0xff]);
        let prefetch = [0xf0 | PREFETCH_64, 0xff, PREFETCH_64, 0];
        space.set(header::PREFETCH_BASE, &prefetch);
        space.allow(header::PRIMARY_BUS, &[0xff; 3]);
        space.allow(header::IO_BASE, &[0xf0; 2]);
        space.allow(header::MEMORY_BASE, &[0xf0, 0xff, 0xf0, 0xff]);
        space.allow(header::PREFETCH_BASE, &[0xf0, 0xff, 0xf0, 0xff]);
        space.allow(header::PREFETCH_BASE_UPPER, &[0xff; 8]);
        space.allow(header::BRIDGE_CONTROL, &BRIDGE_CONTROL_BITS.to_le_bytes());
        space
    }

    /// Makes it a PCI Express function's, with no extended capabilities.
    pub fn extend(&mut self) {
        self.bytes.resize(EXTENDED_SIZE, 0);
        self.writable.resize(EXTENDED_SIZE, 0);
    }

    /// Puts bytes at a fixed place. Panics beyond the space: places are ours.
    pub fn set(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Lets the guest change the bits of `mask`.
    pub fn allow(&mut self, offset: usize, mask: &[u8]) {
        self.writable[offset..offset + mask.len()].copy_from_slice(mask);
    }

    /// Says that the slot has more functions.
    pub fn set_multifunction(&mut self) {
        self.bytes[header::HEADER_TYPE] |= MULTIFUNCTION;
    }

    /// Connects INTA (1) to INTD (4).
    pub fn set_interrupt_pin(&mut self, pin: u8) {
        self.bytes[header::INTERRUPT_PIN] = pin;
    }

    /// Adds base address register number `index`.
    pub fn add_bar(&mut self, index: u8, bar: Bar) {
        assert!(bar.size.is_power_of_two() && bar.size >= 16);
        let offset = header::BARS + 4 * usize::from(index);
        let mask = !(bar.size - 1);
        self.bars[usize::from(index)] = Some(bar);
        self.set(offset, &[bar.kind.low_bits(), 0, 0, 0]);
        self.allow(offset, &(mask as u32).to_le_bytes());
        if bar.kind == BarKind::Memory64 {
            self.allow(offset + 4, &((mask >> 32) as u32).to_le_bytes());
        }
    }

    /// Adds a capability in front of the list, as QEMU does: `body` follows
    /// its id and next pointer. Returns its offset.
    pub fn add_capability(&mut self, id: u8, body: &[u8]) -> usize {
        let at = self.free;
        let next = self.bytes[header::CAPABILITIES];
        self.set(at, &[id, next]);
        self.set(at + 2, body);
        self.bytes[header::CAPABILITIES] = at as u8;
        self.bytes[header::STATUS] |= STATUS_CAPABILITIES;
        self.free = (at + 2 + body.len()).next_multiple_of(4);
        at
    }

    /// Reads `size` bytes; beyond the space nothing answers, all bits are 1.
    pub fn read(&self, offset: u16, size: u8) -> u32 {
        (0..u16::from(size.min(4))).fold(0, |value, i| {
            let at = usize::from(offset) + usize::from(i);
            let byte = self.bytes.get(at).copied().unwrap_or(0xff);
            value | u32::from(byte) << (8 * i)
        })
    }

    /// Writes the changeable bits of `size` bytes.
    pub fn write(&mut self, offset: u16, size: u8, value: u32) {
        for i in 0..usize::from(size.min(4)) {
            let at = usize::from(offset) + i;
            if let (Some(byte), Some(&mask)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *byte = *byte & !mask | (value >> (8 * i)) as u8 & mask;
            }
        }
    }

    /// The command register.
    pub fn command(&self) -> u16 {
        self.read(header::COMMAND as u16, 2) as u16
    }

    /// Shows in the status register whether the function asks for INTx.
    /// Returns the level its pin has: low while the guest disabled it.
    pub fn drive_intx(&mut self, high: bool) -> bool {
        let status = &mut self.bytes[header::STATUS];
        *status = *status & !STATUS_INTX | if high { STATUS_INTX } else { 0 };
        high && self.command() & command::INTX_DISABLE == 0
    }

    /// The BARs by number.
    pub fn bars(&self) -> Vec<(u8, Bar)> {
        let numbered = (0u8..).zip(self.bars);
        numbered.filter_map(|(n, bar)| Some((n, bar?))).collect()
    }

    /// The ranges that are decoded now.
    pub fn windows(&self) -> Vec<Window> {
        let enabled = |space| match space {
            Space::Io => self.command() & command::IO != 0,
            Space::Memory => self.command() & command::MEMORY != 0,
        };
        let decoded = |(number, bar): (u8, Bar)| {
            let first = self.bar_address(number, bar);
            let last = first.checked_add(bar.size - 1)?;
            let space = bar.kind.space();
            let limit = match bar.kind {
                BarKind::Io => 0xffff,
                BarKind::Memory32 => u64::from(u32::MAX),
                BarKind::Memory64 => u64::MAX,
            };
            // Address 0 means that nobody has assigned one.
            let decodes = enabled(space) && first != 0 && last <= limit;
            decodes.then_some(Window {
                space,
                bar: number,
                first,
                last,
            })
        };
        self.bars().into_iter().filter_map(decoded).collect()
    }

    fn bar_address(&self, number: u8, bar: Bar) -> u64 {
        let offset = header::BARS as u16 + 4 * u16::from(number);
        let low = self.read(offset, 4) & !(bar.size - 1) as u32;
        match bar.kind {
            BarKind::Memory64 => u64::from(self.read(offset + 4, 4)) << 32 | u64::from(low),
            _ => low.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        let mut space = ConfigSpace::new(&Identity {
            vendor: 0x1af4,
            device: 0x1001,
            revision: 0,
            class: 0x01_00_00,
            subsystem: (0x1af4, 2),
        });
        let bar = |kind, size| Bar { kind, size };
        space.add_bar(0, bar(BarKind::Io, 0x80));
        space.add_bar(1, bar(BarKind::Memory32, 0x1000));
        space.add_bar(4, bar(BarKind::Memory64, 0x4000));
        space
    }

    #[test]
    fn bars_are_sized_as_the_specification_says() {
        let mut s = space();
        for offset in (0x10..0x28).step_by(4) {
            s.write(offset, 4, u32::MAX);
        }
        let read: Vec<u32> = (0x10..0x28).step_by(4).map(|o| s.read(o, 4)).collect();
        assert_eq!(
            read,
            [0xffff_ff81, 0xffff_f000, 0, 0, 0xffff_c00c, 0xffff_ffff]
        );
    }

    #[test]
    fn windows_follow_command_and_bars() {
        let mut s = space();
        assert!(s.windows().is_empty());
        s.write(4, 2, 0x7);
        assert!(s.windows().is_empty(), "nothing is assigned");
        s.write(0x10, 4, 0xc040);
        s.write(0x14, 4, 0xfebf_1000);
        s.write(0x20, 4, 0xfe00_0000);
        s.write(0x24, 4, 0x12);
        let window = |space, bar, first, last| Window {
            space,
            bar,
            first,
            last,
        };
        // A port BAR of 0x80 ports cannot start at 0xc040.
        let expected = [
            window(Space::Io, 0, 0xc000, 0xc07f),
            window(Space::Memory, 1, 0xfebf_1000, 0xfebf_1fff),
            window(Space::Memory, 4, 0x12_fe00_0000, 0x12_fe00_3fff),
        ];
        assert_eq!(s.windows(), expected);
        s.write(4, 1, 0x1);
        assert_eq!(s.windows(), expected[..1]);
        // Sizing leaves no window past the end of the space.
        s.write(4, 1, 0x3);
        for offset in (0x10..0x28).step_by(4) {
            s.write(offset, 4, u32::MAX);
        }
        assert!(s.windows().iter().all(|w| w.first <= w.last));
        assert!(!s.windows().iter().any(|w| w.space == Space::Io));
    }

    #[test]
    fn capabilities_are_listed_last_first() {
        let mut s = space();
        assert_eq!(s.read(0x06, 2) & 0x10, 0);
        assert_eq!(s.add_capability(9, &[0; 14]), 0x40);
        assert_eq!(s.add_capability(9, &[0; 18]), 0x50);
        assert_eq!(s.add_capability(0x11, &[0; 10]), 0x64);
        assert_eq!(s.read(0x34, 1), 0x64);
        assert_eq!(s.read(0x64, 2), 0x5011);
        assert_eq!(s.read(0x50, 2), 0x4009);
        assert_eq!(s.read(0x40, 2), 0x0009);
        assert_eq!(s.read(0x06, 2) & 0x10, 0x10);
    }

    #[test]
    fn ids_cannot_be_written_and_no_access_panics() {
        let mut s = space();
        for offset in 0..=u16::MAX {
            for size in [0, 1, 2, 4, 8, 255] {
                s.write(offset, size, u32::MAX);
                s.read(offset, size);
            }
        }
        assert_eq!(s.read(0, 4), 0x1001_1af4);
        assert_eq!(s.read(0x2c, 4), 0x0002_1af4);
        assert_eq!(s.command(), COMMAND_BITS);
    }

    #[test]
    fn intx_can_be_disabled() {
        let mut s = space();
        assert!(s.drive_intx(true));
        assert_eq!(s.read(0x06, 2) & 8, 8);
        s.write(4, 2, 0x400);
        assert!(!s.drive_intx(true));
        assert_eq!(s.read(0x06, 2) & 8, 8);
    }
}
