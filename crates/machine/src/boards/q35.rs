//! QEMU's `q35`: 82Q35 and ICH9.

use super::{BoardKind, ECAM_LEN, HotplugKind, Link, LowRam, PciKind, Power, link};
use devices::acpi_pm::ICH9_GPE0;
use devices::hotplug::{ICH9_PROCESSORS, ICH9_SLOTS};
use devices::pci::{ECAM_BASE, PIRQ_IRQ, Q35_CHIPS, ich9_pirq};

const PIRQS: usize = 8;
/// PIRQA's pin of the I/O APIC.
const APIC_FIRST: u8 = 16;

/// PIRQA to PIRQH as ISA interrupts, then as pins of the I/O APIC.
const LINKS: [Link; 2 * PIRQS] = [
    link("LNKA", 0, PIRQ_IRQ[0]),
    link("LNKB", 1, PIRQ_IRQ[1]),
    link("LNKC", 2, PIRQ_IRQ[2]),
    link("LNKD", 3, PIRQ_IRQ[3]),
    link("LNKE", 4, PIRQ_IRQ[0]),
    link("LNKF", 5, PIRQ_IRQ[1]),
    link("LNKG", 6, PIRQ_IRQ[2]),
    link("LNKH", 7, PIRQ_IRQ[3]),
    link("GSIA", 16, APIC_FIRST),
    link("GSIB", 17, APIC_FIRST + 1),
    link("GSIC", 18, APIC_FIRST + 2),
    link("GSID", 19, APIC_FIRST + 3),
    link("GSIE", 20, APIC_FIRST + 4),
    link("GSIF", 21, APIC_FIRST + 5),
    link("GSIG", 22, APIC_FIRST + 6),
    link("GSIH", 23, APIC_FIRST + 7),
];

fn apic_routing(slot: u8, pin: u8) -> usize {
    PIRQS + ich9_pirq(slot, pin)
}

/// The board.
pub static Q35: BoardKind = BoardKind {
    name: "q35",
    family: "pc-q35",
    help: "Standard PC (Q35 + ICH9, 2009)",
    low_ram: LowRam {
        whole: 0xb000_0000,
        split: 0x8000_0000,
    },
    // Configuration space, and the chipset's register block.
    reserved: &[
        (ECAM_BASE, ECAM_BASE + ECAM_LEN),
        (0xfed1_c000, 0xfed2_0000),
    ],
    power: Power::Fixed(ICH9_GPE0),
    legacy: true,
    pci: Some(PciKind {
        bus: "pcie.0",
        chips: &Q35_CHIPS,
        ecam: Some(ECAM_BASE),
        memory_first: ECAM_BASE + ECAM_LEN,
        pirqs: PIRQS,
        pirq: ich9_pirq,
        apic_first: Some(APIC_FIRST as u32),
        own_line: None,
        links: &LINKS,
        routing: &[ich9_pirq, apic_routing],
    }),
    mmio: None,
    // A PCI Express root has no slots, its ports have.
    hotplug: Some(HotplugKind {
        slots: ICH9_SLOTS,
        processors: ICH9_PROCESSORS,
        root: false,
    }),
};
