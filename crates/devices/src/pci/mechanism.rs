//! PCI configuration mechanism #1 (PCI Local Bus 2.2, 3.2.2.3.2). Port 0xcf9
//! inside its range is the [`ResetControl`] register, as in PIIX3 and ICH.

use super::bus::PciRoot;
use super::function::Address;
use crate::reset::ResetControl;
use crate::{Effect, PortDevice, Stateful};
use parking_lot::Mutex;
use state::pci::Mechanism;
use state::{Image, Result};
use std::sync::Arc;

/// CONFIG_ADDRESS at 0xcf8, CONFIG_DATA at 0xcfc.
pub const PORT: u16 = 0xcf8;
/// Ports of the mechanism.
pub const LEN: u16 = 8;

const RESET_OFFSET: u16 = 1;
const DATA_OFFSET: u16 = 4;
const ENABLE: u32 = 1 << 31;
/// Bus, device, function and register bits of CONFIG_ADDRESS.
const TARGET: u32 = 0x00ff_fffc;

/// The mechanism on its ports.
pub struct PciConfig {
    root: Arc<PciRoot>,
    /// CONFIG_ADDRESS.
    address: Mutex<u32>,
    reset: ResetControl,
}

impl PciConfig {
    /// The mechanism in front of a bus.
    pub fn new(root: Arc<PciRoot>) -> Self {
        Self {
            root,
            address: Mutex::new(0),
            reset: ResetControl::default(),
        }
    }

    /// What CONFIG_ADDRESS selects: bus, function and register.
    fn selected(&self) -> Option<(u8, Address, u16)> {
        let address = *self.address.lock();
        let function = Address::from_devfn((address >> 8) as u8);
        let register = u16::from(address as u8 & 0xfc);
        (address & ENABLE != 0).then_some(((address >> 16) as u8, function, register))
    }
}

impl Stateful for PciConfig {
    fn save(&self, instance: &str, image: &mut Image) -> Result<()> {
        let saved = Mechanism {
            address: *self.address.lock(),
            reset: self.reset.value(),
        };
        image.put(instance, &saved);
        Ok(())
    }

    fn restore(&self, instance: &str, image: &mut Image) -> Result<()> {
        let saved: Mechanism = image.take(instance)?;
        *self.address.lock() = saved.address & (ENABLE | TARGET);
        self.reset.set_value(saved.reset);
        Ok(())
    }
}

impl PortDevice for PciConfig {
    fn max_width(&self) -> u8 {
        4
    }

    fn read(&self, offset: u16, size: u8) -> u32 {
        match (offset, size) {
            (0, 4) => *self.address.lock(),
            (RESET_OFFSET, 1) => self.reset.read(0, 1),
            (DATA_OFFSET.., _) => self
                .selected()
                .map_or(u32::MAX, |(bus, address, register)| {
                    let register = register + offset - DATA_OFFSET;
                    self.root.config_read(bus, address, register, size)
                }),
            // Narrower accesses to CONFIG_ADDRESS pass by.
            _ => u32::MAX,
        }
    }

    fn write(&self, offset: u16, size: u8, value: u32) -> Option<Effect> {
        match (offset, size) {
            // Bits 1:0 and 30:24 are reserved and read as 0.
            (0, 4) => *self.address.lock() = value & (ENABLE | TARGET),
            (RESET_OFFSET, 1) => return self.reset.write(0, 1, value),
            (DATA_OFFSET.., _) => {
                let (bus, address, register) = self.selected()?;
                let register = register + offset - DATA_OFFSET;
                return self.root.config_write(bus, address, register, size, value);
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::bus::{BusId, tests::Scratch};
    use super::*;

    fn mechanism() -> PciConfig {
        let root = PciRoot::new();
        let host = Address::new(0, 0).unwrap();
        root.plug((BusId::ROOT, host), Scratch::new(0x1237))
            .unwrap();
        PciConfig::new(Arc::new(root))
    }

    fn read(pci: &PciConfig, address: u32, offset: u16, size: u8) -> u32 {
        pci.write(0, 4, address);
        pci.read(DATA_OFFSET + offset, size) & crate::all_ones(size) as u32
    }

    #[test]
    fn finds_the_function_and_nothing_else() {
        let pci = mechanism();
        assert_eq!(read(&pci, 0x8000_0000, 0, 4), 0x1237_1234);
        assert_eq!(read(&pci, 0x8000_0000, 2, 2), 0x1237);
        assert_eq!(read(&pci, 0x8000_003c, 1, 1), 1);
        assert_eq!(read(&pci, 0x8000_0800, 0, 4), 0xffff_ffff);
        assert_eq!(read(&pci, 0x8000_0100, 0, 4), 0xffff_ffff);
        assert_eq!(read(&pci, 0x8001_0000, 0, 2), 0xffff);
        assert_eq!(read(&pci, 0x0000_0000, 0, 4), 0xffff_ffff);
    }

    #[test]
    fn bytes_of_a_register_are_written_in_place() {
        let pci = mechanism();
        pci.write(0, 4, 0x8000_003c);
        pci.write(DATA_OFFSET, 1, 0x0b);
        assert_eq!(pci.read(DATA_OFFSET, 2), 0x010b);
        pci.write(0, 4, 0);
        pci.write(DATA_OFFSET, 4, 0);
        assert_eq!(read(&pci, 0x8000_003c, 0, 1), 0x0b);
    }

    #[test]
    fn the_probe_of_mechanism_1_succeeds() {
        let pci = mechanism();
        pci.write(0, 4, 0x8000_0000);
        assert_eq!(pci.read(0, 4), 0x8000_0000);
        pci.write(3, 1, 0x01);
        assert_eq!(pci.read(0, 4), 0x8000_0000);
    }

    #[test]
    fn the_reset_register_lies_inside() {
        let pci = mechanism();
        pci.write(0, 4, 0x8000_0000);
        assert_eq!(pci.write(1, 1, 0x02), None);
        assert_eq!(pci.read(1, 1), 0x02);
        assert_eq!(pci.write(1, 1, 0x06), Some(Effect::Reset));
        assert_eq!(pci.read(0, 4), 0x8000_0000);
    }
}
