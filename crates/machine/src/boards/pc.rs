//! QEMU's `pc`: i440FX and PIIX.

use super::{BoardKind, HotplugKind, Link, LowRam, PciKind, Power, link};
use devices::acpi_pm::PIIX4_GPE0;
use devices::hotplug::{PIIX4_PROCESSORS, PIIX4_SLOTS};
use devices::pci::{PC_CHIPS, PIRQ_IRQ, PM_FUNCTION, piix_pirq};

/// The last is for the chips in slot 1, whose power management raises the SCI.
const LINKS: [Link; 5] = [
    link("LNKA", 0, PIRQ_IRQ[0]),
    link("LNKB", 1, PIRQ_IRQ[1]),
    link("LNKC", 2, PIRQ_IRQ[2]),
    link("LNKD", 3, PIRQ_IRQ[3]),
    link("LNKS", 4, 9),
];

fn routing(slot: u8, pin: u8) -> usize {
    match (slot, pin) {
        (1, 1) => 4,
        _ => piix_pirq(slot, pin),
    }
}

/// The board.
pub static PC: BoardKind = BoardKind {
    name: "pc",
    family: "pc-i440fx",
    help: "Standard PC (i440FX + PIIX, 1996)",
    low_ram: LowRam {
        whole: 0xe000_0000,
        split: 0xc000_0000,
    },
    reserved: &[],
    power: Power::Fixed(PIIX4_GPE0),
    legacy: true,
    pci: Some(PciKind {
        bus: "pci.0",
        chips: &PC_CHIPS,
        ecam: None,
        memory_first: 0,
        pirqs: 4,
        pirq: piix_pirq,
        apic_first: None,
        own_line: Some(PM_FUNCTION),
        links: &LINKS,
        routing: &[routing],
    }),
    mmio: None,
    hotplug: Some(HotplugKind {
        slots: PIIX4_SLOTS,
        processors: PIIX4_PROCESSORS,
        root: true,
    }),
};
