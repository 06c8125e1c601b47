//! The chips of QEMU's `pc` as data: Intel 82441FX (i440FX) host bridge,
//! 82371SB (PIIX3) ISA bridge and 82371AB (PIIX4) power management. What they
//! do is done elsewhere ([`crate::acpi_pm`], the interrupt controllers); here
//! is what drivers read.

use super::config::{ConfigSpace, Identity, command, header};
use super::function::{Address, PciFunction};
use crate::{Effect, acpi_pm};
use parking_lot::Mutex;

/// One chip of a board.
#[derive(Debug)]
pub struct ChipRow {
    /// Slot and function.
    pub at: (u8, u8),
    identity: Identity,
    multifunction: bool,
    /// Interrupt pin and line; 0 for none.
    interrupt: (u8, u8),
    command: u16,
    status: u16,
    /// Registers behind the header: offset and contents.
    registers: &'static [(usize, &'static [u8])],
}

/// QEMU's subsystem id for chips that have none of their own.
const SUBSYSTEM: (u16, u16) = (0x1af4, 0x1100);
const INTEL: u16 = 0x8086;
/// As SeaBIOS leaves it.
const COMMAND: u16 = command::IO | command::MEMORY | command::SERR;
/// Status: DEVSEL medium; back-to-back transfers.
const MEDIUM: u16 = 0x0200;
const FAST_BACK: u16 = 0x0080;

/// Interrupts that PIRQA to PIRQD reach, as SeaBIOS programs PIIX3.
pub const PIRQ_GSI: [u8; 4] = [10, 10, 11, 11];
/// Number of the PIRQ that pin 1 to 4 of a slot is wired to.
pub const fn pirq(slot: u8, pin: u8) -> usize {
    (slot as usize + pin as usize + 2) % 4
}

/// Where the power management function is, whose interrupt is the SCI.
pub const PM_FUNCTION: (u8, u8) = (1, 3);

/// PIIX4 datasheet, 7.1.27: base of the PM ports, bit 0 says ports.
const PM_BASE: [u8; 4] = (acpi_pm::PM_BASE as u32 | 1).to_le_bytes();

/// The chips of `pc`.
pub const PC_CHIPS: [ChipRow; 3] = [
    ChipRow {
        at: (0, 0),
        identity: Identity {
            vendor: INTEL,
            device: 0x1237,
            revision: 2,
            class: 0x06_00_00,
            subsystem: SUBSYSTEM,
        },
        multifunction: false,
        interrupt: (0, 0),
        command: COMMAND,
        status: 0,
        registers: &[],
    },
    ChipRow {
        at: (1, 0),
        identity: Identity {
            vendor: INTEL,
            device: 0x7000,
            revision: 0,
            class: 0x06_01_00,
            subsystem: SUBSYSTEM,
        },
        multifunction: true,
        interrupt: (0, 0),
        command: COMMAND,
        status: MEDIUM,
        // PIRQ route control.
        registers: &[(0x60, &PIRQ_GSI)],
    },
    ChipRow {
        at: PM_FUNCTION,
        identity: Identity {
            vendor: INTEL,
            device: 0x7113,
            revision: 3,
            class: 0x06_80_00,
            subsystem: SUBSYSTEM,
        },
        multifunction: false,
        interrupt: (1, 9),
        command: COMMAND,
        status: MEDIUM | FAST_BACK,
        // PMBA; PMREGMISC: the PM ports are on.
        registers: &[(0x40, &PM_BASE), (0x80, &[1])],
    },
];

/// A chip on the bus.
#[derive(Debug)]
pub struct Chip(Mutex<ConfigSpace>);

impl Chip {
    /// As firmware leaves it.
    pub fn new(row: &ChipRow) -> Self {
        let mut config = ConfigSpace::new(&row.identity);
        config.set(header::COMMAND, &row.command.to_le_bytes());
        config.set(header::STATUS, &row.status.to_le_bytes());
        if row.multifunction {
            config.set_multifunction();
        }
        config.set_interrupt_pin(row.interrupt.0);
        config.set(header::INTERRUPT_LINE, &[row.interrupt.1]);
        for (offset, bytes) in row.registers {
            config.set(*offset, bytes);
        }
        Self(Mutex::new(config))
    }
}

impl ChipRow {
    /// Its place on the bus.
    pub fn address(&self) -> Address {
        Address::from_devfn(self.at.0 << 3 | self.at.1)
    }
}

impl PciFunction for Chip {
    fn config_read(&self, offset: u16, size: u8) -> u32 {
        self.0.lock().read(offset, size)
    }
    fn config_write(&self, offset: u16, size: u8, value: u32) -> Option<Effect> {
        self.0.lock().write(offset, size, value);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_qemus() {
        let ids = PC_CHIPS.map(|row| {
            let chip = Chip::new(&row);
            (row.address().to_string(), chip.config_read(0, 4))
        });
        let expected = [
            ("00.0".to_string(), 0x1237_8086),
            ("01.0".to_string(), 0x7000_8086),
            ("01.3".to_string(), 0x7113_8086),
        ];
        assert_eq!(ids, expected);
    }

    #[test]
    fn pins_are_swizzled_as_on_qemus_board() {
        // QEMU's pc: slot 3, pin A is PIRQC on IRQ 11; slot 5, pin A PIRQA.
        assert_eq!((pirq(3, 1), PIRQ_GSI[pirq(3, 1)]), (2, 11));
        assert_eq!((pirq(5, 1), pirq(5, 4), pirq(1, 1)), (0, 3, 0));
    }

    #[test]
    fn the_pm_function_says_where_its_ports_are() {
        let pm = Chip::new(&PC_CHIPS[2]);
        assert_eq!(pm.config_read(0x40, 4), 0x601);
        assert_eq!(pm.config_read(0x3c, 2), 0x0109);
        assert_eq!(pm.config_read(0x0e, 1), 0);
    }
}
