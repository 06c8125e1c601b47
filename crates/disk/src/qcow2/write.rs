//! Writing the disk: in place where a cluster is ours alone, to new clusters
//! otherwise.

use super::Qcow2;
use super::geometry::{COPIED, Entry};
use super::mapping::{Dropped, Run};
use super::refcounts::{self, Refcounts};
use crate::buffer::{Cursor, Parts, Source, total_len};
use crate::errno::{Errno, IoResult};
use crate::storage::StorageExt;

/// References that may wait for a flush before we cause one.
const MAX_DROPPED: usize = 4096;

/// Host clusters for a write.
struct Place {
    /// Offset of the first.
    host: u64,
    clusters: u64,
    /// The file reads as zeros there.
    fresh: bool,
    /// They were the guest clusters' already.
    reused: bool,
}

impl Qcow2 {
    pub(super) fn write_guest(&self, buffers: &[Source], offset: u64) -> IoResult<()> {
        let end = offset + total_len(buffers) as u64;
        let mut cursor = Cursor::new(buffers);
        let mut at = offset;
        while at < end {
            let _request = self.grace.enter();
            let run = self.map(at, end - at)?;
            at += match run {
                Run {
                    entry: Entry::Data { copied: true, .. },
                    ..
                } => self.write_in_place(&run, &mut cursor)?,
                _ => self.write_elsewhere(&mut cursor, at, end)?,
            };
        }
        Ok(())
    }

    fn write_in_place(&self, run: &Run, cursor: &mut Cursor<Source>) -> IoResult<u64> {
        let host = run.host().ok_or(Errno::EIO)?;
        let parts = cursor.take(run.len as usize);
        self.file.write_vectored_at(&parts, host)?;
        Ok(run.len)
    }

    /// Writes to clusters that must be allocated or copied first; how many
    /// bytes.
    fn write_elsewhere(&self, cursor: &mut Cursor<Source>, at: u64, end: u64) -> IoResult<u64> {
        let g = self.geometry;
        let end = end.min(self.mapping.read().slice_end(at));
        let _claim = self
            .claims
            .claim(g.cluster_start(at), end.next_multiple_of(g.cluster_size()));
        // Somebody else may have mapped it before we had the claim.
        let mut run = self.map(at, end - at)?;
        if let Entry::Data { copied: true, .. } = run.entry {
            return self.write_in_place(&run, cursor);
        }
        self.own_table(at)?;
        let place = self.place_for(&run, at)?;
        run.len = run.len.min((place.clusters << g.cluster_bits) - run.skip);
        let parts = cursor.take(run.len as usize);
        let first = at - run.skip;
        let entry = |n: u64, _| (place.host + (n << g.cluster_bits)) | COPIED;
        let result = self
            .fill(&run, &parts, at, &place)
            .and_then(|()| self.link(first, place.clusters, entry, false));
        if result.is_err() && !place.reused {
            self.release(place.host >> g.cluster_bits, place.clusters);
        }
        result.map(|()| run.len)
    }

    /// Host clusters for the clusters that a run at `guest` touches, or for the
    /// first of them.
    fn place_for(&self, run: &Run, guest: u64) -> IoResult<Place> {
        let g = self.geometry;
        let clusters = g.clusters(run.skip + run.len);
        if let Entry::ZeroAllocated {
            offset,
            copied: true,
        } = run.entry
        {
            return Ok(Place {
                host: offset,
                clusters,
                fresh: false,
                reused: true,
            });
        }
        let taken = self.allocate_for(guest >> g.cluster_bits, clusters)?;
        Ok(Place {
            host: taken.first << g.cluster_bits,
            clusters: taken.count,
            fresh: taken.fresh,
            reused: false,
        })
    }

    /// Writes the guest's data to its new place, with what was around it in
    /// the clusters.
    fn fill(&self, run: &Run, parts: &[Source], guest: u64, place: &Place) -> IoResult<()> {
        let total = place.clusters << self.geometry.cluster_bits;
        let behind = run.skip + run.len;
        let head = self.surroundings(run, 0, run.skip, guest, place)?;
        let tail = self.surroundings(run, behind, total - behind, guest, place)?;
        let mut all: Parts<Source> = Parts::new();
        let start = match &head {
            Some(head) => {
                all.push(Source::from(&head[..]));
                place.host
            }
            None => place.host + run.skip,
        };
        all.extend_from_slice(parts);
        if let Some(tail) = &tail {
            all.push(Source::from(&tail[..]));
        }
        self.file.write_vectored_at(&all, start)
    }

    /// The old contents of `len` bytes at `rel` from the start of the run's
    /// first cluster; `None` if nothing needs to be written there.
    fn surroundings(
        &self,
        run: &Run,
        rel: u64,
        len: u64,
        guest: u64,
        place: &Place,
    ) -> IoResult<Option<Vec<u8>>> {
        if len == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; len as usize];
        let old = self.read_old(run, rel, guest - run.skip + rel, &mut bytes)?;
        Ok((old || !place.fresh).then_some(bytes))
    }

    /// Takes free clusters.
    pub(super) fn allocate(&self, wanted: u64) -> IoResult<refcounts::Run> {
        self.take_free(|refcounts| refcounts.allocate(self, wanted))
    }

    /// Takes free clusters for guest clusters from number `guest` on.
    fn allocate_for(&self, guest: u64, wanted: u64) -> IoResult<refcounts::Run> {
        self.take_free(|refcounts| refcounts.allocate_for(self, guest, wanted))
    }

    fn take_free(
        &self,
        take: impl FnOnce(&mut Refcounts) -> IoResult<refcounts::Run>,
    ) -> IoResult<refcounts::Run> {
        self.writable()?;
        self.mark_dirty()?;
        let mut refcounts = self.refcounts.lock();
        let run = take(&mut refcounts)?;
        let mut clusters = run.first..run.first + run.count;
        if !run.fresh && clusters.any(|c| refcounts.is_used(self, c)) {
            // Tables that are counted as free: writing there would destroy
            // them.
            drop(refcounts);
            return Err(self.found_corrupt());
        }
        Ok(run)
    }

    /// Gives clusters back that nothing refers to.
    pub(super) fn release(&self, first: u64, count: u64) {
        // They are leaked if this fails.
        let _ = self.refcounts.lock().decrement(self, first..first + count);
    }

    /// Makes sure that the L2 table for a guest offset exists and is not a
    /// snapshot's too.
    pub(super) fn own_table(&self, guest: u64) -> IoResult<()> {
        if self.mapping.read().owns_table(guest) {
            return Ok(());
        }
        let _one = self.l1_change.lock();
        let old = {
            let mapping = self.mapping.read();
            if mapping.owns_table(guest) {
                return Ok(());
            }
            mapping.table(guest)
        };
        let old = old.map_err(|_| self.found_corrupt())?;
        let g = self.geometry;
        let mut table = vec![0; g.cluster_size() as usize];
        if old != 0 {
            // A shared table is never changed, so the file has it as it is.
            self.file.read_at(&mut table, old)?;
        }
        let new = self.allocate(1)?.first;
        if let Err(errno) = self.file.write_at(&table, new << g.cluster_bits) {
            self.release(new, 1);
            return Err(errno);
        }
        let mut mapping = self.mapping.write();
        // The cluster may have been another table once.
        let place = new << g.cluster_bits;
        mapping.slices.forget(place, place + g.cluster_size());
        mapping.set_table(guest, place);
        if old != 0 {
            mapping.dropped.push(Dropped {
                first: old >> g.cluster_bits,
                count: 1,
                phase: self.grace.phase(),
                punch: false,
            });
        }
        Ok(())
    }

    /// Enters new mappings for clusters of one piece of a table of our own,
    /// which the caller has claimed. `entry` gets a cluster's number and its
    /// old entry.
    pub(super) fn link(
        &self,
        guest: u64,
        clusters: u64,
        entry: impl Fn(u64, u64) -> u64,
        punch: bool,
    ) -> IoResult<()> {
        let waiting = loop {
            let mut mapping = self.mapping.write();
            let mut dropped = Vec::new();
            let old = |before, after| dropped.extend(self.dropped(before, after, punch));
            if mapping.link(guest, clusters, &entry, old) {
                mapping.dropped.append(&mut dropped);
                break mapping.dropped.len();
            }
            let slice = mapping.slice_of(guest).ok_or(Errno::EIO)?;
            drop(mapping);
            self.load_slice(slice)?;
        };
        match waiting > MAX_DROPPED {
            true => self.sync(),
            false => Ok(()),
        }
    }

    /// What an entry refers to that its successor does not.
    fn dropped(&self, before: u64, after: u64, punch: bool) -> Option<Dropped> {
        let g = self.geometry;
        let host = |entry| match g.decode(entry) {
            Ok(Entry::Data { offset, .. } | Entry::ZeroAllocated { offset, .. }) => {
                Some((offset, g.cluster_size()))
            }
            Ok(Entry::Compressed { offset, len }) => Some((offset, len)),
            _ => None,
        };
        let (offset, len) = host(before)?;
        if host(after).is_some_and(|(o, _)| o == offset) {
            return None;
        }
        let first = offset >> g.cluster_bits;
        Some(Dropped {
            first,
            count: g.clusters(offset + len) - first,
            phase: self.grace.phase(),
            punch,
        })
    }
}
