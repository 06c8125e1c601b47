//! Slots: which were filled, which shall be emptied, and the guest's ejects.

use super::{Ejector, SLOTS_EVENT};
use crate::acpi_pm::AcpiPm;
use crate::{Effect, PortDevice};
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock, Weak};

/// First port of the registers with PIIX4.
pub const PIIX4_SLOTS: u16 = 0xae00;
/// First port of the registers with ICH9.
pub const ICH9_SLOTS: u16 = 0x0cc0;
/// Ports of the registers.
pub const SLOTS_LEN: u16 = 0x14;

/// Registers, 32 bits each, a bit for each slot of the selected bus.
mod at {
    /// Slots that were filled; reading takes them.
    pub const UP: u16 = 0x00;
    /// Slots that shall be emptied; reading takes them.
    pub const DOWN: u16 = 0x04;
    /// Writing ejects. Reading: features beyond these registers; none.
    pub const EJECT: u16 = 0x08;
    /// Slots that can be ejected.
    pub const REMOVABLE: u16 = 0x0c;
    /// The bus.
    pub const SELECT: u16 = 0x10;
}

/// Slots of a bus, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slots {
    pub(super) up: u32,
    pub(super) down: u32,
    /// Those that can be filled and emptied.
    removable: u32,
}

/// The registers.
#[derive(Clone, Debug, Default)]
pub struct SlotsCore {
    pub(super) selected: u32,
    pub(super) buses: Vec<Slots>,
}

impl SlotsCore {
    /// For buses with these slots that can be filled and emptied, each by its
    /// place in the list.
    pub fn new(removable: impl IntoIterator<Item = u32>) -> Self {
        let slots = |removable| Slots {
            removable,
            ..Slots::default()
        };
        Self {
            selected: 0,
            buses: removable.into_iter().map(slots).collect(),
        }
    }

    fn removable(&mut self, bus: u32, slot: u8) -> Option<(&mut Slots, u32)> {
        let slots = self.buses.get_mut(bus as usize)?;
        let bit = 1u32.checked_shl(slot.into())?;
        (slots.removable & bit != 0).then_some((slots, bit))
    }

    /// A slot was filled; false if the guest cannot be told.
    pub fn filled(&mut self, bus: u32, slot: u8) -> bool {
        let found = self.removable(bus, slot);
        found.map(|(slots, bit)| slots.up |= bit).is_some()
    }

    /// A slot shall be emptied; false if the guest cannot be told.
    pub fn to_empty(&mut self, bus: u32, slot: u8) -> bool {
        let found = self.removable(bus, slot);
        found.map(|(slots, bit)| slots.down |= bit).is_some()
    }

    /// Reads a register. An event is told once: a guest that was told twice
    /// might eject what has come into the slot since.
    pub fn read(&mut self, offset: u16) -> u32 {
        let Some(slots) = self.buses.get_mut(self.selected as usize) else {
            return match offset {
                at::SELECT => self.selected,
                _ => 0,
            };
        };
        match offset {
            at::UP => std::mem::take(&mut slots.up),
            at::DOWN => std::mem::take(&mut slots.down),
            at::REMOVABLE => slots.removable,
            at::SELECT => self.selected,
            _ => 0,
        }
    }

    /// Writes a register; returns the bus and the slots that are ejected.
    pub fn write(&mut self, offset: u16, value: u32) -> Option<(u32, u32)> {
        match offset {
            at::SELECT => self.selected = value,
            at::EJECT => {
                let slots = self.buses.get_mut(self.selected as usize)?;
                let ejected = value & slots.removable;
                slots.up &= !ejected;
                slots.down &= !ejected;
                return Some((self.selected, ejected));
            }
            _ => {}
        }
        None
    }
}

/// The registers on their ports.
pub struct SlotRegisters {
    pub(super) core: Mutex<SlotsCore>,
    pm: Arc<AcpiPm>,
    ejector: OnceLock<Weak<dyn Ejector>>,
}

impl SlotRegisters {
    /// Registers that raise the event at `pm`.
    pub fn new(core: SlotsCore, pm: Arc<AcpiPm>) -> Self {
        Self {
            core: Mutex::new(core),
            pm,
            ejector: OnceLock::new(),
        }
    }

    /// Who ejects. Only the first call counts; before it nobody does.
    pub fn set_ejector(&self, ejector: Weak<dyn Ejector>) {
        let _ = self.ejector.set(ejector);
    }

    /// A slot was filled; false if the guest cannot be told.
    pub fn filled(&self, bus: u32, slot: u8) -> bool {
        let known = self.core.lock().filled(bus, slot);
        self.tell(known)
    }

    /// Asks the guest to let go of a slot; false if it cannot be told.
    pub fn to_empty(&self, bus: u32, slot: u8) -> bool {
        let known = self.core.lock().to_empty(bus, slot);
        self.tell(known)
    }

    fn tell(&self, known: bool) -> bool {
        if known {
            self.pm.raise_event(SLOTS_EVENT);
        }
        known
    }
}

impl PortDevice for SlotRegisters {
    fn max_width(&self) -> u8 {
        4
    }

    /// All registers are read and written whole.
    fn read(&self, offset: u16, size: u8) -> u32 {
        match size {
            4 => self.core.lock().read(offset),
            _ => 0,
        }
    }

    fn write(&self, offset: u16, size: u8, value: u32) -> Option<Effect> {
        let written = (size == 4).then(|| self.core.lock().write(offset, value));
        // Outside of the lock: an eject waits for the device's threads.
        let (bus, slots) = written.flatten()?;
        let ejector = self.ejector.get()?.upgrade()?;
        let chosen = (0..32).filter(|slot| slots & (1 << slot) != 0);
        chosen.for_each(|slot| ejector.eject_slot(bus, slot));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of QEMU's docs/specs/acpi_pci_hotplug.
    #[test]
    fn registers_are_the_specifications() {
        let mut core = SlotsCore::new([0xffff_fff8, 0, 1]);
        assert_eq!(core.read(0x0c), 0xffff_fff8);
        assert_eq!(core.read(0x08), 0, "no features");
        assert!(core.filled(0, 3) && core.to_empty(0, 31) && core.filled(2, 0));
        assert_eq!((core.read(0x00), core.read(0x04)), (8, 1 << 31));
        assert_eq!((core.read(0x00), core.read(0x04)), (0, 0));
        core.write(0x10, 2);
        assert_eq!((core.read(0x10), core.read(0x00)), (2, 1));
        assert_eq!(core.write(0x08, u32::MAX), Some((2, 1)));
    }

    #[test]
    fn an_eject_takes_what_was_told_of_the_slot() {
        let mut core = SlotsCore::new([!0]);
        assert!(core.filled(0, 5) && core.to_empty(0, 5) && core.filled(0, 6));
        assert_eq!(core.write(0x08, 1 << 5), Some((0, 1 << 5)));
        assert_eq!((core.read(0x00), core.read(0x04)), (1 << 6, 0));
    }

    #[test]
    fn what_is_not_there_cannot_be_told_of_or_ejected() {
        let mut core = SlotsCore::new([2]);
        assert!(!core.filled(0, 0) && !core.to_empty(1, 1) && !core.filled(0, 255));
        assert_eq!(core.write(0x08, !0), Some((0, 2)));
        for bus in [1, u32::MAX] {
            core.write(0x10, bus);
            assert_eq!(core.write(0x08, !0), None);
            let read: Vec<u32> = (0..5).map(|r| core.read(4 * r)).collect();
            assert_eq!(read, [0, 0, 0, 0, bus]);
        }
        core.write(0x10, 0);
        for offset in (0..0x20).filter(|o| ![0x08, 0x10].contains(o)) {
            assert_eq!(core.write(offset, !0), None);
        }
    }
}
