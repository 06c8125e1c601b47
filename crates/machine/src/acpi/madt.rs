//! Multiple APIC Description Table (ACPI 5.2.12).

use super::{Description, OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::boards::Power;
use crate::layout::{IOAPIC, LAPIC};
use acpi_tables::sdt::Sdt;

/// PC-compatible: there is a pair of 8259s too.
const PCAT_COMPAT: u32 = 1;
const ENABLED: u32 = 1;
/// Not there, but may come.
const ONLINE_CAPABLE: u32 = 2;
/// MPS INTI flags: level-triggered, active high (table 5.26).
const LEVEL_HIGH: u16 = 0x000d;
const CONFORMING: u16 = 0;
/// "All processors" in an NMI row.
const ALL_PROCESSORS: u8 = 0xff;
const NMI_LINT: u8 = 1;

/// ISA interrupts whose GSI or trigger mode differs: source, GSI, flags.
/// The last three are for PCI's interrupts, as in QEMU's table.
const OVERRIDES: [(u8, u32, u16); 5] = [
    (0, 2, CONFORMING),
    (9, 9, LEVEL_HIGH),
    (5, 5, LEVEL_HIGH),
    (10, 10, LEVEL_HIGH),
    (11, 11, LEVEL_HIGH),
];

/// A MADT for the processors; a processor's ACPI id is its number.
pub fn build(description: &Description<'_>) -> Sdt {
    let mut madt = Sdt::new(*b"APIC", 36, 3, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    madt.append_slice(&LAPIC.to_le_bytes());
    madt.append_slice(&PCAT_COMPAT.to_le_bytes());
    for (number, id) in description.topology.apic_ids().enumerate() {
        madt.append_slice(&[0, 8, number as u8, id as u8]);
        let flags = match description.absent.contains(&(number as u32)) {
            true => ONLINE_CAPABLE,
            false => ENABLED,
        };
        madt.append_slice(&flags.to_le_bytes());
    }
    madt.append_slice(&[1, 12, 0, 0]);
    madt.append_slice(&IOAPIC.to_le_bytes());
    madt.append_slice(&0u32.to_le_bytes());
    // The event device's interrupt is an edge on 9, and there is no PCI.
    let overrides = match description.board.power {
        Power::Fixed(_) => &OVERRIDES[..],
        Power::Reduced => &OVERRIDES[..1],
    };
    for &(source, gsi, flags) in overrides {
        madt.append_slice(&[2, 10, 0, source]);
        madt.append_slice(&gsi.to_le_bytes());
        madt.append_slice(&flags.to_le_bytes());
    }
    madt.append_slice(&[4, 6, ALL_PROCESSORS, 0, 0, NMI_LINT]);
    madt
}
