//! The chips of QEMU's boards as data. `pc`: Intel 82441FX (i440FX) host
//! bridge, 82371SB (PIIX3) ISA bridge and 82371AB (PIIX4) power management;
//! `q35`: 82Q35 memory controller hub and 82801IB (ICH9) LPC bridge. What they
//! do is done elsewhere ([`crate::acpi_pm`], [`PirqRouter`], the interrupt
//! controllers); here is what drivers read.

use super::config::{ConfigSpace, Identity, command, header};
use super::ecam::{PCIEXBAR, PCIEXBAR_BITS};
use super::function::{Address, PciFunction};
use super::pirq::PirqRouter;
use crate::{Effect, Stateful, acpi_pm};
use parking_lot::Mutex;
use state::{Image, Result};
use std::sync::Arc;

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
    /// Bits behind the header that the guest can change: offset and mask.
    writable: &'static [(usize, &'static [u8])],
    /// Offsets of the PIRQ route registers, PIRQA's first.
    routes: &'static [usize],
}

/// QEMU's subsystem id for chips that have none of their own.
const SUBSYSTEM: (u16, u16) = (0x1af4, 0x1100);
const INTEL: u16 = 0x8086;
/// As SeaBIOS leaves it.
const COMMAND: u16 = command::IO | command::MEMORY | command::SERR;
/// Status: DEVSEL medium; back-to-back transfers.
const MEDIUM: u16 = 0x0200;
const FAST_BACK: u16 = 0x0080;

/// Interrupts that PIRQA to PIRQD, and E to H, reach as SeaBIOS programs them.
pub const PIRQ_IRQ: [u8; 4] = [10, 10, 11, 11];
/// Bits of a PIRQ route register that exist.
const ROUTE_BITS: u8 = 0x8f;

/// `pc`: number of the PIRQ that pin 1 to 4 of a slot is wired to.
pub const fn piix_pirq(slot: u8, pin: u8) -> usize {
    (slot as usize + pin as usize + 2) % 4
}

/// `q35`: slots 25 to 29 and 31 are the chipset's own and use PIRQA to PIRQD,
/// pin by pin; the others use PIRQE to PIRQH, from slot to slot one further,
/// but slot 30, a bridge in the chipset.
pub const fn ich9_pirq(slot: u8, pin: u8) -> usize {
    let pin = (pin as usize + 3) % 4;
    match slot {
        25..=29 | 31 => pin,
        30 => 4 + pin,
        _ => 4 + (slot as usize + pin) % 4,
    }
}

/// Where the power management function of `pc` is, whose interrupt is the
/// SCI.
pub const PM_FUNCTION: (u8, u8) = (1, 3);

/// PIIX4 datasheet, 7.1.27: base of the PM ports, bit 0 says ports.
/// ICH9's PMBASE (13.1.13) is the same.
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
        writable: &[],
        routes: &[],
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
        registers: &[(0x60, &PIRQ_IRQ)],
        writable: &[(0x60, &[ROUTE_BITS; 4])],
        routes: &[0x60, 0x61, 0x62, 0x63],
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
        writable: &[],
        routes: &[],
    },
];

/// Where `q35`'s window to the configuration spaces begins.
pub const ECAM_BASE: u64 = 0xb000_0000;

/// The chips of `q35`; the first is an [`super::Mch`].
pub const Q35_CHIPS: [ChipRow; 2] = [
    ChipRow {
        at: (0, 0),
        identity: Identity {
            vendor: INTEL,
            device: 0x29c0,
            revision: 0,
            class: 0x06_00_00,
            subsystem: SUBSYSTEM,
        },
        multifunction: false,
        interrupt: (0, 0),
        command: COMMAND,
        status: 0,
        // On, 256 MiB.
        registers: &[(PCIEXBAR, &(ECAM_BASE | 1).to_le_bytes())],
        writable: &[(PCIEXBAR, &PCIEXBAR_BITS.to_le_bytes())],
        routes: &[],
    },
    ChipRow {
        at: (31, 0),
        identity: Identity {
            vendor: INTEL,
            device: 0x2918,
            revision: 2,
            class: 0x06_01_00,
            subsystem: SUBSYSTEM,
        },
        multifunction: true,
        interrupt: (0, 0),
        command: COMMAND,
        status: 0,
        // PMBASE; ACPI_CNTL: the PM ports are on; PIRQx_ROUT.
        registers: &[
            (0x40, &PM_BASE),
            (0x44, &[0x80]),
            (0x60, &PIRQ_IRQ),
            (0x68, &PIRQ_IRQ),
        ],
        writable: &[(0x60, &[ROUTE_BITS; 4]), (0x68, &[ROUTE_BITS; 4])],
        routes: &[0x60, 0x61, 0x62, 0x63, 0x68, 0x69, 0x6a, 0x6b],
    },
];

/// A chip on the bus.
pub struct Chip {
    config: Mutex<ConfigSpace>,
    /// What its route registers control.
    router: Option<Arc<PirqRouter>>,
    routes: &'static [usize],
}

impl Chip {
    /// As firmware leaves it. A chip with route registers controls `router`.
    pub fn new(row: &ChipRow, router: Option<Arc<PirqRouter>>) -> Self {
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
        for (offset, mask) in row.writable {
            config.allow(*offset, mask);
        }
        let chip = Self {
            config: Mutex::new(config),
            router,
            routes: row.routes,
        };
        chip.route(&chip.config.lock(), PirqRouter::set_route);
        chip
    }

    /// Tells the router what the registers say.
    fn route(&self, config: &ConfigSpace, set: fn(&PirqRouter, usize, u8)) {
        if let Some(router) = &self.router {
            for (number, &offset) in self.routes.iter().enumerate() {
                set(router, number, config.read(offset as u16, 1) as u8);
            }
        }
    }
}

impl ChipRow {
    /// Its place on the bus.
    pub fn address(&self) -> Address {
        Address::from_devfn(self.at.0 << 3 | self.at.1)
    }

    /// It has PIRQ route registers.
    pub fn has_routes(&self) -> bool {
        !self.routes.is_empty()
    }
}

impl PciFunction for Chip {
    fn config_read(&self, offset: u16, size: u8) -> u32 {
        self.config.lock().read(offset, size)
    }
    fn config_write(&self, offset: u16, size: u8, value: u32) -> Option<Effect> {
        let mut config = self.config.lock();
        config.write(offset, size, value);
        self.route(&config, PirqRouter::set_route);
        None
    }
    fn stateful(&self) -> Option<&dyn Stateful> {
        Some(self)
    }
}

impl Stateful for Chip {
    fn save(&self, instance: &str, image: &mut Image) -> Result<()> {
        self.config.lock().save(instance, image);
        Ok(())
    }
    fn restore(&self, instance: &str, image: &mut Image) -> Result<()> {
        let mut config = self.config.lock();
        config.restore(instance, image)?;
        self.route(&config, PirqRouter::restore_route);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(rows: &[ChipRow]) -> Vec<(String, u32)> {
        let id = |row| Chip::new(row, None).config_read(0, 4);
        let rows = rows.iter();
        rows.map(|row| (row.address().to_string(), id(row)))
            .collect()
    }

    #[test]
    fn ids_are_qemus() {
        let expected = |place: &str, id| (place.to_string(), id);
        assert_eq!(
            ids(&PC_CHIPS),
            [
                expected("00.0", 0x1237_8086),
                expected("01.0", 0x7000_8086),
                expected("01.3", 0x7113_8086),
            ]
        );
        assert_eq!(
            ids(&Q35_CHIPS),
            [expected("00.0", 0x29c0_8086), expected("1f.0", 0x2918_8086)]
        );
    }

    #[test]
    fn pins_are_swizzled_as_on_qemus_pc() {
        // QEMU's pc: slot 3, pin A is PIRQC on IRQ 11; slot 5, pin A PIRQA.
        let pirq = piix_pirq;
        assert_eq!((pirq(3, 1), PIRQ_IRQ[pirq(3, 1)]), (2, 11));
        assert_eq!((pirq(5, 1), pirq(5, 4), pirq(1, 1)), (0, 3, 0));
    }

    #[test]
    fn pins_are_swizzled_as_on_qemus_q35() {
        // Rows of QEMU's _PRT: address, pin from 0, link (E is 4).
        let rows = [
            (0, 0, 4),
            (1, 0, 5),
            (1, 3, 4),
            (3, 1, 4),
            (24, 0, 4),
            (25, 0, 0),
            (29, 3, 3),
            (30, 2, 6),
            (31, 0, 0),
            (31, 3, 3),
        ];
        for (slot, pin, link) in rows {
            assert_eq!(ich9_pirq(slot, pin + 1), link, "slot {slot}, pin {pin}");
        }
    }

    #[test]
    fn the_pm_function_says_where_its_ports_are() {
        let pm = Chip::new(&PC_CHIPS[2], None);
        assert_eq!(pm.config_read(0x40, 4), 0x601);
        assert_eq!(pm.config_read(0x3c, 2), 0x0109);
        assert_eq!(pm.config_read(0x0e, 1), 0);
        let lpc = Chip::new(&Q35_CHIPS[1], None);
        assert_eq!(lpc.config_read(0x40, 4), 0x601);
        assert_eq!(lpc.config_read(0x44, 1), 0x80);
    }

    #[test]
    fn route_registers_change() {
        let lpc = Chip::new(&Q35_CHIPS[1], None);
        assert_eq!(lpc.config_read(0x68, 4), 0x0b0b_0a0a);
        lpc.config_write(0x69, 1, 0xff);
        assert_eq!(lpc.config_read(0x68, 4), 0x0b0b_8f0a);
        lpc.config_write(0x6c, 4, u32::MAX);
        assert_eq!(lpc.config_read(0x6c, 4), 0);
    }
}
