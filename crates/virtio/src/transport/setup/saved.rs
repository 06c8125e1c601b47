//! The registers and the schema.

use super::{QueueSetup, Setup, Signals};
use crate::device::Interrupts;
use state::Result;
use state::virtio::{Queue, Transport};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use vm_memory::{Bytes, GuestAddress};

/// Offset of the index in a used ring (2.7.8).
const USED_INDEX: u64 = 2;

fn impossible(instance: &str, why: &str) -> state::Error {
    state::Error::Impossible {
        name: format!("virtio/{instance}"),
        why: why.into(),
    }
}

impl Setup {
    /// Stops the device's threads, which finish the requests they have taken,
    /// and notes where each queue stands.
    fn suspend(&mut self) -> Result<()> {
        if !self.device.suspend() {
            let name = self.device.kind().name;
            return Err(state::Error::Unsupported(name.into()));
        }
        if self.active {
            for queue in self.queues.iter_mut().filter(|q| q.enabled) {
                // Everything taken is finished: both indices are the same.
                let at = queue.rings[2].checked_add(USED_INDEX).map(GuestAddress);
                let index = at.and_then(|at| self.memory.read_obj(at).ok());
                queue.next = u16::from_le_bytes(index.unwrap_or_default());
            }
        }
        Ok(())
    }

    /// The device's threads go on where [`Self::save`] or [`Self::restore`]
    /// left off. The driver is told that something may be done: what was
    /// done last it may not have heard of.
    pub fn resume(&mut self, interrupts: Arc<dyn Interrupts>) {
        if self.active {
            self.activate(interrupts.clone());
            let used = (0u16..).zip(&self.queues).filter(|(_, q)| q.enabled);
            used.for_each(|(index, _)| interrupts.queue(index));
        }
    }

    /// Stops the device and says what a saved state holds of it.
    pub fn save(&mut self, isr: u8) -> Result<Transport> {
        self.suspend()?;
        let Signals {
            status,
            generation,
            config_vector,
            queue_vectors,
            ..
        } = &*self.signals;
        let queues = self.queues.iter().zip(queue_vectors).map(|(q, v)| Queue {
            size: q.size,
            enabled: q.enabled,
            rings: q.rings,
            vector: v.load(Ordering::Relaxed),
            next: q.next,
        });
        Ok(Transport {
            status: status.load(Ordering::Acquire),
            generation: generation.load(Ordering::Acquire),
            isr,
            config_vector: config_vector.load(Ordering::Relaxed),
            device_feature_select: self.device_feature_select,
            driver_feature_select: self.driver_feature_select,
            driver_features: self.driver_features,
            queue_select: self.queue_select,
            queues: queues.collect(),
            active: self.active,
        })
    }

    /// Takes over a saved state; the device begins with [`Self::resume`].
    pub fn restore(&mut self, saved: &Transport, instance: &str) -> Result<()> {
        if saved.queues.len() != self.queues.len() {
            return Err(impossible(instance, "another number of queues"));
        }
        if saved.driver_features & !self.offered() != 0 && saved.active {
            return Err(impossible(instance, "features that the device has not"));
        }
        self.reset();
        let signals = &*self.signals;
        signals.status.store(saved.status, Ordering::Release);
        signals
            .generation
            .store(saved.generation, Ordering::Release);
        signals
            .config_vector
            .store(saved.config_vector, Ordering::Relaxed);
        self.device_feature_select = saved.device_feature_select;
        self.driver_feature_select = saved.driver_feature_select;
        self.driver_features = saved.driver_features;
        self.queue_select = saved.queue_select;
        self.active = saved.active;
        let vectors = &signals.queue_vectors;
        for ((queue, vector), saved) in self.queues.iter_mut().zip(vectors).zip(&saved.queues) {
            vector.store(saved.vector, Ordering::Relaxed);
            *queue = QueueSetup {
                max_size: queue.max_size,
                size: saved.size,
                enabled: saved.enabled,
                rings: saved.rings,
                next: saved.next,
            };
        }
        Ok(())
    }
}
