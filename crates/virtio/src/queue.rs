//! A queue in use: takes requests, returns them, and tells the driver.

use crate::chain::Chain;
use crate::device::Interrupts;
use crate::doorbell::Doorbell;
use crate::memory::{GuestMemory, WriteHook};
use std::sync::Arc;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;

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
    /// Takes the next request, if there is one, out of the available ring.
    /// Its buffers lie in `memory`, which is [`Self::memory`].
    pub(crate) fn pop<'m>(
        &mut self,
        memory: &'m GuestMemoryMmap<WriteHook>,
    ) -> Result<Option<Chain<'m>>, Broken> {
        let descriptors = self.queue.iter(memory)?.next();
        descriptors.map(|d| Chain::collect(memory, d)).transpose()
    }

    /// Gives a request back: `written` bytes of its buffers were filled.
    pub(crate) fn complete(&mut self, head: u16, written: u32) -> Result<(), Broken> {
        self.queue.add_used(&*self.memory, head, written)?;
        if self.queue.needs_notification(&*self.memory)? {
            self.interrupts.queue(self.index);
        }
        Ok(())
    }

    /// Takes the next request and has `act` serve it. `act` returns how many
    /// bytes it wrote.
    fn next(
        &mut self,
        act: &mut impl FnMut(Chain<'_>) -> Result<u32, Broken>,
    ) -> Result<bool, Broken> {
        let memory = self.memory.clone();
        let Some(chain) = self.pop(&memory)? else {
            return Ok(false);
        };
        let head = chain.head;
        let written = act(chain)?;
        self.complete(head, written)?;
        Ok(true)
    }

    /// Serves requests while `ready`, until the queue is empty or the worker
    /// shall end. Who makes it ready again rings the doorbell.
    pub(crate) fn drain(
        &mut self,
        mut ready: impl FnMut() -> bool,
        mut act: impl FnMut(Chain<'_>) -> Result<u32, Broken>,
    ) -> Result<(), Broken> {
        loop {
            self.hush()?;
            while ready() && self.next(&mut act)? {
                if self.doorbell.is_stopped() {
                    return Ok(());
                }
            }
            // Something may have come before notifications were on again.
            if !self.listen()? || !ready() {
                return Ok(());
            }
        }
    }

    /// Asks for no notifications.
    pub(crate) fn hush(&mut self) -> Result<(), Broken> {
        Ok(self.queue.disable_notification(&*self.memory)?)
    }

    /// Asks for notifications; true if there is a request already.
    pub(crate) fn listen(&mut self) -> Result<bool, Broken> {
        Ok(self.queue.enable_notification(&*self.memory)?)
    }

    /// A worker's life: serves requests in order until the doorbell stops, or
    /// until the driver breaks the rules.
    pub fn serve(self, mut act: impl FnMut(Chain<'_>) -> Result<u32, Broken>) {
        self.work(|queue| queue.drain(|| true, &mut act));
    }

    /// The same for a queue whose requests wait for something: `turn` does
    /// what can be done now, at every ring of the doorbell. The queue comes
    /// back when the doorbell stops.
    pub(crate) fn work(
        mut self,
        mut turn: impl FnMut(&mut Self) -> Result<(), Broken>,
    ) -> Option<Self> {
        loop {
            if let Err(Broken(why)) = turn(&mut self) {
                self.interrupts.needs_reset(why);
                return None;
            }
            if !self.doorbell.wait() {
                return Some(self);
            }
        }
    }
}
