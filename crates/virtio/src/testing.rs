//! A driver for tests: sets a function up through its registers, as a guest
//! does, and puts descriptors into its first queue.

use crate::device::VirtioDevice;
use crate::memory::{GuestMemory, tests::Log, tests::memory};
use crate::transport::{PciWiring, VirtioPci};
use devices::pci::PciFunction;
use devices::{IrqLine, MsiSink};
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;
use vm_memory::{Bytes, GuestAddress};

/// Rings of the first queue, and its size.
pub(crate) const DESCRIPTORS: u64 = 0x1000;
pub(crate) const AVAILABLE: u64 = 0x2000;
pub(crate) const USED: u64 = 0x3000;
pub(crate) const SIZE: u16 = 8;
/// Free for buffers.
pub(crate) const BUFFERS: u64 = 0x1_0000;

/// Descriptor flags (2.7.5).
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

const BAR: u8 = 4;
const MSIX_BAR: u8 = 1;
/// Offset of the MSI-X capability's control word.
const MSIX_CONTROL: u16 = 0x9a;
/// Message data of vector n is this plus n.
const MESSAGE: u32 = 0x40;

/// A limit for a broken test, not a promise.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Messages that were sent, and the interrupt pin.
#[derive(Default)]
pub(crate) struct Interrupts {
    messages: Mutex<Vec<u32>>,
    arrived: Condvar,
    pub(crate) pin: AtomicBool,
}

impl MsiSink for Interrupts {
    fn send(&self, _address: u64, data: u32) {
        self.messages.lock().push(data);
        self.arrived.notify_all();
    }
}

impl IrqLine for Interrupts {
    fn set_level(&self, high: bool) {
        self.pin.store(high, Ordering::SeqCst);
        // Who waits has looked at the pin, or will.
        drop(self.messages.lock());
        self.arrived.notify_all();
    }
}

impl Interrupts {
    /// Waits until the pin is high.
    pub(crate) fn wait_pin(&self) {
        let mut messages = self.messages.lock();
        while !self.pin.load(Ordering::SeqCst) {
            let waited = self.arrived.wait_for(&mut messages, PATIENCE);
            assert!(!waited.timed_out(), "the pin stays low");
        }
    }
}

/// A function and its guest.
pub(crate) struct Rig {
    pub(crate) memory: GuestMemory,
    pub(crate) writes: Arc<Log>,
    pub(crate) function: Arc<VirtioPci>,
    pub(crate) interrupts: Arc<Interrupts>,
    used_seen: Mutex<u16>,
    /// The queue that is used.
    notify_at: AtomicU16,
}

impl Rig {
    /// The device after power-up, its BARs' decoding left to the test.
    pub(crate) fn new(device: Arc<dyn VirtioDevice>) -> Self {
        let (memory, writes) = memory();
        let interrupts = Arc::new(Interrupts::default());
        let wiring = PciWiring {
            intx: interrupts.clone(),
            msi: interrupts.clone(),
            memory: memory.clone(),
            express: false,
        };
        Self {
            function: VirtioPci::new(device, 4, wiring),
            memory,
            writes,
            interrupts,
            used_seen: Mutex::new(0),
            notify_at: AtomicU16::new(0),
        }
    }

    pub(crate) fn read(&self, offset: u64, size: u8) -> u64 {
        self.function.bar_read(BAR, offset, size)
    }

    pub(crate) fn write(&self, offset: u64, size: u8, value: u64) {
        self.function.bar_write(BAR, offset, size, value);
    }

    pub(crate) fn status(&self) -> u64 {
        self.read(0x14, 1)
    }

    pub(crate) fn set_status(&self, status: u64) {
        self.write(0x14, 1, status);
    }

    /// Bus mastering and MSI-X: vector 0 for the configuration, 1 for the
    /// first queue.
    pub(crate) fn enable_msix(&self) {
        self.function.config_write(4, 2, 0x6);
        self.function.config_write(MSIX_CONTROL, 2, 0x8000);
        for vector in 0..2u32 {
            let words = [0xfee0_0000, 0, MESSAGE + vector, 0];
            for (i, word) in (0u64..).zip(words) {
                let offset = u64::from(vector) * 16 + 4 * i;
                self.function.bar_write(MSIX_BAR, offset, 4, word.into());
            }
        }
        self.write(0x10, 2, 0);
        self.write(0x16, 2, 0);
        self.write(0x1a, 2, 1);
    }

    /// Negotiates `features` of those offered.
    pub(crate) fn negotiate(&self, features: u64) {
        self.set_status(1);
        self.set_status(3);
        for (select, value) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
            self.write(0x08, 4, select);
            self.write(0x0c, 4, value);
        }
        self.set_status(0xb);
    }

    /// Describes the first queue.
    pub(crate) fn set_queue(&self, rings: [u64; 3]) {
        self.describe_queue(0, rings);
    }

    fn describe_queue(&self, index: u16, rings: [u64; 3]) {
        self.write(0x16, 2, index.into());
        self.write(0x18, 2, SIZE.into());
        for (offset, address) in [0x20, 0x28, 0x30].into_iter().zip(rings) {
            self.write(offset, 8, address);
        }
        self.write(0x1c, 2, 1);
    }

    /// Everything: the device runs with VERSION_1 and `features`.
    pub(crate) fn start(&self, features: u64) {
        self.start_queue(0, features);
    }

    /// The same with queue `index` in the place of the first one, which the
    /// driver leaves alone.
    pub(crate) fn start_queue(&self, index: u16, features: u64) {
        self.start_queues(index, &[], features);
    }

    /// The same with other queues, whose rings the test fills.
    pub(crate) fn start_queues(&self, index: u16, others: &[(u16, [u64; 3])], features: u64) {
        self.memory
            .write_slice(&[0; 0x3000], GuestAddress(DESCRIPTORS))
            .unwrap();
        self.notify_at.store(index, Ordering::Relaxed);
        self.enable_msix();
        self.negotiate(features | 1 << 32);
        let first = (index, [DESCRIPTORS, AVAILABLE, USED]);
        for (index, rings) in others.iter().copied().chain([first]) {
            self.describe_queue(index, rings);
            self.write(0x1a, 2, 1);
        }
        self.set_status(0xf);
    }

    /// Writes descriptor number `index` of a table: address, length, flags;
    /// its next is the one behind it.
    pub(crate) fn descriptor(&self, table: u64, index: u16, (addr, len, flags): (u64, u32, u16)) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&(index + 1).to_le_bytes());
        let at = GuestAddress(table + 16 * u64::from(index));
        self.memory.write_slice(&bytes, at).unwrap();
    }

    /// Makes the chain that begins at descriptor `head` available and
    /// notifies.
    pub(crate) fn offer(&self, head: u16) {
        let index: u16 = self.memory.read_obj(GuestAddress(AVAILABLE + 2)).unwrap();
        let slot = AVAILABLE + 4 + 2 * u64::from(index % SIZE);
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.set_available(index.wrapping_add(1));
    }

    /// Sets the available ring's index and notifies.
    pub(crate) fn set_available(&self, index: u16) {
        let order = Ordering::SeqCst;
        let at = GuestAddress(AVAILABLE + 2);
        self.memory.store(index, at, order).unwrap();
        let queue = self.notify_at.load(Ordering::Relaxed);
        self.write(0x3000 + 4 * u64::from(queue), 2, queue.into());
    }

    /// A chain of these descriptors, made available; its only chain.
    pub(crate) fn submit(&self, chain: &[(u64, u32, u16)]) {
        for (i, &(addr, len, flags)) in (0..).zip(chain) {
            let more = usize::from(i) + 1 < chain.len();
            let flags = flags | if more { NEXT } else { 0 };
            self.descriptor(DESCRIPTORS, i, (addr, len, flags));
        }
        self.offer(0);
    }

    /// Waits for a message of vector `vector` and forgets all.
    pub(crate) fn wait_vector(&self, vector: u32) {
        let mut messages = self.interrupts.messages.lock();
        while !messages.contains(&(MESSAGE + vector)) {
            let waited = self.interrupts.arrived.wait_for(&mut messages, PATIENCE);
            assert!(!waited.timed_out(), "no message of vector {vector}");
        }
        messages.clear();
    }

    /// Waits until `count` chains more than at the last call are in the used
    /// ring, woken by messages only; their heads.
    pub(crate) fn wait_used(&self, count: u16) -> BTreeSet<u32> {
        let index = || -> u16 { self.memory.read_obj(GuestAddress(USED + 2)).unwrap() };
        let mut seen = self.used_seen.lock();
        while index().wrapping_sub(*seen) < count {
            self.wait_vector(1);
        }
        let slots = (0..count).map(|i| u64::from(seen.wrapping_add(i) % SIZE));
        let head = |slot| self.memory.read_obj(GuestAddress(USED + 4 + 8 * slot));
        let heads = slots.map(|slot| head(slot).unwrap()).collect();
        *seen = seen.wrapping_add(count);
        heads
    }

    /// Submits a chain and waits for its return: the length in the used ring.
    pub(crate) fn serve(&self, chain: &[(u64, u32, u16)]) -> u32 {
        let index = || -> u16 { self.memory.read_obj(GuestAddress(USED + 2)).unwrap() };
        let before = index();
        self.submit(chain);
        self.wait_vector(1);
        // What woke us may be another queue's message of the same vector.
        while index() == before {
            self.wait_vector(1);
        }
        assert_eq!(index(), before.wrapping_add(1));
        let slot = USED + 4 + 8 * u64::from(before % SIZE);
        self.memory.read_obj(GuestAddress(slot + 4)).unwrap()
    }
}
