//! Fixed ACPI Description Table (ACPI 5.2.9).

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::boards::Power;
use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use devices::acpi_pm::{self, Gpe0Ports};
use devices::{ged, reset};

/// The SCI's ISA interrupt.
pub const SCI: u16 = 9;
/// CMOS register of the century.
const CENTURY: u8 = 0x32;
/// IA-PC boot architecture (table 5.10): legacy devices, an 8042, no VGA.
const LEGACY_DEVICES: u16 = 1 << 0;
const I8042: u16 = 1 << 1;
const NO_VGA: u16 = 1 << 2;
/// Value for the reset register: hard reset, now.
const RESET_VALUE: u8 = 0x0e;
/// Latencies beyond these say that C2 and C3 do not exist.
const NO_C2: u16 = 0xfff;
const NO_C3: u16 = 0xfff;

/// A table that points to the FACS and the DSDT. There is no SMI command
/// port: the machine is in ACPI mode from the start.
pub fn build(facs: u64, dsdt: u64, power: Power) -> FADT {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION).flag(Flags::ResetRegSup);
    // Both 32-bit pointers too: every table lies below 1 MiB.
    fadt.firmware_ctrl = (facs as u32).into();
    fadt.dsdt = (dsdt as u32).into();
    fadt.x_dsdt = dsdt.into();
    match power {
        Power::Fixed(gpe0) => fixed(fadt, gpe0),
        Power::Reduced => reduced(fadt),
    }
    .finalize()
}

fn port(address: u16, bits: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, bits, 0, access, address.into())
}

/// The registers of fixed hardware.
fn fixed(fadt: FADTBuilder, gpe0: Gpe0Ports) -> FADTBuilder {
    let mut fadt = fadt
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton);
    fadt.sci_int = SCI.into();
    fadt.pm1a_evt_blk = u32::from(acpi_pm::PM_BASE).into();
    fadt.pm1a_cnt_blk = u32::from(acpi_pm::PM_BASE + 4).into();
    fadt.pm_tmr_blk = u32::from(acpi_pm::PM_BASE + 8).into();
    fadt.gpe0_blk = u32::from(gpe0.base).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1_cnt_len = 2;
    fadt.pm_tmr_len = 4;
    fadt.gpe0_blk_len = gpe0.len as u8;
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    fadt.century = CENTURY;
    fadt.iapc_boot_arch = (LEGACY_DEVICES | I8042 | NO_VGA).into();
    fadt.reset_reg = port(reset::RESET_CONTROL_PORT, 8, AccessSize::ByteAccess);
    fadt.reset_value = RESET_VALUE;
    fadt.x_pm1a_evt_blk = port(acpi_pm::PM_BASE, 32, AccessSize::WordAccess);
    fadt.x_pm1a_cnt_blk = port(acpi_pm::PM_BASE + 4, 16, AccessSize::WordAccess);
    fadt.x_pm_tmr_blk = port(acpi_pm::PM_BASE + 8, 32, AccessSize::DwordAccess);
    let gpe0_bits = 8 * gpe0.len as u8;
    fadt.x_gpe0_blk = port(gpe0.base, gpe0_bits, AccessSize::ByteAccess);
    fadt
}

/// Those that hardware-reduced ACPI has instead.
fn reduced(fadt: FADTBuilder) -> FADTBuilder {
    let mut fadt = fadt.flag(Flags::HwReducedAcpi);
    let register = |offset| {
        let address = ged::REGISTERS + offset;
        GAS::new(
            AddressSpace::SystemMemory,
            8,
            0,
            AccessSize::ByteAccess,
            address,
        )
    };
    fadt.reset_reg = register(ged::RESET);
    fadt.reset_value = ged::RESET_VALUE;
    fadt.sleep_control_reg = register(ged::SLEEP_CONTROL);
    fadt.sleep_status_reg = register(ged::SLEEP_STATUS);
    fadt
}
