//! MSI (PCI Local Bus 3.0, 6.8.1): one message for up to 32 vectors, told
//! apart by the low bits of its data. All its state lies in the capability.

use super::config::{ConfigSpace, command};
use super::msix::Message;

const CAPABILITY: u8 = 0x05;
/// Message control.
const ENABLE: u16 = 1 << 0;
const CAPABLE_SHIFT: u32 = 1;
const ALLOCATED_SHIFT: u32 = 4;
const ALLOCATED: u16 = 0b111 << ALLOCATED_SHIFT;
const WIDE: u16 = 1 << 7;
const MASKABLE: u16 = 1 << 8;
/// Log2 of the most vectors.
const MAX_VECTORS_LOG2: u16 = 5;
/// Offsets of message control and the low address.
const CONTROL: u16 = 2;
const ADDRESS: u16 = 4;

/// What the capability can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiLayout {
    /// Vectors asked for: a power of two, at most 32.
    pub vectors: u8,
    /// 64-bit addresses.
    pub wide: bool,
    /// Each vector has a mask and a pending bit.
    pub maskable: bool,
}

impl MsiLayout {
    /// Offset of the message data behind the address.
    const fn data(self) -> u16 {
        if self.wide { 12 } else { 8 }
    }
    /// Offset of the mask bits; the pending bits follow.
    const fn mask(self) -> u16 {
        self.data() + 4
    }
    const fn pending(self) -> u16 {
        self.mask() + 4
    }
    const fn len(self) -> u16 {
        match self.maskable {
            true => self.pending() + 4,
            false => self.data() + 2,
        }
    }
}

/// A function's MSI.
#[derive(Clone, Copy, Debug)]
pub struct Msi {
    layout: MsiLayout,
    /// Offset of the capability in configuration space.
    at: u16,
}

impl Msi {
    /// Adds the capability.
    pub fn new(config: &mut ConfigSpace, layout: MsiLayout) -> Self {
        assert!(layout.vectors.is_power_of_two() && layout.vectors <= 32);
        let mut body = vec![0; usize::from(layout.len()) - 2];
        let mut control = (layout.vectors.trailing_zeros() as u16) << CAPABLE_SHIFT;
        control |= if layout.wide { WIDE } else { 0 };
        control |= if layout.maskable { MASKABLE } else { 0 };
        body[..2].copy_from_slice(&control.to_le_bytes());
        let at = config.add_capability(CAPABILITY, &body);
        let mut allow = |offset: u16, mask: &[u8]| config.allow(at + usize::from(offset), mask);
        allow(CONTROL, &(ENABLE | ALLOCATED).to_le_bytes());
        allow(ADDRESS, &(!3u32).to_le_bytes());
        if layout.wide {
            allow(ADDRESS + 4, &[0xff; 4]);
        }
        allow(layout.data(), &[0xff; 2]);
        if layout.maskable {
            let vectors = (1u64 << layout.vectors) - 1;
            allow(layout.mask(), &(vectors as u32).to_le_bytes());
        }
        Self {
            layout,
            at: at as u16,
        }
    }

    /// The guest uses MSI, not INTx.
    pub fn enabled(&self, config: &ConfigSpace) -> bool {
        self.control(config) & ENABLE != 0
    }

    /// The device asks for vector `vector`: a message to send now, or it
    /// waits behind its mask. One that cannot be masked is lost while the
    /// function may not use the bus.
    pub fn raise(&self, config: &mut ConfigSpace, vector: u8) -> Option<Message> {
        if !self.enabled(config) || vector >= self.layout.vectors {
            return None;
        }
        let vector = vector & (self.allocated(config) - 1);
        let bit = 1 << vector;
        let master = config.command() & command::MASTER != 0;
        if master && self.masked(config) & bit == 0 {
            return Some(self.message(config, vector));
        }
        if self.layout.maskable {
            let pending = self.pending(config) | bit;
            self.set_pending(config, pending);
        }
        None
    }

    /// To be called after a configuration write: the messages that waited for
    /// it.
    pub fn refresh(&self, config: &mut ConfigSpace) -> Vec<Message> {
        let master = config.command() & command::MASTER != 0;
        if !self.layout.maskable || !self.enabled(config) || !master {
            return Vec::new();
        }
        let pending = self.pending(config);
        let due = pending & !self.masked(config);
        self.set_pending(config, pending & !due);
        let vectors = (0..self.layout.vectors).filter(|v| due >> v & 1 != 0);
        vectors.map(|v| self.message(config, v)).collect()
    }

    fn control(&self, config: &ConfigSpace) -> u16 {
        config.read(self.at + CONTROL, 2) as u16
    }

    /// Vectors that the guest gave, at most those asked for.
    fn allocated(&self, config: &ConfigSpace) -> u8 {
        let log2 = (self.control(config) & ALLOCATED) >> ALLOCATED_SHIFT;
        let given = 1u8 << log2.min(MAX_VECTORS_LOG2);
        given.min(self.layout.vectors)
    }

    fn masked(&self, config: &ConfigSpace) -> u32 {
        match self.layout.maskable {
            true => config.read(self.at + self.layout.mask(), 4),
            false => 0,
        }
    }

    fn pending(&self, config: &ConfigSpace) -> u32 {
        config.read(self.at + self.layout.pending(), 4)
    }

    fn set_pending(&self, config: &mut ConfigSpace, bits: u32) {
        let at = self.at + self.layout.pending();
        config.set(at.into(), &bits.to_le_bytes());
    }

    fn message(&self, config: &ConfigSpace, vector: u8) -> Message {
        let word = |offset| config.read(self.at + offset, 4);
        let high = if self.layout.wide {
            word(ADDRESS + 4)
        } else {
            0
        };
        let data = config.read(self.at + self.layout.data(), 2);
        let low_bits = u32::from(self.allocated(config) - 1);
        let address = u64::from(high) << 32 | u64::from(word(ADDRESS));
        (address, data & !low_bits | u32::from(vector) & low_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::Identity;
    use super::*;

    fn msi(layout: MsiLayout) -> (ConfigSpace, Msi) {
        let mut config = ConfigSpace::new(&Identity {
            vendor: 1,
            device: 2,
            revision: 0,
            class: 0,
            subsystem: (0, 0),
        });
        let msi = Msi::new(&mut config, layout);
        config.write(4, 2, command::MASTER.into());
        (config, msi)
    }

    const ONE: MsiLayout = MsiLayout {
        vectors: 1,
        wide: true,
        maskable: true,
    };

    #[test]
    fn control_and_length_are_those_of_known_devices() {
        // QEMU's pci-bridge: one vector, 64 bits, masks. Its AHCI: no masks.
        let (config, _) = msi(ONE);
        assert_eq!(config.read(0x40, 4), 0x0180_0005);
        let (mut config, _) = msi(MsiLayout {
            maskable: false,
            ..ONE
        });
        assert_eq!(config.read(0x40, 4), 0x0080_0005);
        assert_eq!(config.add_capability(0x12, &[0; 6]), 0x50);
        // 32 vectors, 32 bits, masks: 20 bytes.
        let (mut config, _) = msi(MsiLayout {
            vectors: 32,
            wide: false,
            maskable: true,
        });
        assert_eq!(config.read(0x42, 2), 0x010a);
        for offset in (0x40..0x54).step_by(4) {
            config.write(offset, 4, u32::MAX);
        }
        let words = [0x40, 0x44, 0x48, 0x4c, 0x50].map(|o| config.read(o, 4));
        assert_eq!(
            words,
            [0x017b_0005, 0xffff_fffc, 0xffff, 0xffff_ffff, 0],
            "pending bits are read-only"
        );
    }

    #[test]
    fn a_masked_message_waits() {
        let (mut config, msi) = msi(ONE);
        assert_eq!(msi.raise(&mut config, 0), None, "off");
        config.write(0x44, 4, 0xfee0_1000);
        config.write(0x48, 4, 0x1);
        config.write(0x4c, 2, 0x4021);
        config.write(0x42, 2, 1);
        let message = (0x1_fee0_1000, 0x4021);
        assert_eq!(msi.raise(&mut config, 0), Some(message));
        config.write(0x50, 4, 1);
        assert_eq!(msi.raise(&mut config, 0), None);
        assert_eq!(config.read(0x54, 4), 1);
        assert_eq!(msi.refresh(&mut config), []);
        config.write(0x50, 4, 0);
        assert_eq!(msi.refresh(&mut config), [message]);
        assert_eq!(config.read(0x54, 4), 0);
        assert_eq!(msi.raise(&mut config, 1), None, "no such vector");
        config.write(4, 2, 0);
        assert_eq!(msi.raise(&mut config, 0), None);
        config.write(4, 2, command::MASTER.into());
        assert_eq!(msi.refresh(&mut config), [message]);
    }

    #[test]
    fn vectors_are_the_low_bits_of_the_data() {
        let layout = MsiLayout {
            vectors: 8,
            wide: false,
            maskable: false,
        };
        let (mut config, msi) = msi(layout);
        config.write(0x44, 4, 0xfee0_0000);
        config.write(0x48, 2, 0x4dff);
        // Vectors given (log2), data of vector 5.
        for (given, data) in [
            (0, 0x4dff),
            (1, 0x4dff),
            (2, 0x4dfd),
            (3, 0x4dfd),
            (7, 0x4dfd),
        ] {
            config.write(0x42, 2, 1 | given << 4);
            let message = msi.raise(&mut config, 5);
            assert_eq!(message, Some((0xfee0_0000, data)), "{given}");
        }
        config.write(4, 2, 0);
        assert_eq!(msi.raise(&mut config, 0), None);
        assert_eq!(msi.refresh(&mut config), [], "it was lost");
    }
}
