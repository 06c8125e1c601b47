//! The Q35 host bridge (Intel 3 series chipset datasheet, 5.1): PCIEXBAR says
//! where the configuration space of every function lies in memory (PCI Express
//! Base 3.0, 7.2.2).

use super::bus::PciRoot;
use super::chips::{Chip, ChipRow};
use super::config::Space;
use super::function::{Address, PciFunction, Window};
use crate::{Effect, Stateful, all_ones};
use std::sync::{Arc, OnceLock, Weak};

/// Offset of PCIEXBAR, 64 bits.
pub const PCIEXBAR: usize = 0x60;
const ENABLE: u64 = 1;
/// Bits 2:1: 256, 128 or 64 MiB, 1 MiB for each bus.
const LENGTH: u64 = 0b110;
/// Bits that can be changed: address bits 35 to 26, length, enable.
pub const PCIEXBAR_BITS: u64 = 0x000f_fc00_0007;
/// Bytes of a function's space, and of a bus.
const FUNCTION_SHIFT: u32 = 12;
const BUS_SHIFT: u32 = 20;
/// What [`PciFunction::windows`] calls the range; no BAR has this number.
const ECAM: u8 = 0xff;

/// The bridge. It needs the bus it is on.
pub struct Mch {
    chip: Chip,
    root: OnceLock<Weak<PciRoot>>,
}

impl Mch {
    /// As firmware leaves it.
    pub fn new(row: &ChipRow) -> Arc<Self> {
        Arc::new(Self {
            chip: Chip::new(row, None),
            root: OnceLock::new(),
        })
    }

    /// Says which bus the window shows. Only the first call counts.
    pub fn attach(&self, root: &Arc<PciRoot>) {
        let _ = self.root.set(Arc::downgrade(root));
    }

    fn root(&self) -> Option<Arc<PciRoot>> {
        self.root.get()?.upgrade()
    }

    fn window(&self) -> Option<Window> {
        let low = u64::from(self.chip.config_read(PCIEXBAR as u16, 4));
        let high = u64::from(self.chip.config_read(PCIEXBAR as u16 + 4, 4));
        let register = high << 32 | low;
        let len = match (register & LENGTH) >> 1 {
            0 => 256 << 20,
            1 => 128 << 20,
            2 => 64 << 20,
            _ => return None,
        };
        let first = register & PCIEXBAR_BITS & !(len - 1);
        (register & ENABLE != 0).then_some(Window {
            space: Space::Memory,
            bar: ECAM,
            first,
            last: first + (len - 1),
        })
    }
}

/// Bus, function and register of an offset in the window; accesses that leave
/// their dword are not defined and reach nothing.
fn target(offset: u64, size: u8) -> Option<(u8, Address, u16)> {
    let inside = offset % 4 + u64::from(size) <= 4 && size != 3;
    let bus = (offset >> BUS_SHIFT) as u8;
    let function = Address::from_devfn((offset >> FUNCTION_SHIFT) as u8);
    inside.then_some((bus, function, offset as u16 & 0xfff))
}

impl PciFunction for Mch {
    fn config_read(&self, offset: u16, size: u8) -> u32 {
        self.chip.config_read(offset, size)
    }

    fn config_write(&self, offset: u16, size: u8, value: u32) -> Option<Effect> {
        self.chip.config_write(offset, size, value)
    }

    fn stateful(&self) -> Option<&dyn Stateful> {
        self.chip.stateful()
    }

    fn windows(&self) -> Vec<Window> {
        self.window().into_iter().collect()
    }

    fn moves_windows(&self, offset: u16) -> bool {
        (PCIEXBAR..PCIEXBAR + 8).contains(&offset.into())
    }

    fn bar_read(&self, _bar: u8, offset: u64, size: u8) -> u64 {
        match (target(offset, size), self.root()) {
            (Some((bus, function, register)), Some(root)) => {
                root.config_read(bus, function, register, size).into()
            }
            _ => all_ones(size),
        }
    }

    fn bar_write(&self, _bar: u8, offset: u64, size: u8, value: u64) -> Option<Effect> {
        let (bus, function, register) = target(offset, size)?;
        let root = self.root()?;
        root.config_write(bus, function, register, size, value as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::super::bus::{BusId, tests::Scratch};
    use super::super::chips::Q35_CHIPS;
    use super::*;
    use crate::MmioBus;

    fn machine() -> (Arc<PciRoot>, MmioBus) {
        let mch = Mch::new(&Q35_CHIPS[0]);
        let root = PciRoot::new();
        root.plug((BusId::ROOT, Q35_CHIPS[0].address()), mch.clone())
            .unwrap();
        let slot = Address::new(3, 0).unwrap();
        root.plug((BusId::ROOT, slot), Scratch::new(0x5678))
            .unwrap();
        let root = Arc::new(root);
        mch.attach(&root);
        let mut mmio = MmioBus::new();
        mmio.set_decoder(root.clone());
        (root, mmio)
    }

    #[test]
    fn every_function_is_in_the_window() {
        let (root, mmio) = machine();
        assert_eq!(mmio.read(0xb000_0000, 4), 0x29c0_8086);
        assert_eq!(mmio.read(0xb000_0060, 4), 0xb000_0001);
        assert_eq!(mmio.read(0xb001_8002, 2), 0x5678);
        assert_eq!(mmio.read(0xb001_8100, 4), 0xffff_ffff, "256 bytes only");
        assert_eq!(mmio.read(0xb002_0000, 4), 0xffff_ffff, "no function");
        assert_eq!(mmio.read(0xb011_8000, 4), 0xffff_ffff, "no bus 1");
        mmio.write(0xb001_803c, 1, 9);
        let slot = Address::new(3, 0).unwrap();
        assert_eq!(root.config_read(0, slot, 0x3c, 1), 9);
        // Across a dword, and wider than one.
        assert_eq!(mmio.read(0xb001_8002, 4), 0xffff_ffff);
        assert_eq!(mmio.read(0xb001_8000, 8), u64::MAX);
    }

    #[test]
    fn the_window_follows_pciexbar() {
        let (root, mmio) = machine();
        let host = Address::new(0, 0).unwrap();
        let write = |offset, value| root.config_write(0, host, offset, 4, value);
        // 64 MiB at 0x4_ac000000.
        write(0x64, 4);
        write(0x60, 0xac00_0005);
        assert_eq!(mmio.read(0xb000_0000, 4), 0xffff_ffff);
        assert_eq!(mmio.read(0x4_ac00_0000, 4), 0x29c0_8086);
        assert_eq!(mmio.read(0x4_b000_0000, 4), 0xffff_ffff);
        // Through itself, and away.
        mmio.write(0x4_ac00_0060, 4, 0);
        assert_eq!(mmio.read(0x4_ac00_0000, 4), 0xffff_ffff);
        for value in [0b111, u32::MAX] {
            write(0x60, value);
            assert_eq!(mmio.read(0x4_ac00_0000, 4), 0xffff_ffff);
        }
    }
}
