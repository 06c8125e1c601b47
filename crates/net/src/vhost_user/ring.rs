//! A split virtqueue (virtio 1.2, 2.7) from the driver's side, in memory that the back
//! end writes to at any moment: whatever is read of it is checked.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Memory shared with the back end.
pub(super) type Memory = Arc<GuestMemoryMmap<()>>;

/// Offsets of the available and the used ring; the descriptors come first.
pub(super) const AVAILABLE: u64 = 0x1000;
pub(super) const USED: u64 = 0x2000;
/// Bytes of everything, for up to [`MAX_SIZE`] descriptors.
pub(super) const BYTES: u64 = 0x3000;
const MAX_SIZE: u16 = 256;
/// Offsets in a ring.
const INDEX: u64 = 2;
const ENTRIES: u64 = 4;
/// Flag of a ring: its reader need not be told.
const QUIET: u16 = 1;
/// Flag of a descriptor: the device writes to it.
pub(super) const WRITE: u16 = 2;

/// The queue.
#[derive(Debug)]
pub(super) struct Ring {
    memory: Memory,
    at: u64,
    size: u16,
    available: u16,
    used: u16,
    /// Which descriptors the back end has.
    lent: Vec<bool>,
}

fn outside<E>(_: E) -> io::Error {
    io::Error::other("a ring is outside of its memory")
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Ring {
    /// At an address of `memory`.
    pub(super) fn new(memory: Memory, at: u64, size: u16) -> Self {
        debug_assert!(size.is_power_of_two() && size <= MAX_SIZE);
        Self {
            memory,
            at,
            size,
            available: 0,
            used: 0,
            lent: vec![false; size.into()],
        }
    }

    /// Where it is.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// How many descriptors it has.
    pub(super) fn size(&self) -> u16 {
        self.size
    }

    /// Empty, as a back end that begins finds it.
    pub(super) fn reset(&mut self) -> io::Result<()> {
        let zeros = [0; BYTES as usize];
        let done = self.memory.write_slice(&zeros, GuestAddress(self.at));
        (self.available, self.used) = (0, 0);
        self.lent.fill(false);
        done.map_err(outside)
    }

    /// Lends descriptor `index`, which is ours.
    pub(super) fn lend(&mut self, index: u16, at: u64, len: u32, flags: u16) -> io::Result<()> {
        let mut descriptor = [0; 16];
        descriptor[..8].copy_from_slice(&at.to_le_bytes());
        descriptor[8..12].copy_from_slice(&len.to_le_bytes());
        descriptor[12..14].copy_from_slice(&flags.to_le_bytes());
        let place = GuestAddress(self.at + 16 * u64::from(index));
        self.memory
            .write_slice(&descriptor, place)
            .map_err(outside)?;
        let slot = self.at + AVAILABLE + ENTRIES + 2 * u64::from(self.available % self.size);
        self.store(slot, index, Ordering::Relaxed)?;
        self.lent[usize::from(index)] = true;
        self.available = self.available.wrapping_add(1);
        self.store(
            self.at + AVAILABLE + INDEX,
            self.available,
            Ordering::Release,
        )
    }

    /// A descriptor that comes back, and how many bytes were written.
    pub(super) fn take(&mut self) -> io::Result<Option<(u16, u32)>> {
        let index = self.load(self.at + USED + INDEX, Ordering::Acquire)?;
        if index == self.used {
            return Ok(None);
        }
        let slot = self.at + USED + ENTRIES + 8 * u64::from(self.used % self.size);
        let mut entry = [0; 8];
        let read = self.memory.read_slice(&mut entry, GuestAddress(slot));
        read.map_err(outside)?;
        let entry = u64::from_le_bytes(entry);
        let (head, len) = (entry as u32, (entry >> 32) as u32);
        // Also what holds if the index runs ahead of what was lent.
        let lent = usize::try_from(head)
            .ok()
            .and_then(|i| self.lent.get_mut(i));
        match lent {
            Some(lent) if *lent => *lent = false,
            _ => return Err(broken("it gives back a buffer that it has not")),
        }
        self.used = self.used.wrapping_add(1);
        Ok(Some((head as u16, len)))
    }

    /// The back end wants to be told of what was lent.
    pub(super) fn wants_kick(&self) -> io::Result<bool> {
        // It looks for more after it has said so.
        fence(Ordering::SeqCst);
        Ok(self.load(self.at + USED, Ordering::Relaxed)? & QUIET == 0)
    }

    /// Whether we want to be told of what comes back; something may have already.
    pub(super) fn listen(&self, listen: bool) -> io::Result<()> {
        let flags = if listen { 0 } else { QUIET };
        self.store(self.at + AVAILABLE, flags, Ordering::Relaxed)?;
        fence(Ordering::SeqCst);
        Ok(())
    }

    fn load(&self, at: u64, order: Ordering) -> io::Result<u16> {
        let word: u16 = self.memory.load(GuestAddress(at), order).map_err(outside)?;
        Ok(u16::from_le(word))
    }

    fn store(&self, at: u64, word: u16, order: Ordering) -> io::Result<()> {
        let stored = self.memory.store(word.to_le(), GuestAddress(at), order);
        stored.map_err(outside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0x10_0000;

    fn ring() -> (Ring, Memory) {
        let ranges = [(GuestAddress(BASE), BYTES as usize)];
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&ranges).expect("memory"));
        let mut ring = Ring::new(memory.clone(), BASE, 8);
        ring.reset().expect("it is there");
        (ring, memory)
    }

    /// What the back end does: gives `head` back.
    fn give_back(memory: &Memory, slot: u16, head: u32, len: u32) {
        let at = BASE + USED;
        let entry = GuestAddress(at + ENTRIES + 8 * u64::from(slot % 8));
        memory
            .write_obj(u64::from(len) << 32 | u64::from(head), entry)
            .expect("inside");
        memory
            .write_obj(slot.wrapping_add(1), GuestAddress(at + INDEX))
            .expect("inside");
    }

    #[test]
    fn buffers_come_back_in_any_order() {
        let (mut ring, memory) = ring();
        for round in 0..20u16 {
            ring.lend(3, 0x1234, 5, WRITE).expect("lent");
            ring.lend(7, 0x5678, 6, 0).expect("lent");
            assert!(ring.take().expect("sound").is_none());
            let slot = 2 * round;
            give_back(&memory, slot, 7, 0);
            give_back(&memory, slot + 1, 3, 5);
            assert_eq!(ring.take().expect("sound"), Some((7, 0)));
            assert_eq!(ring.take().expect("sound"), Some((3, 5)));
        }
        let index: u16 = memory
            .read_obj(GuestAddress(BASE + AVAILABLE + INDEX))
            .expect("inside");
        assert_eq!(index, 40);
    }

    #[test]
    fn what_was_not_lent_does_not_come_back() {
        for head in [4, 8, 0xffff, u32::MAX] {
            let (mut ring, memory) = ring();
            ring.lend(3, 0, 0, 0).expect("lent");
            give_back(&memory, 0, head, 0);
            ring.take().expect_err("it was not lent");
        }
        // The same once more, and an index that ran away.
        let (mut ring, memory) = ring();
        ring.lend(0, 0, 0, 0).expect("lent");
        give_back(&memory, 0x7fff, 0, 0);
        assert_eq!(ring.take().expect("sound"), Some((0, 0)));
        ring.take().expect_err("it is back already");
    }

    #[test]
    fn both_sides_say_whether_they_want_to_be_told() {
        let (ring, memory) = ring();
        assert!(ring.wants_kick().expect("inside"));
        memory
            .write_obj(1u16, GuestAddress(BASE + USED))
            .expect("inside");
        assert!(!ring.wants_kick().expect("inside"));
        for listen in [false, true] {
            ring.listen(listen).expect("inside");
            let flags: u16 = memory
                .read_obj(GuestAddress(BASE + AVAILABLE))
                .expect("inside");
            assert_eq!(flags, u16::from(!listen));
        }
    }
}
