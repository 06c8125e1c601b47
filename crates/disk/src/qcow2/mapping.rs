//! From guest clusters to host clusters: the active L1 table and the cached
//! pieces of its L2 tables.

use super::geometry::{
    BadEntry, COPIED, Entry, Geometry, OFFSET_MASK, entry_at, set_entry, to_bytes,
};
use super::slices::{Changed, Found, Slices};
use std::collections::BTreeSet;
use std::ops::Range;

/// Memory for L2 pieces, in bytes: with clusters of 64 KiB enough for 256 GiB
/// of disk at once.
pub(super) const L2_CACHE: u64 = 32 << 20;

/// L1 entries that are written together: a sector.
const L1_GROUP: usize = 64;

/// A run of guest bytes that are all alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// How the first byte's cluster is mapped. The clusters of a run of data
    /// follow each other in the file.
    pub(super) entry: Entry,
    /// Offset of the first byte in its cluster.
    pub(super) skip: u64,
    /// Bytes.
    pub(super) len: u64,
}

impl Run {
    /// Where the first byte is in the file.
    pub(super) fn host(&self) -> Option<u64> {
        match self.entry {
            Entry::Data { offset, .. } => Some(offset + self.skip),
            _ => None,
        }
    }

    /// The bytes are zeros by themselves.
    pub(super) fn reads_zero(&self) -> bool {
        matches!(self.entry, Entry::Zero | Entry::ZeroAllocated { .. })
    }
}

/// What a look-up says.
pub(super) enum Lookup {
    Run(Run),
    /// This piece of an L2 table must be read first.
    Load(u64),
    /// Another thread reads it.
    Wait,
    /// The image is corrupt.
    Bad,
}

/// A reference that the tables no longer make, or will not when they are
/// written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dropped {
    /// Number of the first cluster.
    pub(super) first: u64,
    pub(super) count: u64,
    /// Requests that began in this phase or before may still use it.
    pub(super) phase: usize,
    /// The clusters' space goes back to the host if nothing else refers to
    /// them.
    pub(super) punch: bool,
}

/// What must be written so that the file agrees with the tables in memory.
pub(super) struct Changes {
    pub(super) l2: Vec<Changed>,
    /// (offset in the file, bytes).
    pub(super) l1: Vec<(u64, Vec<u8>)>,
    /// References that are gone when all of this is written.
    pub(super) dropped: Vec<Dropped>,
}

impl Changes {
    /// Nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.l1.is_empty() && self.l2.is_empty()
    }
}

/// The tables.
pub(super) struct Mapping {
    pub(super) geometry: Geometry,
    pub(super) l1: Vec<u64>,
    pub(super) l1_offset: u64,
    changed_groups: BTreeSet<usize>,
    pub(super) slices: Slices,
    pub(super) dropped: Vec<Dropped>,
}

impl Mapping {
    /// An active L1 table, with `cache` bytes for pieces of L2 tables.
    pub(super) fn new(geometry: Geometry, l1: Vec<u64>, l1_offset: u64, cache: u64) -> Self {
        let limit = cache / geometry.slice_size();
        Self {
            geometry,
            l1,
            l1_offset,
            changed_groups: BTreeSet::new(),
            slices: Slices::new(limit as usize),
            dropped: Vec::new(),
        }
    }

    /// Offset of the L2 table for a guest offset; 0 if there is none.
    pub(super) fn table(&self, guest: u64) -> Result<u64, BadEntry> {
        let index = self.geometry.l1_index(guest);
        let offset = self.l1.get(index).map_or(0, |e| e & OFFSET_MASK);
        match self.geometry.in_cluster(offset) {
            0 => Ok(offset),
            _ => Err(BadEntry),
        }
    }

    /// The L2 table exists and nobody else refers to it.
    pub(super) fn owns_table(&self, guest: u64) -> bool {
        let entry = self.l1.get(self.geometry.l1_index(guest));
        entry.is_some_and(|e| e & COPIED != 0 && e & OFFSET_MASK != 0)
    }

    /// Sets the L1 entry for a guest offset.
    pub(super) fn set_table(&mut self, guest: u64, table: u64) {
        let index = self.geometry.l1_index(guest);
        self.l1[index] = table | COPIED;
        self.changed_groups.insert(index / L1_GROUP);
    }

    /// Where the guest cluster's entry is: offset of the piece, index in it.
    fn place(&self, table: u64, guest: u64) -> (u64, usize) {
        let g = self.geometry;
        let per_slice = g.slice_size() / 8;
        let index = g.l2_index(guest);
        let slice = table + index / per_slice * g.slice_size();
        (slice, (index % per_slice) as usize)
    }

    /// Looks up `len` bytes at most. A run ends with its piece of a table.
    pub(super) fn look_up(&self, guest: u64, len: u64) -> Lookup {
        let g = self.geometry;
        let skip = g.in_cluster(guest);
        let Ok(table) = self.table(guest) else {
            return Lookup::Bad;
        };
        if table == 0 {
            let rest = g.l1_span() - guest % g.l1_span();
            return Lookup::Run(Run {
                entry: Entry::Unallocated,
                skip,
                len: len.min(rest),
            });
        }
        let (offset, index) = self.place(table, guest);
        let bytes = match self.slices.find(offset) {
            Found::Ready(bytes) => bytes,
            Found::Loading => return Lookup::Wait,
            Found::Missing => return Lookup::Load(offset),
        };
        let Ok(entry) = g.decode(entry_at(bytes, index)) else {
            return Lookup::Bad;
        };
        let wanted = g.clusters(skip + len);
        let most = wanted.min((bytes.len() / 8 - index) as u64);
        let mut clusters = 1;
        while clusters < most
            && follows(
                g,
                entry,
                clusters,
                entry_at(bytes, index + clusters as usize),
            )
        {
            clusters += 1;
        }
        Lookup::Run(Run {
            entry,
            skip,
            len: len.min((clusters << g.cluster_bits) - skip),
        })
    }

    /// Where the first of some guest clusters would be, if they lay about one
    /// of them that has data of ours as they do on the disk. They must be of
    /// one piece, which must be loaded.
    pub(super) fn surroundings(&self, clusters: Range<u64>) -> Option<u64> {
        let g = self.geometry;
        let guest = clusters.start << g.cluster_bits;
        let table = self.table(guest).ok().filter(|t| *t != 0)?;
        let (offset, index) = self.place(table, guest);
        let Found::Ready(bytes) = self.slices.find(offset) else {
            return None;
        };
        (0..clusters.end - clusters.start).find_map(|n| {
            match g.decode(entry_at(bytes, index + n as usize)) {
                Ok(Entry::Data {
                    offset,
                    copied: true,
                }) => (offset >> g.cluster_bits).checked_sub(n),
                _ => None,
            }
        })
    }

    /// The first guest offset after `guest` that another piece describes.
    pub(super) fn slice_end(&self, guest: u64) -> u64 {
        let span = self.geometry.slice_size() / 8 * self.geometry.cluster_size();
        (guest / span + 1) * span
    }

    /// Enters new mappings for clusters from `guest` on; they must be of one
    /// piece, which must be loaded, of a table of our own. The old entries
    /// are given to `old`, with the new ones. False if the piece is not there.
    pub(super) fn link(
        &mut self,
        guest: u64,
        clusters: u64,
        entry: impl Fn(u64, u64) -> u64,
        mut old: impl FnMut(u64, u64),
    ) -> bool {
        let Ok(table) = self.table(guest) else {
            return false;
        };
        let (offset, index) = self.place(table, guest);
        let Some(bytes) = self.slices.change(offset) else {
            return false;
        };
        for n in 0..clusters {
            let at = index + n as usize;
            let before = entry_at(bytes, at);
            let after = entry(n, before);
            if after != before {
                set_entry(bytes, at, after);
                old(before, after);
            }
        }
        true
    }

    /// The piece of an L2 table for a guest offset, if there is a table.
    pub(super) fn slice_of(&self, guest: u64) -> Option<u64> {
        let table = self.table(guest).ok().filter(|t| *t != 0)?;
        Some(self.place(table, guest).0)
    }

    /// What must be written, with the references that are dropped by it.
    pub(super) fn take_changes(&mut self) -> Changes {
        let groups = std::mem::take(&mut self.changed_groups);
        let group = |n: usize| {
            let entries = self.l1.chunks(L1_GROUP).nth(n).unwrap_or_default();
            let at = self.l1_offset + (n * L1_GROUP * 8) as u64;
            (at, to_bytes(entries))
        };
        Changes {
            l1: groups.into_iter().map(group).collect(),
            l2: self.slices.take_changes(),
            dropped: std::mem::take(&mut self.dropped),
        }
    }

    /// The changes are in the file, or (not `ok`) still to be written.
    pub(super) fn written(&mut self, changes: &Changes, ok: bool) {
        self.slices.written(&changes.l2, ok);
        if !ok {
            for (at, _) in &changes.l1 {
                let group = (at - self.l1_offset) as usize / 8 / L1_GROUP;
                self.changed_groups.insert(group);
            }
            self.dropped.extend_from_slice(&changes.dropped);
        }
    }

    /// Uses a longer L1 table, which is in the file already.
    pub(super) fn replace_l1(&mut self, l1: Vec<u64>, offset: u64) {
        self.l1 = l1;
        self.l1_offset = offset;
    }

    /// Uses another L1 table, which is in the file already; the old one, with
    /// its offset. Nothing may be waiting to be written.
    pub(super) fn switch_l1(&mut self, l1: Vec<u64>, offset: u64) -> (Vec<u64>, u64) {
        self.slices.forget(0, u64::MAX);
        let old = std::mem::replace(&mut self.l1, l1);
        (old, std::mem::replace(&mut self.l1_offset, offset))
    }

    /// Something is to be written.
    pub(super) fn dirty(&self) -> bool {
        !self.changed_groups.is_empty() || self.slices.dirty() || !self.dropped.is_empty()
    }

    /// A cluster that is a table.
    pub(super) fn is_own(&self, cluster: u64) -> bool {
        let g = self.geometry;
        let first = self.l1_offset >> g.cluster_bits;
        let offset = cluster << g.cluster_bits;
        (first..first + g.clusters(self.l1.len() as u64 * 8)).contains(&cluster)
            || self.l1.iter().any(|e| e & OFFSET_MASK == offset)
    }
}

/// Whether the cluster `n` after one of `entry` continues its run.
fn follows(g: Geometry, entry: Entry, n: u64, raw: u64) -> bool {
    let Ok(other) = g.decode(raw) else {
        return false;
    };
    let step = n << g.cluster_bits;
    match (entry, other) {
        (Entry::Unallocated, Entry::Unallocated) | (Entry::Zero, Entry::Zero) => true,
        (
            Entry::Data { offset, copied },
            Entry::Data {
                offset: o,
                copied: c,
            },
        )
        | (
            Entry::ZeroAllocated { offset, copied },
            Entry::ZeroAllocated {
                offset: o,
                copied: c,
            },
        ) => o == offset + step && c == copied,
        _ => false,
    }
}
