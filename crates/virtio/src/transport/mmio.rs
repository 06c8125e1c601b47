//! Virtio over MMIO (4.2), version 2: registers of 32 bits, one interrupt
//! line. What is behind them is shared with PCI ([`Setup`]).

mod saved;

use super::setup::status;
use super::{Setup, Signals};
use crate::device::{Interrupts, VirtioDevice};
use crate::memory::GuestMemory;
use devices::{Effect, IrqLine, MmioDevice};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bytes of the registers and the configuration.
pub const MMIO_LEN: u64 = 0x200;

/// Offsets (4.2.2). A ring's address has a register for each half.
mod at {
    pub const MAGIC: u64 = 0x000;
    pub const VERSION: u64 = 0x004;
    pub const DEVICE_ID: u64 = 0x008;
    pub const VENDOR_ID: u64 = 0x00c;
    pub const DEVICE_FEATURES: u64 = 0x010;
    pub const DEVICE_FEATURES_SELECT: u64 = 0x014;
    pub const DRIVER_FEATURES: u64 = 0x020;
    pub const DRIVER_FEATURES_SELECT: u64 = 0x024;
    pub const QUEUE_SELECT: u64 = 0x030;
    pub const QUEUE_SIZE_MAX: u64 = 0x034;
    pub const QUEUE_SIZE: u64 = 0x038;
    pub const QUEUE_READY: u64 = 0x044;
    pub const QUEUE_NOTIFY: u64 = 0x050;
    pub const INTERRUPT_STATUS: u64 = 0x060;
    pub const INTERRUPT_ACK: u64 = 0x064;
    pub const STATUS: u64 = 0x070;
    pub const RINGS: [u64; 3] = [0x080, 0x090, 0x0a0];
    pub const SHARED_MEMORY_LEN: u64 = 0x0b0;
    pub const SHARED_MEMORY_BASE_END: u64 = 0x0c0;
    pub const GENERATION: u64 = 0x0fc;
    pub const CONFIG: u64 = 0x100;
}

/// "virt".
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "QEMU", as its devices say.
const VENDOR: u32 = 0x554d_4551;

/// Bits of the interrupt status (4.2.2).
const USED: u8 = 1;
const CONFIG_CHANGED: u8 = 2;

/// How a device reaches the rest of the machine.
#[derive(Clone)]
pub struct MmioWiring {
    /// Its interrupt, level-triggered.
    pub line: Arc<dyn IrqLine>,
    /// Guest memory.
    pub memory: GuestMemory,
}

/// A virtio device behind guest-physical addresses.
pub struct VirtioMmio {
    device: Arc<dyn VirtioDevice>,
    /// Taken before the link's lock. A worker never takes it.
    common: Mutex<Setup>,
    link: Arc<Link>,
}

/// The way from a device's threads to its driver.
struct Link {
    name: &'static str,
    signals: Arc<Signals>,
    /// Interrupt status. Held while the line is driven.
    pending: Mutex<u8>,
    line: Arc<dyn IrqLine>,
}

impl Link {
    fn change(&self, change: impl FnOnce(u8) -> u8) {
        let mut pending = self.pending.lock();
        let before = *pending;
        *pending = change(before);
        if (*pending != 0) != (before != 0) {
            self.line.set_level(*pending != 0);
        }
    }
}

impl VirtioMmio {
    /// A device after reset.
    pub fn new(device: Arc<dyn VirtioDevice>, wiring: MmioWiring) -> Arc<Self> {
        let signals = Arc::new(Signals::new(device.queue_sizes().len()));
        let common = Setup::new(device.clone(), wiring.memory, signals.clone());
        let link = Link {
            name: device.kind().name,
            signals,
            pending: Mutex::new(0),
            line: wiring.line,
        };
        Arc::new(Self {
            device,
            common: Mutex::new(common),
            link: Arc::new(link),
        })
    }

    fn set_status(&self, value: u8) {
        self.common.lock().set_status(value, self.link.clone());
        if value == 0 {
            self.link.change(|_| 0);
        } else if value & status::DRIVER_OK != 0 {
            self.ring_all();
        }
    }

    /// Buffers may have been made available before anybody listened.
    fn ring_all(&self) {
        let queues = 0..self.link.signals.doorbells.len();
        queues.for_each(|q| self.link.signals.notify(q as u16));
    }

    fn read_register(&self, offset: u64) -> u32 {
        let (common, signals) = (self.common.lock(), &self.link.signals);
        match offset {
            at::MAGIC => MAGIC,
            at::VERSION => VERSION,
            at::DEVICE_ID => self.device.kind().id.into(),
            at::VENDOR_ID => VENDOR,
            at::DEVICE_FEATURES => common.device_features(),
            at::QUEUE_SIZE_MAX => common.queue().max_size.into(),
            at::QUEUE_READY => common.queue().enabled.into(),
            at::INTERRUPT_STATUS => (*self.link.pending.lock()).into(),
            at::STATUS => signals.status().into(),
            // There is no shared memory: length and base are -1.
            at::SHARED_MEMORY_LEN..at::SHARED_MEMORY_BASE_END => u32::MAX,
            at::GENERATION => signals.generation.load(Ordering::Acquire).into(),
            _ => 0,
        }
    }

    fn write_register(&self, offset: u64, value: u32) {
        match offset {
            at::STATUS => return self.set_status(value as u8),
            at::QUEUE_NOTIFY => return self.link.signals.notify(value as u16),
            at::INTERRUPT_ACK => return self.link.change(|pending| pending & !(value as u8)),
            _ => {}
        }
        let mut common = self.common.lock();
        match offset {
            at::DEVICE_FEATURES_SELECT => common.device_feature_select = value,
            at::DRIVER_FEATURES_SELECT => common.driver_feature_select = value,
            at::DRIVER_FEATURES => common.set_driver_features(value),
            at::QUEUE_SELECT => common.queue_select = value as u16,
            at::QUEUE_SIZE => common.set_queue_size(value.into()),
            at::QUEUE_READY => {
                if let Some(queue) = common.queue_mut() {
                    queue.enabled = value & 1 != 0;
                }
            }
            _ => set_ring(&mut common, offset, value),
        }
    }

    fn read_config(&self, offset: u64, size: u8) -> u64 {
        let mut bytes = [0; 8];
        let n = usize::from(size).min(8);
        self.device.read_config(offset as usize, &mut bytes[..n]);
        u64::from_le_bytes(bytes)
    }
}

/// One half of a ring's address.
fn set_ring(common: &mut Setup, offset: u64, value: u32) {
    let ring = at::RINGS.iter().position(|&r| offset & !4 == r);
    let (Some(ring), Some(queue)) = (ring, common.queue_mut()) else {
        return;
    };
    let (address, value) = (&mut queue.rings[ring], u64::from(value));
    *address = match offset & 4 {
        0 => *address >> 32 << 32 | value,
        _ => value << 32 | *address & 0xffff_ffff,
    };
}

/// Registers take whole, aligned words only (4.2.2.2); the configuration
/// anything.
impl MmioDevice for VirtioMmio {
    fn read(&self, offset: u64, size: u8) -> u64 {
        match offset.checked_sub(at::CONFIG) {
            Some(inside) => self.read_config(inside, size),
            None if size == 4 && offset.is_multiple_of(4) => self.read_register(offset).into(),
            None => 0,
        }
    }

    fn write(&self, offset: u64, size: u8, value: u64) -> Option<Effect> {
        match offset.checked_sub(at::CONFIG) {
            Some(inside) => {
                let n = usize::from(size).min(8);
                let bytes = value.to_le_bytes();
                self.device.write_config(inside as usize, &bytes[..n]);
            }
            None if size == 4 && offset.is_multiple_of(4) => {
                self.write_register(offset, value as u32)
            }
            None => {}
        }
        None
    }
}

impl Interrupts for Link {
    fn queue(&self, _index: u16) {
        self.change(|pending| pending | USED);
    }

    fn config_changed(&self) {
        self.signals.generation.fetch_add(1, Ordering::AcqRel);
        self.change(|pending| pending | CONFIG_CHANGED);
    }

    fn needs_reset(&self, why: &str) {
        if self.signals.set_needs_reset(self.name, why) {
            self.config_changed();
        }
    }
}

impl Drop for VirtioMmio {
    fn drop(&mut self) {
        self.common.get_mut().reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::memory;
    use crate::rng::Rng;
    use crate::testing::Interrupts as Probe;
    use crate::testing::{AVAILABLE, BUFFERS, DESCRIPTORS, USED as USED_RING, WRITE};
    use vm_memory::{Bytes, GuestAddress};

    struct Rig {
        device: Arc<VirtioMmio>,
        memory: GuestMemory,
        line: Arc<Probe>,
    }

    impl Rig {
        fn new() -> Self {
            let (memory, _) = memory();
            let line = Arc::new(Probe::default());
            let wiring = MmioWiring {
                line: line.clone(),
                memory: memory.clone(),
            };
            Self {
                device: VirtioMmio::new(Arc::new(Rng::new()), wiring),
                memory,
                line,
            }
        }

        fn read(&self, offset: u64) -> u64 {
            self.device.read(offset, 4)
        }

        fn write(&self, offset: u64, value: u64) {
            self.device.write(offset, 4, value);
        }

        /// Negotiates VERSION_1 and sets queue 0 up with `rings`.
        fn start(&self, rings: [u64; 3]) {
            [1, 3].into_iter().for_each(|s| self.write(0x70, s));
            for (select, features) in [(0, 0), (1, 1)] {
                self.write(0x24, select);
                self.write(0x20, features);
            }
            self.write(0x70, 0xb);
            self.write(0x30, 0);
            self.write(0x38, 8);
            for (offset, ring) in [0x80, 0x90, 0xa0].into_iter().zip(rings) {
                self.write(offset, ring & 0xffff_ffff);
                self.write(offset + 4, ring >> 32);
            }
            self.write(0x44, 1);
            self.write(0x70, 0xf);
        }
    }

    const RINGS: [u64; 3] = [DESCRIPTORS, AVAILABLE, USED_RING];

    #[test]
    fn registers_say_what_it_is() {
        let rig = Rig::new();
        let id = [0x00, 0x04, 0x08, 0x0c].map(|o| rig.read(o));
        assert_eq!(id, [0x7472_6976, 2, 4, 0x554d_4551]);
        assert_eq!((rig.read(0x34), rig.read(0x44)), (8, 0));
        assert_eq!((rig.read(0xb0), rig.read(0xbc)), (0xffff_ffff, 0xffff_ffff));
        rig.write(0x14, 1);
        assert_eq!(rig.read(0x10), 1);
        rig.write(0x30, 1);
        assert_eq!(rig.read(0x34), 0, "no second queue");
        assert_eq!(rig.device.read(0x00, 2), 0, "half a register");
    }

    #[test]
    fn a_request_is_served_and_acknowledged() {
        let rig = Rig::new();
        rig.start(RINGS);
        let mut descriptor = [0; 16];
        descriptor[..8].copy_from_slice(&BUFFERS.to_le_bytes());
        descriptor[8] = 64;
        descriptor[12..14].copy_from_slice(&WRITE.to_le_bytes());
        let put = |at, bytes: &[u8]| rig.memory.write_slice(bytes, GuestAddress(at)).unwrap();
        put(DESCRIPTORS, &descriptor);
        put(AVAILABLE, &[0, 0, 1, 0, 0, 0]);
        rig.write(0x50, 0);
        rig.line.wait_pin();
        assert_eq!(rig.read(0x60), 1);
        let used: u16 = rig.memory.read_obj(GuestAddress(USED_RING + 2)).unwrap();
        assert_eq!(used, 1);
        rig.write(0x64, 2);
        assert!(rig.line.pin.load(Ordering::SeqCst), "not that one");
        rig.write(0x64, 1);
        assert!(!rig.line.pin.load(Ordering::SeqCst));
        assert_eq!(rig.read(0x60), 0);
    }

    #[test]
    fn a_bad_queue_needs_a_reset_and_reset_clears_all() {
        let rig = Rig::new();
        rig.start([DESCRIPTORS, 1 << 40, USED_RING]);
        assert_eq!(rig.read(0x70), 0x4f);
        assert_eq!(rig.read(0x60), 2);
        assert_eq!(rig.read(0xfc), 1);
        rig.write(0x70, 0);
        assert!(!rig.line.pin.load(Ordering::SeqCst));
        assert_eq!((rig.read(0x70), rig.read(0x60), rig.read(0x44)), (0, 0, 0));
    }

    #[test]
    fn no_access_panics() {
        let rig = Rig::new();
        for offset in (0..MMIO_LEN).chain([u64::MAX - 7, u64::MAX]) {
            for size in [0, 1, 2, 3, 4, 8, 255] {
                rig.device.write(offset, size, u64::MAX);
                rig.device.read(offset, size);
            }
        }
        rig.write(0x70, 0);
        assert_eq!(rig.read(0x70), 0);
    }
}
