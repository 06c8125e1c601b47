//! A queue that gives many requests back before the driver is told of them, and
//! several at one moment if they belong together.

use crate::queue::{ActiveQueue, Broken};
use std::sync::atomic::{Ordering, fence};
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress};

/// Offset of the entries of a ring, and of the index in it (2.7.6, 2.7.8).
const ENTRIES: u64 = 4;
const INDEX: u64 = 2;
/// Bytes of an entry of the used ring, and of the available ring.
const USED_ENTRY: u64 = 8;
const AVAILABLE_ENTRY: u64 = 2;
/// Flag of the available ring: the driver wants no interrupts.
const NO_INTERRUPT: u16 = 1;

/// The queue, and how far the driver has been told.
pub(crate) struct Burst {
    pub(crate) queue: ActiveQueue,
    told: u16,
}

impl Burst {
    pub(crate) fn new(queue: ActiveQueue) -> Self {
        let told = queue.queue.next_used();
        Self { queue, told }
    }

    /// Gives requests back, which the driver finds at once or not at all: their
    /// heads, and how many bytes of their buffers were filled. There are no more
    /// than the queue holds.
    pub(crate) fn put(
        &mut self,
        used: impl ExactSizeIterator<Item = (u16, u32)>,
    ) -> Result<(), Broken> {
        let (ring, memory) = (&mut self.queue.queue, &self.queue.memory);
        let bad = |_| Broken("the used ring is not in guest memory");
        let mut next = ring.next_used();
        for (head, written) in used {
            let slot = u64::from(next % ring.size());
            let at = GuestAddress(ring.used_ring() + ENTRIES + USED_ENTRY * slot);
            let entry = u64::from(written) << 32 | u64::from(head);
            memory.write_obj(entry.to_le(), at).map_err(bad)?;
            next = next.wrapping_add(1);
        }
        ring.set_next_used(next);
        let at = GuestAddress(ring.used_ring() + INDEX);
        memory
            .store(next.to_le(), at, Ordering::Release)
            .map_err(bad)
    }

    /// Tells the driver of what was put since the last time, if it wants to
    /// know.
    pub(crate) fn signal(&mut self) -> Result<(), Broken> {
        let next = self.queue.queue.next_used();
        let before = std::mem::replace(&mut self.told, next);
        if before != next && self.wants_to_know(before, next)? {
            self.queue.interrupts.queue(self.queue.index);
        }
        Ok(())
    }

    /// What the driver says of interrupts (2.7.7): of all, or that one of the
    /// requests from `before` on is the one it waits for.
    fn wants_to_know(&self, before: u16, next: u16) -> Result<bool, Broken> {
        let ring = &self.queue.queue;
        // The driver looks at the used ring after it has said so.
        fence(Ordering::SeqCst);
        let read = |offset: u64| {
            let at = GuestAddress(ring.avail_ring() + offset);
            let word = self.queue.memory.load(at, Ordering::Relaxed);
            word.map(u16::from_le)
                .map_err(|_| Broken("the available ring is not in guest memory"))
        };
        if !ring.event_idx_enabled() {
            return Ok(read(0)? & NO_INTERRUPT == 0);
        }
        let event = read(ENTRIES + AVAILABLE_ENTRY * u64::from(ring.size()))?;
        let since = next.wrapping_sub(event).wrapping_sub(1);
        Ok(since < next.wrapping_sub(before))
    }
}
