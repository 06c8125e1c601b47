//! Reading the disk.

use super::geometry::Entry;
use super::mapping::Run;
use super::{Qcow2, compressed};
use crate::buffer::{Cursor, Dest, scatter, total_len};
use crate::device::{Division, Status, Way};
use crate::errno::IoResult;
use crate::storage::StorageExt;

/// Pieces of a transfer that make it one of many.
const MANY_PIECES: u64 = 4;

impl Qcow2 {
    pub(super) fn read_guest(&self, buffers: &[Dest], offset: u64) -> IoResult<()> {
        let _request = self.grace.enter();
        let end = offset + total_len(buffers) as u64;
        let mut cursor = Cursor::new(buffers);
        let mut at = offset;
        while at < end {
            let run = self.map(at, end - at)?;
            let parts = cursor.take(run.len as usize);
            self.read_run(&run, &parts, at)?;
            at += run.len;
        }
        Ok(())
    }

    fn read_run(&self, run: &Run, parts: &[Dest], guest: u64) -> IoResult<()> {
        match run.entry {
            Entry::Data { offset, .. } => self.file.read_vectored_at(parts, offset + run.skip),
            Entry::Zero | Entry::ZeroAllocated { .. } => {
                parts.iter().for_each(|p| p.zero());
                Ok(())
            }
            Entry::Unallocated => self.read_backing(parts, guest),
            Entry::Compressed { offset, len } => {
                let cluster = self.decompress(offset, len)?;
                scatter(&cluster[run.skip as usize..], parts);
                Ok(())
            }
        }
    }

    /// What the image does not have itself.
    fn read_backing(&self, parts: &[Dest], guest: u64) -> IoResult<()> {
        let covered = self.backing_covers(guest).min(total_len(parts) as u64);
        let mut cursor = Cursor::new(parts);
        let first = cursor.take(covered as usize);
        if let (Some(backing), true) = (&self.backing, covered > 0) {
            backing.read_vectored_at(&first, guest)?;
        }
        let rest = cursor.take(usize::MAX);
        rest.iter().for_each(|p| p.zero());
        Ok(())
    }

    /// Bytes from `guest` on that the backing file has.
    pub(super) fn backing_covers(&self, guest: u64) -> u64 {
        let len = self.backing.as_ref().map_or(0, |b| b.len());
        len.saturating_sub(guest)
    }

    pub(super) fn decompress(&self, offset: u64, len: u64) -> IoResult<Vec<u8>> {
        // At most two clusters and a sector, by the descriptor's width.
        let mut packed = vec![0; len as usize];
        self.file.read_at(&mut packed, offset)?;
        compressed::unpack(&packed, self.geometry.cluster_size() as usize)
    }

    /// What was at the bytes `guest` before a write to their cluster; `rel` is
    /// their offset from the start of the run's first cluster. False, and
    /// nothing read, if they were zeros.
    pub(super) fn read_old(
        &self,
        run: &Run,
        rel: u64,
        guest: u64,
        out: &mut [u8],
    ) -> IoResult<bool> {
        match run.entry {
            Entry::Data { offset, .. } => self.file.read_at(out, offset + rel)?,
            Entry::Zero | Entry::ZeroAllocated { .. } => return Ok(false),
            Entry::Unallocated if self.backing_covers(guest) == 0 => return Ok(false),
            Entry::Unallocated => self.read_backing(&[Dest::from(out)], guest)?,
            Entry::Compressed { offset, len } => {
                let cluster = self.decompress(offset, len)?;
                let rel = rel as usize;
                out.copy_from_slice(&cluster[rel..rel + out.len()]);
            }
        }
        Ok(true)
    }

    /// How a transfer is done, by what it begins with.
    pub(super) fn divide(&self, way: Way, offset: u64, len: u64) -> Division {
        let _request = self.grace.enter();
        let Ok(run) = self.map(offset, len) else {
            return Division::Whole;
        };
        match (way, run.entry) {
            (Way::Read, Entry::Data { .. }) | (_, Entry::Data { copied: true, .. }) => {
                self.file.division(way, run.len <= len / MANY_PIECES)
            }
            (Way::Read, Entry::Compressed { .. }) => Division::Copied,
            (Way::Read, Entry::Unallocated) => {
                let backing = self.backing.as_ref();
                backing.map_or(Division::Whole, |b| b.division(way, offset, run.len))
            }
            // New clusters follow each other.
            (Way::Write, _) => self.file.division(way, false),
            (Way::Read, Entry::Zero | Entry::ZeroAllocated { .. }) => Division::Whole,
        }
    }

    pub(super) fn describe(&self, run: &Run, guest: u64) -> IoResult<Status> {
        let unallocated = run.entry == Entry::Unallocated;
        let covered = self.backing_covers(guest);
        // Where the backing file ends, the answer changes.
        let len = match unallocated && covered > 0 {
            true => run.len.min(covered),
            false => run.len,
        };
        let compressed = matches!(run.entry, Entry::Compressed { .. });
        let mut status = Status {
            len,
            data: compressed || run.host().is_some(),
            zero: run.reads_zero() || unallocated && covered == 0,
            allocated: !unallocated,
            compressed,
            host_offset: match run.entry {
                Entry::Data { offset, .. } | Entry::ZeroAllocated { offset, .. } => {
                    Some(offset + run.skip)
                }
                _ => None,
            },
        };
        if let (Some(host), true) = (run.host(), self.has_holes()) {
            let extent = self.file.extent(host, status.len)?;
            status.len = extent.len;
            status.zero = !extent.data;
        }
        Ok(status)
    }

    /// The file takes much less space than its length: many clusters have been
    /// allocated and not written. Then, as QEMU does, the file is asked which
    /// ones.
    fn has_holes(&self) -> bool {
        let look = || {
            let g = self.geometry;
            let used = g.clusters(self.file.space_used().ok()?);
            let all = g.clusters(self.file.length().ok()?);
            Some(all > used + (used / 10).max(2))
        };
        *self.holes.get_or_init(|| look().unwrap_or(false))
    }
}
