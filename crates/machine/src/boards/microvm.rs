//! QEMU's `microvm` with ioapic2=off: no PCI, virtio over MMIO described in
//! ACPI, hardware-reduced.

use super::{BoardKind, LowRam, MmioKind, Power};

/// The board.
pub static MICROVM: BoardKind = BoardKind {
    name: "microvm",
    family: "microvm",
    help: "microvm (i386)",
    low_ram: LowRam {
        whole: 0xc000_0000,
        split: 0xc000_0000,
    },
    reserved: &[],
    power: Power::Reduced,
    legacy: false,
    pci: None,
    mmio: Some(MmioKind {
        first: 0xfeb0_0000,
        count: 8,
        first_gsi: 16,
    }),
    hotplug: None,
};
