//! Changing the size of the disk.

use super::Qcow2;
use super::geometry::{COPIED, Entry, MAX_L1_BYTES, to_bytes};
use crate::buffer::Source;
use crate::device::Preallocation;
use crate::errno::{Errno, IoResult};
use crate::storage::StorageExt;
use std::sync::atomic::Ordering;

impl Qcow2 {
    /// Nobody else uses the image meanwhile.
    pub(super) fn change_size(&self, len: u64, preallocation: Preallocation) -> IoResult<()> {
        let old = self.len.load(Ordering::Acquire);
        self.sync()?;
        if len < old {
            return self.shrink(old, len);
        }
        self.grow_l1(len)?;
        self.update_header(|h| h.size = len)?;
        self.len.store(len, Ordering::Release);
        self.hide_what_was_behind(old, len)?;
        match preallocation {
            Preallocation::Off => Ok(()),
            _ => self.preallocate(old, len, preallocation),
        }?;
        self.sync()
    }

    fn shrink(&self, old: u64, len: u64) -> IoResult<()> {
        let size = self.geometry.cluster_size();
        self.remove_range(len.next_multiple_of(size), old.next_multiple_of(size))?;
        self.update_header(|h| h.size = len)?;
        self.len.store(len, Ordering::Release);
        self.sync()
    }

    /// Makes the L1 table long enough for a disk of `len` bytes.
    fn grow_l1(&self, len: u64) -> IoResult<()> {
        let g = self.geometry;
        let wanted = g.l1_entries(len) as usize;
        let (mut l1, old_offset) = {
            let mapping = self.mapping.read();
            (mapping.l1.clone(), mapping.l1_offset)
        };
        let old_entries = l1.len();
        if wanted <= old_entries {
            return Ok(());
        }
        if wanted as u64 * 8 > MAX_L1_BYTES {
            return Err(Errno(libc::EFBIG));
        }
        l1.resize(wanted, 0);
        self.mark_dirty()?;
        let clusters = g.clusters(wanted as u64 * 8);
        let run = self.refcounts.lock().allocate_exactly(self, clusters)?;
        let offset = run.first << g.cluster_bits;
        let result = self
            .file
            .write_at(&to_bytes(&l1), offset)
            .and_then(|()| self.refcounts.lock().write_changes(&*self.file))
            .and_then(|()| self.file.flush())
            .and_then(|()| {
                self.update_header(|h| {
                    h.l1_offset = offset;
                    h.l1_entries = wanted as u32;
                })
            });
        if let Err(errno) = result {
            self.release(run.first, clusters);
            return Err(errno);
        }
        self.mapping.write().replace_l1(l1, offset);
        if old_entries > 0 {
            let clusters = g.clusters(old_entries as u64 * 8);
            self.release(old_offset >> g.cluster_bits, clusters);
        }
        Ok(())
    }

    /// What comes into view by growing is zeros, whatever the last cluster or
    /// a longer backing file has there.
    fn hide_what_was_behind(&self, old: u64, len: u64) -> IoResult<()> {
        let end = len.min(old.next_multiple_of(self.geometry.cluster_size()));
        let covered = len.min(old.saturating_add(self.backing_covers(old)));
        if old < end {
            self.zero_rest_of_cluster(old, end)?;
        }
        match end < covered {
            true => self.zero_guest(end, covered, true),
            false => Ok(()),
        }
    }

    fn zero_rest_of_cluster(&self, from: u64, to: u64) -> IoResult<()> {
        let run = self.map(from, to - from)?;
        match run.entry {
            Entry::Unallocated if self.backing_covers(from) == 0 => Ok(()),
            Entry::Zero | Entry::ZeroAllocated { .. } => Ok(()),
            _ => {
                let zeros = vec![0; (to - from) as usize];
                self.write_guest(&[Source::from(&zeros[..])], from)
            }
        }
    }

    /// Maps everything from `old` to `len`.
    fn preallocate(&self, old: u64, len: u64, how: Preallocation) -> IoResult<()> {
        let g = self.geometry;
        let mut at = old.next_multiple_of(g.cluster_size());
        let mut file_end = self.file.length()?;
        while at < len {
            let end = len.min(self.mapping.read().slice_end(at));
            let run = self.map(at, end - at)?;
            if matches!(run.entry, Entry::Unallocated) {
                self.own_table(at)?;
                let taken = self.allocate(g.clusters(run.len))?;
                let host = taken.first << g.cluster_bits;
                let bytes = taken.count << g.cluster_bits;
                self.provide(host, bytes, how, taken.fresh)?;
                file_end = file_end.max(host + bytes);
                let entry = |n: u64, _| (host + (n << g.cluster_bits)) | COPIED;
                self.link(at, taken.count, entry, false)?;
                at += bytes;
            } else {
                at += run.len;
            }
        }
        match file_end > self.file.length()? {
            true => self.file.set_len(file_end),
            false => Ok(()),
        }
    }

    /// Space for new clusters that are to read as zeros.
    fn provide(&self, host: u64, bytes: u64, how: Preallocation, fresh: bool) -> IoResult<()> {
        match how {
            Preallocation::Full => {
                let zeros = vec![0; (1 << 20).min(bytes as usize)];
                let mut at = host;
                while at < host + bytes {
                    let piece = (host + bytes - at).min(zeros.len() as u64);
                    self.file.write_at(&zeros[..piece as usize], at)?;
                    at += piece;
                }
                Ok(())
            }
            Preallocation::Falloc if fresh => self.file.allocate(host, bytes),
            Preallocation::Falloc => self.file.zero(host, bytes, false),
            _ if fresh => Ok(()),
            _ => self.file.zero(host, bytes, true),
        }
    }
}
