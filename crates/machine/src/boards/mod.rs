//! The boards as data: one description each. What a board is made of beyond
//! its row (serial ports, RTC, 8042, interrupt controllers) all have in common.

mod microvm;
mod pc;
mod q35;

pub use microvm::MICROVM;
pub use pc::PC;
pub use q35::Q35;

use crate::mmio::{self, MmioPlace};
use devices::acpi_pm::Gpe0Ports;
use devices::pci::ChipRow;

/// A board.
#[derive(Debug)]
pub struct BoardKind {
    /// QEMU's short name.
    pub name: &'static str,
    /// What QEMU's versioned names begin with.
    pub family: &'static str,
    /// QEMU's description.
    pub help: &'static str,
    /// How RAM is split.
    pub low_ram: LowRam,
    /// Ranges that the memory map reserves beside those of every PC: first
    /// address, first address behind.
    pub reserved: &'static [(u64, u64)],
    /// How it sleeps and tells of the power button.
    pub power: Power,
    /// It has the 8042, the ports 0x92 and 0xcf9, and pvpanic.
    pub legacy: bool,
    /// Its PCI bus.
    pub pci: Option<PciKind>,
    /// Its places for virtio over MMIO.
    pub mmio: Option<MmioKind>,
    /// Registers for what is plugged in and out while it runs.
    pub hotplug: Option<HotplugKind>,
}

/// Where a board's registers of hot-plug are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HotplugKind {
    /// First port of those of PCI slots.
    pub slots: u16,
    /// First port of those of processors.
    pub processors: u16,
    /// The slots of the root bus take part; else only those of the buses
    /// behind its bridges.
    pub root: bool,
}

/// ACPI's hardware of a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// Fixed hardware, with general-purpose events.
    Fixed(Gpe0Ports),
    /// Hardware-reduced: the generic event device.
    Reduced,
}

/// Places for virtio over MMIO, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioKind {
    /// Guest-physical address of the first.
    pub first: u32,
    /// How many there are.
    pub count: u8,
    /// Interrupt of the first; the others follow.
    pub first_gsi: u32,
}

/// How much RAM lies below 4 GiB, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LowRam {
    /// Less than this lies there whole.
    pub whole: u64,
    /// How much of it if there is more.
    pub split: u64,
}

/// A board's PCI bus and chips.
#[derive(Debug)]
pub struct PciKind {
    /// Name of the root bus.
    pub bus: &'static str,
    /// Its chips.
    pub chips: &'static [ChipRow],
    /// First address of the window to configuration space, 256 MiB. Then the
    /// first chip is the bridge that decodes it, and the bus is PCI Express.
    pub ecam: Option<u64>,
    /// Lowest address for BARs, if RAM ends below.
    pub memory_first: u64,
    /// Number of PIRQ lines.
    pub pirqs: usize,
    /// The line that pin 1 to 4 of a slot is wired to.
    pub pirq: fn(u8, u8) -> usize,
    /// GSI of PIRQA's pin of the I/O APIC; the others follow.
    pub apic_first: Option<u32>,
    /// A function whose interrupt line register is its own.
    pub own_line: Option<(u8, u8)>,
    /// Interrupt links of the DSDT.
    pub links: &'static [Link],
    /// The routing tables of the DSDT. Of two, the first is for the 8259s, the
    /// second for the I/O APIC.
    pub routing: &'static [Routing],
}

/// An interrupt link (ACPI 6.2.13) with its one setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Four letters.
    pub name: &'static str,
    /// `_UID`.
    pub uid: u8,
    /// Global system interrupt.
    pub gsi: u8,
}

/// Index of the link that pin 1 to 4 of a slot reaches.
pub type Routing = fn(u8, u8) -> usize;

/// Length of the window to configuration space.
pub const ECAM_LEN: u64 = 256 << 20;

const fn link(name: &'static str, uid: u8, gsi: u8) -> Link {
    Link { name, uid, gsi }
}

/// Every board; the first is the default.
pub static BOARDS: [&BoardKind; 3] = [&PC, &Q35, &MICROVM];

/// QEMU's version whose boards these are.
pub const QEMU_VERSION: &str = "10.0";

impl BoardKind {
    /// The board with a name: its short one, or QEMU's with its version.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        let matches = |board: &&&'static Self| board.name == name || board.versioned() == name;
        BOARDS.iter().find(matches).copied()
    }

    /// QEMU's name with its version, if it has one.
    pub fn versioned(&self) -> String {
        match self.family == self.name {
            true => self.name.into(),
            false => format!("{}-{QEMU_VERSION}", self.family),
        }
    }

    /// The places that virtio devices take, in their order.
    pub fn mmio_places(&self, devices: usize) -> Vec<MmioPlace> {
        let kind = self.mmio.as_ref();
        kind.map_or(Vec::new(), |kind| mmio::places(kind, devices))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_qemus() {
        for (name, board) in [
            ("pc", "pc"),
            ("pc-i440fx-10.0", "pc"),
            ("q35", "q35"),
            ("pc-q35-10.0", "q35"),
        ] {
            assert_eq!(BoardKind::by_name(name).map(|b| b.name), Some(board));
        }
        for name in [
            "",
            "pc-",
            "pc-i440fx",
            "pc-q35-",
            "pc-q35-10.0.1",
            "isapc",
            "microvm-10.0",
        ] {
            assert!(BoardKind::by_name(name).is_none(), "{name}");
        }
    }

    #[test]
    fn every_pin_reaches_a_link_and_a_line() {
        let kinds = BOARDS
            .iter()
            .filter_map(|b| Some((b.name, b.pci.as_ref()?)));
        for (name, pci) in kinds {
            for (slot, pin) in (0..32).flat_map(|s| (1..=4).map(move |p| (s, p))) {
                assert!((pci.pirq)(slot, pin) < pci.pirqs, "{name} {slot} {pin}");
                for table in pci.routing {
                    assert!(table(slot, pin) < pci.links.len(), "{name} {slot} {pin}");
                }
            }
        }
    }
}
