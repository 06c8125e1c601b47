//! A bounded cache of pieces of metadata tables.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};

/// A table piece, found by its offset in the file.
struct Slot {
    offset: u64,
    state: State,
    /// Looked at since the hand passed last.
    used: AtomicBool,
    /// Differs from the file.
    dirty: bool,
    /// A copy is being written: the piece must stay.
    writing: bool,
}

impl Slot {
    fn loading(offset: u64) -> Self {
        Self {
            offset,
            state: State::Loading,
            // Whoever had it loaded looks at it next.
            used: AtomicBool::new(false),
            dirty: false,
            writing: false,
        }
    }
}

enum State {
    /// Somebody reads it from the file.
    Loading,
    Ready(Box<[u8]>),
}

/// What a look-up found.
pub(super) enum Found<'a> {
    Ready(&'a [u8]),
    /// Another thread is reading it.
    Loading,
    Missing,
}

/// A copy of a changed piece.
pub(super) type Changed = (u64, Box<[u8]>);

/// The cache. Look-ups need only a shared borrow; the hand of the clock finds
/// what has not been used for a while.
pub(super) struct Slices {
    slots: Vec<Slot>,
    index: HashMap<u64, usize, BuildHasherDefault<OffsetHasher>>,
    hand: usize,
    limit: usize,
}

impl Slices {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            slots: Vec::new(),
            index: HashMap::default(),
            hand: 0,
            limit: limit.max(2),
        }
    }

    pub(super) fn find(&self, offset: u64) -> Found<'_> {
        let Some(slot) = self.index.get(&offset).map(|&at| &self.slots[at]) else {
            return Found::Missing;
        };
        match &slot.state {
            State::Loading => Found::Loading,
            State::Ready(bytes) => {
                if !slot.used.load(Ordering::Relaxed) {
                    slot.used.store(true, Ordering::Relaxed);
                }
                Found::Ready(bytes)
            }
        }
    }

    /// The piece, to be changed. `None` if it is not there.
    pub(super) fn change(&mut self, offset: u64) -> Option<&mut [u8]> {
        let slot = self.index.get(&offset).map(|&at| &mut self.slots[at])?;
        match &mut slot.state {
            State::Loading => None,
            State::Ready(bytes) => {
                slot.dirty = true;
                *slot.used.get_mut() = true;
                Some(bytes)
            }
        }
    }

    /// Makes room for a piece and marks it as being loaded. False if nothing
    /// can be dropped before changes are written.
    pub(super) fn begin_load(&mut self, offset: u64) -> bool {
        let room = self.room();
        if let Some(at) = room {
            self.slots[at] = Slot::loading(offset);
            self.index.insert(offset, at);
        }
        room.is_some()
    }

    /// Ends a load: the bytes, or nothing if they could not be read.
    pub(super) fn end_load(&mut self, offset: u64, bytes: Option<Box<[u8]>>) {
        match (bytes, self.index.get(&offset)) {
            (Some(bytes), Some(&at)) => self.slots[at].state = State::Ready(bytes),
            (None, Some(&at)) => {
                self.index.remove(&offset);
                self.vacate(at);
            }
            (_, None) => {}
        }
    }

    /// A vacant slot is one that the index does not know.
    fn vacate(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        slot.state = State::Loading;
        slot.dirty = false;
        slot.writing = false;
        *slot.used.get_mut() = false;
    }

    fn occupied(&self, at: usize) -> bool {
        self.index.get(&self.slots[at].offset) == Some(&at)
    }

    /// A slot to use: a new one, a vacant one, or one whose piece is dropped.
    fn room(&mut self) -> Option<usize> {
        if self.slots.len() < self.limit {
            self.slots.push(Slot::loading(u64::MAX));
            return Some(self.slots.len() - 1);
        }
        // Twice around: the first time may only take the use marks away.
        for _ in 0..2 * self.slots.len() {
            let at = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            if !self.occupied(at) {
                return Some(at);
            }
            let slot = &mut self.slots[at];
            let idle = !slot.dirty && !slot.writing && matches!(slot.state, State::Ready(_));
            if idle && !std::mem::take(slot.used.get_mut()) {
                self.index.remove(&slot.offset);
                return Some(at);
            }
        }
        None
    }

    /// Copies of all changed pieces; they count as unchanged and stay until
    /// [`Self::written`] is told what became of the copies.
    pub(super) fn take_changes(&mut self) -> Vec<Changed> {
        let mut changes: Vec<Changed> = Vec::new();
        for slot in self.slots.iter_mut().filter(|s| s.dirty) {
            if let State::Ready(bytes) = &slot.state {
                slot.dirty = false;
                slot.writing = true;
                changes.push((slot.offset, bytes.clone()));
            }
        }
        changes.sort_by_key(|(offset, _)| *offset);
        changes
    }

    /// The copies are in the file, or (not `ok`) still to be written.
    pub(super) fn written(&mut self, changes: &[Changed], ok: bool) {
        for (offset, _) in changes {
            if let Some(&at) = self.index.get(offset) {
                self.slots[at].writing = false;
                self.slots[at].dirty |= !ok;
            }
        }
    }

    /// There are changes to be written.
    pub(super) fn dirty(&self) -> bool {
        self.slots.iter().any(|s| s.dirty)
    }

    /// Forgets pieces between two offsets, changed or not: what they belonged
    /// to is no table any more.
    pub(super) fn forget(&mut self, from: u64, to: u64) {
        for at in 0..self.slots.len() {
            let offset = self.slots[at].offset;
            if (from..to).contains(&offset) && self.occupied(at) {
                self.index.remove(&offset);
                self.vacate(at);
            }
        }
    }
}

/// Mixes an offset: the low bits are zeros.
#[derive(Default)]
pub(super) struct OffsetHasher(u64);

impl Hasher for OffsetHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u64(self.0 ^ u64::from(*b));
        }
    }

    fn write_u64(&mut self, value: u64) {
        // 2^64 divided by the golden ratio (Knuth, TAOCP 6.4).
        let mixed = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(slices: &mut Slices, offset: u64) -> bool {
        let room = slices.begin_load(offset);
        if room {
            slices.end_load(offset, Some(vec![offset as u8; 8].into()));
        }
        room
    }

    fn has(slices: &Slices, offset: u64) -> bool {
        matches!(slices.find(offset), Found::Ready(_))
    }

    #[test]
    fn the_limit_holds_and_what_is_used_stays() {
        let mut slices = Slices::new(4);
        for n in 0..100 {
            assert!(load(&mut slices, n));
            assert!(has(&slices, 0), "0 was used before each load");
        }
        assert!(has(&slices, 99));
        assert_eq!(slices.slots.len(), 4);
    }

    #[test]
    fn changed_pieces_are_never_dropped() {
        let mut slices = Slices::new(2);
        for n in 0..2 {
            load(&mut slices, n);
            slices.change(n).expect("loaded")[0] = 77;
        }
        assert!(!load(&mut slices, 9), "both are changed");
        let changes = slices.take_changes();
        assert_eq!(changes.len(), 2);
        assert!(!load(&mut slices, 9), "both are being written");
        slices.written(&changes, false);
        assert!(slices.dirty() && !load(&mut slices, 9), "writing failed");
        let changes = slices.take_changes();
        slices.written(&changes, true);
        assert!(load(&mut slices, 9));
    }

    #[test]
    fn a_change_while_writing_is_written_again() {
        let mut slices = Slices::new(2);
        load(&mut slices, 1);
        slices.change(1).expect("loaded")[0] = 1;
        let first = slices.take_changes();
        slices.change(1).expect("loaded")[0] = 2;
        slices.written(&first, true);
        let second = slices.take_changes();
        assert_eq!((first[0].1[0], second[0].1[0]), (1, 2));
    }

    #[test]
    fn failed_loads_leave_nothing() {
        let mut slices = Slices::new(2);
        assert!(slices.begin_load(5));
        assert!(matches!(slices.find(5), Found::Loading));
        slices.end_load(5, None);
        assert!(matches!(slices.find(5), Found::Missing));
        for n in 10..20 {
            assert!(load(&mut slices, n));
        }
    }
}
