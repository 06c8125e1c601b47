//! Discarding and zeroing.

use super::Qcow2;
use super::geometry::{Entry, ZERO};
use crate::buffer::Source;
use crate::errno::IoResult;

/// What becomes of the clusters of a range.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Contents do not matter, space is given back.
    Discarded,
    /// Zeros, and space is given back.
    Unmapped,
    /// Zeros, and space is kept.
    Zeroed,
    /// The disk ends before them.
    Removed,
}

impl Qcow2 {
    pub(super) fn discard_guest(&self, offset: u64, end: u64) -> IoResult<()> {
        let g = self.geometry;
        let first = offset.next_multiple_of(g.cluster_size());
        // The disk's last cluster may be a part of one.
        let last = match end == self.size() {
            true => end.next_multiple_of(g.cluster_size()),
            false => g.cluster_start(end),
        };
        match first < last {
            true => self.change_range(first, last, Fate::Discarded),
            false => Ok(()),
        }
    }

    pub(super) fn zero_guest(&self, offset: u64, end: u64, unmap: bool) -> IoResult<()> {
        let g = self.geometry;
        let first = offset.next_multiple_of(g.cluster_size());
        let size = self.size();
        let last = match end == size {
            true => end.next_multiple_of(g.cluster_size()),
            false => g.cluster_start(end),
        };
        if first >= last {
            return self.write_zeros(offset, end);
        }
        self.write_zeros(offset, first)?;
        if last < end {
            self.write_zeros(last, end)?;
        }
        // Version 2 has no way to say "zeros" above a backing file.
        if self.version < 3 && self.backing.is_some() {
            return self.write_zeros(first, last.min(size));
        }
        let fate = if unmap { Fate::Unmapped } else { Fate::Zeroed };
        self.change_range(first, last, fate)
    }

    /// Zeros as data, where they are not zeros yet.
    fn write_zeros(&self, offset: u64, end: u64) -> IoResult<()> {
        static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
        let mut at = offset;
        while at < end {
            let run = {
                let _request = self.grace.enter();
                self.map(at, end - at)?
            };
            let unallocated = run.entry == Entry::Unallocated;
            let zero = run.reads_zero() || unallocated && self.backing_covers(at) == 0;
            let len = match zero {
                true => run.len,
                false => run.len.min(ZEROS.len() as u64),
            };
            if !zero {
                self.write_guest(&[Source::from(&ZEROS[..len as usize])], at)?;
            }
            at += len;
        }
        Ok(())
    }

    /// Forgets what is in whole clusters behind a new end of the disk.
    pub(super) fn remove_range(&self, first: u64, last: u64) -> IoResult<()> {
        self.change_range(first, last, Fate::Removed)
    }

    /// Changes whole clusters, piece by piece.
    fn change_range(&self, first: u64, last: u64, fate: Fate) -> IoResult<()> {
        let g = self.geometry;
        let mut at = first;
        while at < last {
            let end = last.min(self.mapping.read().slice_end(at));
            let _claim = self.claims.claim(at, end);
            let run = self.map(at, end - at)?;
            if let Some(entry) = self.changed(run.entry, at, fate) {
                self.own_table(at)?;
                let clusters = run.len >> g.cluster_bits;
                let new = |_, before| match entry {
                    Changed::Keep => before | ZERO,
                    Changed::To(value) => value,
                };
                self.link(at, clusters, new, fate != Fate::Zeroed)?;
            }
            at += run.len;
        }
        Ok(())
    }

    /// The new entry for clusters mapped so; `None` if it can stay.
    fn changed(&self, entry: Entry, guest: u64, fate: Fate) -> Option<Changed> {
        if fate == Fate::Removed {
            return (entry != Entry::Unallocated).then_some(Changed::To(0));
        }
        let shows_backing = self.backing_covers(guest) > 0;
        let nothing = match shows_backing {
            // What was discarded must not become the backing file's again.
            true if self.version >= 3 => Changed::To(ZERO),
            true => return None,
            false => Changed::To(0),
        };
        match (fate, entry) {
            (Fate::Discarded, Entry::Unallocated) => None,
            (_, Entry::Unallocated) => shows_backing.then_some(nothing),
            (_, Entry::Zero) => None,
            (Fate::Zeroed, Entry::ZeroAllocated { .. }) => None,
            (Fate::Zeroed, Entry::Data { copied: true, .. }) if self.version >= 3 => {
                Some(Changed::Keep)
            }
            _ => Some(nothing),
        }
    }
}

/// A new L2 entry.
enum Changed {
    /// The same host cluster, reading as zeros.
    Keep,
    /// This one.
    To(u64),
}
