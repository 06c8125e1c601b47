//! A queue in use: takes requests, returns them, and tells the driver.

use crate::chain::Chain;
use crate::device::Interrupts;
use crate::doorbell::Doorbell;
use crate::memory::GuestMemory;
use std::sync::Arc;
use virtio_queue::{Queue, QueueOwnedT, QueueT};

/// The driver broke the rules; what it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(pub &'static str);

impl From<virtio_queue::Error> for Broken {
    fn from(_: virtio_queue::Error) -> Self {
        Self("a ring is inconsistent or not in guest memory")
    }
}

/// A queue the driver has set up, with everything its worker needs.
pub struct ActiveQueue {
    /// Its number.
    pub index: u16,
    pub(crate) queue: Queue,
    /// Guest memory.
    pub memory: GuestMemory,
    /// Rung by the driver.
    pub doorbell: Arc<Doorbell>,
    /// To the driver.
    pub interrupts: Arc<dyn Interrupts>,
}

impl ActiveQueue {
    /// Takes the next request, if there is one, out of the available ring and
    /// has `act` serve it. `act` returns how many bytes it wrote.
    fn next(
        &mut self,
        act: &mut impl FnMut(Chain<'_>) -> Result<u32, Broken>,
    ) -> Result<bool, Broken> {
        let memory = &*self.memory;
        let Some(descriptors) = self.queue.iter(memory)?.next() else {
            return Ok(false);
        };
        let chain = Chain::collect(memory, descriptors)?;
        let head = chain.head;
        let written = act(chain)?;
        self.queue.add_used(memory, head, written)?;
        if self.queue.needs_notification(memory)? {
            self.interrupts.queue(self.index);
        }
        Ok(true)
    }

    /// Serves requests until the queue is empty or the worker shall end.
    fn drain(
        &mut self,
        act: &mut impl FnMut(Chain<'_>) -> Result<u32, Broken>,
    ) -> Result<(), Broken> {
        loop {
            self.queue.disable_notification(&*self.memory)?;
            while self.next(act)? {
                if self.doorbell.is_stopped() {
                    return Ok(());
                }
            }
            // Something may have come before notifications were on again.
            if !self.queue.enable_notification(&*self.memory)? {
                return Ok(());
            }
        }
    }

    /// A worker's life: serves requests in order until the doorbell stops, or
    /// until the driver breaks the rules.
    pub fn serve(mut self, mut act: impl FnMut(Chain<'_>) -> Result<u32, Broken>) {
        loop {
            if let Err(Broken(why)) = self.drain(&mut act) {
                self.interrupts.needs_reset(why);
                return;
            }
            if !self.doorbell.wait() {
                return;
            }
        }
    }
}
