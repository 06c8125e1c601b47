//! Device status, features and queue set-up, whatever the registers look like.

mod saved;

use crate::device::{Activation, Interrupts, VirtioDevice, feature};
use crate::doorbell::Doorbell;
use crate::memory::GuestMemory;
use crate::queue::ActiveQueue;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;

/// Bits of the device status (2.1).
pub mod status {
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const NEEDS_RESET: u8 = 64;
}

/// "No vector" in the vector registers (4.1.5.1.2).
pub const NO_VECTOR: u16 = 0xffff;

/// What the transport offers for every device.
const OFFERED: u64 =
    feature::ANY_LAYOUT | feature::INDIRECT | feature::EVENT_IDX | feature::VERSION_1;

/// What workers and registers share without a lock.
pub struct Signals {
    /// Device status.
    pub status: AtomicU8,
    /// Counts changes of the configuration.
    pub generation: AtomicU8,
    /// MSI-X vector for configuration changes.
    pub config_vector: AtomicU16,
    /// MSI-X vector of each queue.
    pub queue_vectors: Vec<AtomicU16>,
    /// Each queue's doorbell.
    pub doorbells: Vec<Arc<Doorbell>>,
}

impl Signals {
    /// For `queues` queues.
    pub fn new(queues: usize) -> Self {
        Self {
            status: AtomicU8::new(0),
            generation: AtomicU8::new(0),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            doorbells: (0..queues).map(|_| Arc::default()).collect(),
        }
    }

    /// The device status.
    pub fn status(&self) -> u8 {
        self.status.load(Ordering::Acquire)
    }

    /// The driver is done; there may be work in queue `index`.
    pub fn notify(&self, index: u16) {
        if let Some(doorbell) = self.doorbells.get(usize::from(index)) {
            doorbell.ring();
        }
    }

    /// The device cannot go on because of what the driver did. True if the
    /// driver is to be told: it had the device running.
    pub fn set_needs_reset(&self, name: &str, why: &str) -> bool {
        log::warn!(target: "guest_errors", "{name}: {why}");
        let before = self.status.fetch_or(status::NEEDS_RESET, Ordering::AcqRel);
        before & status::DRIVER_OK != 0
    }

    fn reset(&self) {
        self.status.store(0, Ordering::Release);
        let vectors = self.queue_vectors.iter();
        for vector in vectors.chain([&self.config_vector]) {
            vector.store(NO_VECTOR, Ordering::Relaxed);
        }
    }
}

/// A queue as the driver describes it.
#[derive(Clone, Copy, Debug, Default)]
pub struct QueueSetup {
    /// Largest size.
    pub max_size: u16,
    /// Size chosen by the driver.
    pub size: u16,
    /// The driver uses it.
    pub enabled: bool,
    /// Guest-physical addresses of descriptor table, available and used ring.
    pub rings: [u64; 3],
    /// Index of its next request.
    pub next: u16,
}

impl QueueSetup {
    fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: max_size,
            ..Self::default()
        }
    }

    /// The queue, if it can work at all.
    fn build(&self, event_idx: bool, memory: &GuestMemory) -> Option<Queue> {
        let mut queue = Queue::new(self.max_size).ok()?;
        let [descriptors, available, used] = self.rings.map(GuestAddress);
        queue.try_set_size(self.size).ok()?;
        queue.try_set_desc_table_address(descriptors).ok()?;
        queue.try_set_avail_ring_address(available).ok()?;
        queue.try_set_used_ring_address(used).ok()?;
        queue.set_event_idx(event_idx);
        queue.set_next_avail(self.next);
        queue.set_next_used(self.next);
        queue.set_ready(true);
        queue.is_valid(&**memory).then_some(queue)
    }
}

/// The registers behind a lock.
pub struct Setup {
    device: Arc<dyn VirtioDevice>,
    memory: GuestMemory,
    signals: Arc<Signals>,
    /// Which 32 feature bits the registers show.
    pub device_feature_select: u32,
    /// Which 32 feature bits the driver writes.
    pub driver_feature_select: u32,
    driver_features: u64,
    /// Which queue the registers show.
    pub queue_select: u16,
    queues: Vec<QueueSetup>,
    active: bool,
    /// It was unplugged: nothing makes it active again.
    retired: bool,
}

impl Setup {
    /// A device after reset.
    pub fn new(device: Arc<dyn VirtioDevice>, memory: GuestMemory, signals: Arc<Signals>) -> Self {
        let sizes = device.queue_sizes();
        Self {
            queues: sizes.into_iter().map(QueueSetup::new).collect(),
            device,
            memory,
            signals,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            queue_select: 0,
            active: false,
            retired: false,
        }
    }

    /// Number of queues.
    pub fn queues(&self) -> u16 {
        self.queues.len() as u16
    }

    /// The queue the registers show.
    pub fn queue(&self) -> QueueSetup {
        let queue = self.queues.get(usize::from(self.queue_select));
        queue.copied().unwrap_or_default()
    }

    /// The same, to change before it is in use.
    pub fn queue_mut(&mut self) -> Option<&mut QueueSetup> {
        let queue = self.queues.get_mut(usize::from(self.queue_select));
        queue.filter(|_| !self.active)
    }

    /// The driver chooses the size of the queue the registers show; what no
    /// queue can have changes nothing.
    pub fn set_queue_size(&mut self, size: u64) {
        if let Some(queue) = self.queue_mut()
            && size.is_power_of_two()
            && size <= queue.max_size.into()
        {
            queue.size = size as u16;
        }
    }

    fn offered(&self) -> u64 {
        self.device.features() | OFFERED
    }

    /// The offered feature bits that the selector shows.
    pub fn device_features(&self) -> u32 {
        match self.device_feature_select {
            0 => self.offered() as u32,
            1 => (self.offered() >> 32) as u32,
            _ => 0,
        }
    }

    /// The driver's feature bits that its selector shows.
    pub fn driver_features(&self) -> u32 {
        match self.driver_feature_select {
            0 => self.driver_features as u32,
            1 => (self.driver_features >> 32) as u32,
            _ => 0,
        }
    }

    /// The driver accepts features.
    pub fn set_driver_features(&mut self, value: u32) {
        if self.signals.status() & status::FEATURES_OK != 0 {
            return;
        }
        let (low, high) = (self.driver_features as u32, self.driver_features >> 32);
        match self.driver_feature_select {
            0 => self.driver_features = high << 32 | u64::from(value),
            1 => self.driver_features = u64::from(value) << 32 | u64::from(low),
            _ => {}
        }
    }

    /// The driver sets the device status; `interrupts` is how the device will
    /// answer.
    pub fn set_status(&mut self, value: u8, interrupts: Arc<dyn Interrupts>) {
        if value == 0 {
            return self.reset();
        }
        if self.retired {
            return;
        }
        let before = self.signals.status();
        let mut now = value | before & status::NEEDS_RESET;
        let acceptable = self.driver_features & !self.offered() == 0;
        if now & !before & status::FEATURES_OK != 0 && !acceptable {
            now &= !status::FEATURES_OK;
        }
        self.signals.status.store(now, Ordering::Release);
        if now & !before & status::DRIVER_OK != 0 && !self.active {
            self.activate(interrupts);
        }
    }

    fn activate(&mut self, interrupts: Arc<dyn Interrupts>) {
        self.active = true;
        let event_idx = self.driver_features & feature::EVENT_IDX != 0;
        let mut queues = Vec::new();
        for (index, setup) in self.queues.iter().enumerate().filter(|(_, q)| q.enabled) {
            let Some(queue) = setup.build(event_idx, &self.memory) else {
                return interrupts.needs_reset("a queue is not in guest memory or has a bad size");
            };
            let doorbell = self.signals.doorbells[index].clone();
            doorbell.reset();
            queues.push(ActiveQueue {
                index: index as u16,
                queue,
                memory: self.memory.clone(),
                doorbell,
                interrupts: interrupts.clone(),
            });
        }
        let activation = Activation {
            features: self.driver_features,
            queues,
            memory: self.memory.clone(),
            interrupts: interrupts.clone(),
        };
        if let Err(error) = self.device.activate(activation) {
            log::error!("{}: cannot start: {error}", self.device.kind().name);
            interrupts.needs_reset("the device cannot start");
        }
    }

    /// The device was unplugged: stops it for good.
    pub fn retire(&mut self) {
        self.retired = true;
        self.reset();
    }

    /// Back to the state after power-up; waits for the device's threads.
    pub fn reset(&mut self) {
        self.device.reset();
        self.signals.reset();
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.driver_features = 0;
        self.queue_select = 0;
        self.active = false;
        for queue in &mut self.queues {
            *queue = QueueSetup::new(queue.max_size);
        }
    }
}
