//! PCI configuration mechanism #1 (PCI Local Bus 2.2, 3.2.2.3.2) with a host
//! bridge and nothing behind it. Port 0xcf9 inside its range is the
//! [`ResetControl`] register, as in PIIX3 and ICH.

use crate::reset::ResetControl;
use crate::{Effect, PortDevice};
use parking_lot::Mutex;

/// CONFIG_ADDRESS at 0xcf8, CONFIG_DATA at 0xcfc.
pub const PORT: u16 = 0xcf8;
/// Ports of the mechanism.
pub const LEN: u16 = 8;

const RESET_OFFSET: u16 = 1;
const DATA_OFFSET: u16 = 4;
const ENABLE: u32 = 1 << 31;
/// Bus, device and function bits of CONFIG_ADDRESS.
const FUNCTION: u32 = 0x00ff_ff00;

/// The host bridge's header (Intel 82441FX: vendor 8086, device 1237, host
/// bridge class, revision 2): offset and value of every register not 0.
const HOST_BRIDGE: [(u8, u32); 2] = [(0x00, 0x1237_8086), (0x08, 0x0600_0002)];
const HOST_BRIDGE_FUNCTION: u32 = 0;

/// The mechanism on its ports.
#[derive(Debug, Default)]
pub struct PciConfig {
    /// CONFIG_ADDRESS.
    address: Mutex<u32>,
    reset: ResetControl,
}

impl PciConfig {
    /// The dword that CONFIG_ADDRESS selects; absent functions float high.
    fn selected(&self) -> u32 {
        let address = *self.address.lock();
        if address & ENABLE == 0 || address & FUNCTION != HOST_BRIDGE_FUNCTION {
            return u32::MAX;
        }
        let register = address as u8 & 0xfc;
        let row = HOST_BRIDGE.iter().find(|row| row.0 == register);
        row.map_or(0, |row| row.1)
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
            (DATA_OFFSET.., _) => self.selected() >> (8 * (offset - DATA_OFFSET)),
            // Narrower accesses to CONFIG_ADDRESS pass by.
            _ => u32::MAX,
        }
    }

    fn write(&self, offset: u16, size: u8, value: u32) -> Option<Effect> {
        match (offset, size) {
            // Bits 1:0 and 30:24 are reserved and read as 0.
            (0, 4) => *self.address.lock() = value & (ENABLE | FUNCTION | 0xfc),
            (RESET_OFFSET, 1) => return self.reset.write(0, 1, value),
            // Nothing in the host bridge can be changed.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pci: &PciConfig, address: u32, offset: u16, size: u8) -> u32 {
        pci.write(0, 4, address);
        pci.read(DATA_OFFSET + offset, size) & crate::all_ones(size) as u32
    }

    #[test]
    fn finds_the_host_bridge_and_nothing_else() {
        let pci = PciConfig::default();
        assert_eq!(read(&pci, 0x8000_0000, 0, 4), 0x1237_8086);
        assert_eq!(read(&pci, 0x8000_0000, 2, 2), 0x1237);
        assert_eq!(read(&pci, 0x8000_0008, 3, 1), 0x06);
        assert_eq!(read(&pci, 0x8000_0010, 0, 4), 0);
        assert_eq!(read(&pci, 0x8000_0800, 0, 4), 0xffff_ffff);
        assert_eq!(read(&pci, 0x8000_0100, 0, 4), 0xffff_ffff);
        assert_eq!(read(&pci, 0x8001_0000, 0, 2), 0xffff);
        assert_eq!(read(&pci, 0x0000_0000, 0, 4), 0xffff_ffff);
    }

    #[test]
    fn the_probe_of_mechanism_1_succeeds() {
        let pci = PciConfig::default();
        pci.write(0, 4, 0x8000_0000);
        assert_eq!(pci.read(0, 4), 0x8000_0000);
        pci.write(3, 1, 0x01);
        assert_eq!(pci.read(0, 4), 0x8000_0000);
    }

    #[test]
    fn the_reset_register_lies_inside() {
        let pci = PciConfig::default();
        pci.write(0, 4, 0x8000_0000);
        assert_eq!(pci.write(1, 1, 0x02), None);
        assert_eq!(pci.read(1, 1), 0x02);
        assert_eq!(pci.write(1, 1, 0x06), Some(Effect::Reset));
        assert_eq!(pci.read(0, 4), 0x8000_0000);
    }
}
