//! The ports: selector and data, and the DMA address behind them.

use super::core::Core;
use super::items::Items;
use crate::{Dma, Effect, PortDevice, Stateful};
use parking_lot::Mutex;
use state::{Image, Result};
use std::sync::Arc;

/// Selector; the data port follows.
pub const PORT: u16 = 0x510;
/// Ports of selector and data.
pub const PORT_LEN: u16 = 2;
/// The DMA address register, big-endian.
pub const DMA_PORT: u16 = 0x514;
/// Ports of the DMA address register.
pub const DMA_LEN: u16 = 8;

/// What a read of the DMA address register delivers, big-endian.
const DMA_SIGNATURE: u64 = u64::from_be_bytes(*b"QEMU CFG");

/// Selector and data.
pub struct FwCfg {
    core: Mutex<Core>,
    memory: Arc<dyn Dma>,
}

impl FwCfg {
    /// A device that serves `items`.
    pub fn new(items: Items, memory: Arc<dyn Dma>) -> Arc<Self> {
        let core = Mutex::new(Core::new(items));
        Arc::new(Self { core, memory })
    }
}

impl PortDevice for FwCfg {
    fn max_width(&self) -> u8 {
        2
    }
    /// A byte of data from either port; wider reads are not decoded.
    fn read(&self, _offset: u16, size: u8) -> u32 {
        match size {
            1 => self.core.lock().next().into(),
            _ => 0,
        }
    }
    /// 16 bits select; writing data was given up by QEMU 2.4.
    fn write(&self, _offset: u16, size: u8, value: u32) -> Option<Effect> {
        if size == 2 {
            self.core.lock().select(value as u16);
        }
        None
    }
}

impl Stateful for FwCfg {
    fn save(&self, instance: &str, image: &mut Image) -> Result<()> {
        image.put(instance, &self.core.lock().saved());
        Ok(())
    }

    fn restore(&self, instance: &str, image: &mut Image) -> Result<()> {
        self.core.lock().restore(&image.take(instance)?);
        Ok(())
    }
}

/// The DMA address register.
pub struct DmaPort(pub Arc<FwCfg>);

impl PortDevice for DmaPort {
    fn max_width(&self) -> u8 {
        4
    }
    fn read(&self, offset: u16, size: u8) -> u32 {
        let bytes = DMA_SIGNATURE.to_be_bytes();
        (0..u16::from(size)).fold(0, |value, i| {
            let byte = bytes.get(usize::from(offset + i)).copied().unwrap_or(0);
            value | u32::from(byte) << (8 * i)
        })
    }
    /// Halves of a big-endian address; the low one starts the request.
    fn write(&self, offset: u16, size: u8, value: u32) -> Option<Effect> {
        let half = u64::from(value.swap_bytes());
        let mut core = self.0.core.lock();
        match (offset, size) {
            (0, 4) => core.dma = half << 32,
            (4, 4) => {
                core.dma |= half;
                core.request(&*self.0.memory);
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::items::{Content, FileError, key};
    use super::*;
    use crate::PortBus;

    struct Memory(Mutex<Vec<u8>>);
    impl Dma for Memory {
        fn read(&self, gpa: u64, bytes: &mut [u8]) -> bool {
            let memory = self.0.lock();
            let end = (gpa as usize).checked_add(bytes.len());
            let range = end.and_then(|end| memory.get(gpa as usize..end));
            range.map(|r| bytes.copy_from_slice(r)).is_some()
        }
        fn write(&self, gpa: u64, bytes: &[u8]) -> bool {
            let mut memory = self.0.lock();
            let end = (gpa as usize).checked_add(bytes.len());
            let range = end.and_then(|end| memory.get_mut(gpa as usize..end));
            range.map(|r| r.copy_from_slice(bytes)).is_some()
        }
    }

    fn bus(items: Items) -> (PortBus, Arc<Memory>) {
        let memory = Arc::new(Memory(Mutex::new(vec![0xee; 0x4000])));
        let device = FwCfg::new(items, memory.clone());
        let mut bus = PortBus::new();
        bus.register(PORT, PORT_LEN, device.clone()).unwrap();
        let dma = Arc::new(DmaPort(device));
        bus.register(DMA_PORT, DMA_LEN, dma).unwrap();
        (bus, memory)
    }

    fn item(bus: &PortBus, key: u16, len: usize) -> Vec<u8> {
        bus.write(PORT, 2, key.into());
        (0..len).map(|_| bus.read(PORT + 1, 1) as u8).collect()
    }

    fn request(bus: &PortBus, memory: &Memory, control: u32, length: u32, address: u64) -> u32 {
        let mut bytes = control.to_be_bytes().to_vec();
        bytes.extend(length.to_be_bytes());
        bytes.extend(address.to_be_bytes());
        assert!(memory.write(0x100, &bytes));
        bus.write(DMA_PORT, 4, 0);
        bus.write(DMA_PORT + 4, 4, 0x100u32.swap_bytes());
        let mut control = [0; 4];
        assert!(memory.read(0x100, &mut control));
        u32::from_be_bytes(control)
    }

    #[test]
    fn ports_answer_as_qemus() {
        let mut items = Items::default();
        items.set(key::NB_CPUS, vec![2, 0]);
        let (bus, _) = bus(items);
        assert_eq!(item(&bus, 0x4000, 6), b"QEMU\0\0");
        assert_eq!(item(&bus, 0x0005, 4), [2, 0, 0, 0]);
        assert_eq!(item(&bus, 0xfff0, 2), [0, 0]);
        // A byte does not select, the selector reads as data, a word as 0.
        bus.write(PORT, 2, 0);
        bus.write(PORT, 1, 5);
        assert_eq!([0; 2].map(|_| bus.read(PORT, 1)), [0x51, 0x45]);
        assert_eq!(bus.read(PORT, 2), 0);
        assert_eq!(bus.read(PORT + 1, 1), 0x4d);
        let signature = [(0x514, 4), (0x518, 4), (0x514, 1)].map(|(p, n)| bus.read(p, n));
        assert_eq!(signature, [0x554d_4551, 0x4746_4320, 0x51]);
    }

    #[test]
    fn files_are_listed_by_name() {
        let mut items = Items::default();
        items.add_file("opt/b", b"two".to_vec()).unwrap();
        items.add_file("etc/a", b"one!".to_vec()).unwrap();
        assert_eq!(items.add_file("etc/a", vec![]), Err(FileError::Exists));
        let long = "x".repeat(56);
        assert_eq!(items.add_file(&long, vec![]), Err(FileError::Name));
        assert_eq!(items.add_file("", vec![]), Err(FileError::Name));
        let (bus, _) = bus(items);
        let directory = item(&bus, key::FILE_DIR, 4 + 2 * 64);
        assert_eq!(directory[..4], [0, 0, 0, 2]);
        assert_eq!(directory[4..18], *b"\0\0\0\x04\0\x20\0\0etc/a\0");
        assert_eq!(directory[68..82], *b"\0\0\0\x03\0\x21\0\0opt/b\0");
        assert_eq!(item(&bus, 0x20, 5), b"one!\0");
        assert_eq!(item(&bus, 0x21, 3), b"two");
    }

    #[test]
    fn dma_selects_skips_and_reads() {
        let mut items = Items::default();
        let load = || b"0123456789".to_vec();
        items.set(key::KERNEL_DATA, Content::Load(Arc::new(load)));
        let (bus, memory) = bus(items);
        let select = u32::from(key::KERNEL_DATA) << 16 | 8;
        assert_eq!(request(&bus, &memory, select | 4, 4, 0), 0);
        assert_eq!(request(&bus, &memory, 2, 8, 0x200), 0);
        assert_eq!(memory.0.lock()[0x200..0x209], *b"456789\0\0\xee");
        // Writes, and reads to where no RAM is, fail.
        assert_eq!(request(&bus, &memory, select | 0x10, 1, 0x200), 1);
        assert_eq!(request(&bus, &memory, select | 2, u32::MAX, 0x300), 1);
        assert_eq!(request(&bus, &memory, select | 2, 8, u64::MAX - 3), 1);
        bus.write(DMA_PORT, 4, u32::MAX);
        bus.write(DMA_PORT + 4, 4, u32::MAX);
    }
}
