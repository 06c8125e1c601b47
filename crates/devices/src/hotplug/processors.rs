//! Processors: which are there, which came, which shall go, and the guest's
//! ejects.

use super::{Ejector, PROCESSORS_EVENT};
use crate::acpi_pm::AcpiPm;
use crate::{Effect, PortDevice};
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock, Weak};

/// First port of the registers with PIIX4.
pub const PIIX4_PROCESSORS: u16 = 0xaf00;
/// First port of the registers with ICH9.
pub const ICH9_PROCESSORS: u16 = 0x0cd8;
/// Ports of the registers.
pub const PROCESSORS_LEN: u16 = 12;

/// Offsets and widths in bytes.
mod at {
    /// Writing selects; reading is the upper half of what [`DATA`] shows.
    pub const SELECT: (u16, u8) = (0, 4);
    /// Status and control of the selected processor.
    pub const FLAGS: (u16, u8) = (4, 1);
    /// What [`DATA`] is.
    pub const COMMAND: (u16, u8) = (5, 1);
    /// Depends on the command.
    pub const DATA: (u16, u8) = (8, 4);
}

mod flag {
    pub const PRESENT: u8 = 1 << 0;
    /// It came and nobody has been told; writing 1 says that they were.
    pub const INSERTED: u8 = 1 << 1;
    /// Likewise: it shall go.
    pub const REMOVING: u8 = 1 << 2;
    /// Written: eject.
    pub const EJECT: u8 = 1 << 3;
}

mod command {
    /// Select the next processor with an event; data is its number.
    pub const NEXT: u8 = 0;
    /// Data is the APIC id.
    pub const ID: u8 = 3;
}

/// A processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Processor {
    apic_id: u32,
    pub(super) present: bool,
    pub(super) inserted: bool,
    pub(super) removing: bool,
}

impl Processor {
    fn has_event(&self) -> bool {
        self.inserted || self.removing
    }
}

/// The registers. The first processor is always there.
#[derive(Clone, Debug, Default)]
pub struct ProcessorsCore {
    pub(super) processors: Vec<Processor>,
    pub(super) selected: u32,
    pub(super) command: u8,
}

impl ProcessorsCore {
    /// For processors with these APIC ids, some of which are there.
    pub fn new(processors: impl IntoIterator<Item = (u32, bool)>) -> Self {
        let processor = |(apic_id, present)| Processor {
            apic_id,
            present,
            ..Processor::default()
        };
        Self {
            processors: processors.into_iter().map(processor).collect(),
            ..Self::default()
        }
    }

    fn selected(&self) -> Option<&Processor> {
        self.processors.get(self.selected as usize)
    }

    /// A processor came.
    pub fn plugged(&mut self, number: u32) {
        if let Some(processor) = self.processors.get_mut(number as usize) {
            processor.present = true;
            processor.inserted = true;
        }
    }

    /// A processor shall go.
    pub fn to_unplug(&mut self, number: u32) {
        if let Some(processor) = self.processors.get_mut(number as usize) {
            processor.removing = processor.present;
        }
    }

    /// Reads a register.
    pub fn read(&self, offset: u16, size: u8) -> u32 {
        let Some(processor) = self.selected() else {
            return 0;
        };
        let bit = |set, bit| if set { u32::from(bit) } else { 0 };
        match ((offset, size), self.command) {
            (at::FLAGS, _) => {
                bit(processor.present, flag::PRESENT)
                    | bit(processor.inserted, flag::INSERTED)
                    | bit(processor.removing, flag::REMOVING)
            }
            (at::DATA, command::NEXT) => self.selected,
            (at::DATA, command::ID) => processor.apic_id,
            _ => 0,
        }
    }

    /// Writes a register; returns the number of a processor that is ejected.
    pub fn write(&mut self, offset: u16, size: u8, value: u32) -> Option<u32> {
        let number = self.selected;
        match (offset, size) {
            at::SELECT => self.selected = value,
            at::COMMAND => self.set_command(value as u8),
            at::FLAGS => {
                let processor = self.processors.get_mut(number as usize)?;
                let written = |flag| value as u8 & flag != 0;
                processor.inserted &= !written(flag::INSERTED);
                processor.removing &= !written(flag::REMOVING);
                if written(flag::EJECT) && processor.present && number != 0 {
                    let apic_id = processor.apic_id;
                    *processor = Processor {
                        apic_id,
                        ..Processor::default()
                    };
                    return Some(number);
                }
            }
            _ => {}
        }
        None
    }

    /// A command that is not known, such as the guest's reports of how it went
    /// (`_OST`), shows no data.
    fn set_command(&mut self, command: u8) {
        self.command = command;
        if command != command::NEXT || self.selected().is_none() {
            return;
        }
        let count = self.processors.len();
        let first = self.selected as usize;
        let mut order = (first..count).chain(0..first);
        if let Some(next) = order.find(|&n| self.processors[n].has_event()) {
            self.selected = next as u32;
        }
    }
}

/// The registers on their ports.
pub struct ProcessorRegisters {
    pub(super) core: Mutex<ProcessorsCore>,
    pm: Arc<AcpiPm>,
    ejector: OnceLock<Weak<dyn Ejector>>,
}

impl ProcessorRegisters {
    /// Registers that raise the event at `pm`.
    pub fn new(core: ProcessorsCore, pm: Arc<AcpiPm>) -> Self {
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

    /// Tells the guest of a processor that came.
    pub fn plugged(&self, number: u32) {
        self.core.lock().plugged(number);
        self.pm.raise_event(PROCESSORS_EVENT);
    }

    /// Asks the guest to let go of a processor.
    pub fn to_unplug(&self, number: u32) {
        self.core.lock().to_unplug(number);
        self.pm.raise_event(PROCESSORS_EVENT);
    }
}

impl PortDevice for ProcessorRegisters {
    fn max_width(&self) -> u8 {
        4
    }

    fn read(&self, offset: u16, size: u8) -> u32 {
        self.core.lock().read(offset, size)
    }

    fn write(&self, offset: u16, size: u8, value: u32) -> Option<Effect> {
        let number = self.core.lock().write(offset, size, value)?;
        self.ejector.get()?.upgrade()?.eject_processor(number);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core() -> ProcessorsCore {
        ProcessorsCore::new([(0, true), (1, true), (4, false), (5, false)])
    }

    /// What the specification says an operating system does on an event
    /// (QEMU's docs/specs/acpi_cpu_hotplug).
    #[test]
    fn an_insertion_and_a_removal() {
        let mut core = core();
        core.write(0, 4, 2);
        assert_eq!(core.read(4, 1), 0);
        core.plugged(2);
        core.write(0, 4, 0);
        core.write(5, 1, 0);
        assert_eq!((core.read(8, 4), core.read(4, 1)), (2, 3));
        core.write(4, 1, 2);
        assert_eq!(core.read(4, 1), 1);
        core.write(5, 1, 3);
        assert_eq!((core.read(8, 4), core.read(0, 4)), (4, 0));
        core.to_unplug(2);
        core.write(0, 4, 3);
        core.write(5, 1, 0);
        assert_eq!((core.read(8, 4), core.read(4, 1)), (2, 5));
        assert_eq!(core.write(4, 1, 4), None);
        assert_eq!(core.read(4, 1), 1);
        assert_eq!(core.write(4, 1, 8), Some(2));
        assert_eq!((core.read(4, 1), core.write(4, 1, 8)), (0, None));
    }

    #[test]
    fn without_events_the_selection_stays() {
        let mut core = core();
        core.write(0, 4, 1);
        core.write(5, 1, 0);
        assert_eq!((core.read(8, 4), core.read(4, 1)), (1, 1));
        core.to_unplug(3);
        core.to_unplug(u32::MAX);
        core.plugged(4);
        core.write(5, 1, 0);
        assert_eq!(core.read(8, 4), 1, "nobody is there to go");
    }

    #[test]
    fn the_first_and_absent_ones_are_not_ejected() {
        let mut core = core();
        for (number, flags) in [(0, 1), (2, 0), (4, 0), (u32::MAX, 0)] {
            core.write(0, 4, number);
            assert_eq!(core.write(4, 1, 0xff), None);
            assert_eq!(core.read(4, 1), flags);
            core.write(5, 1, 0);
            core.write(5, 1, 9);
            assert_eq!(core.read(8, 4), 0);
        }
    }

    #[test]
    fn other_places_and_widths_are_nothing() {
        let mut core = core();
        core.write(0, 4, 1);
        let defined = [(0, 4), (4, 1), (5, 1), (8, 4)];
        let all = (0..16).flat_map(|offset| [1, 2, 4].map(|size| (offset, size)));
        for (offset, size) in all.filter(|place| !defined.contains(place)) {
            assert_eq!(core.write(offset, size, !0), None);
            assert_eq!(core.read(offset, size), 0);
        }
        assert_eq!((core.read(8, 4), core.read(4, 1)), (1, 1));
    }
}
