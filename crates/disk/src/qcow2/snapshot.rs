//! Internal snapshots: a copy of the L1 table, and one more reference to
//! everything it leads to.
//!
//! While references are being counted, counts and marks disagree for a while.
//! The header's dirty bit is set meanwhile (in version 3), so that whoever
//! opens the image after a crash counts anew. The snapshot itself appears and
//! disappears with one write to the header.

use super::geometry::{
    COPIED, Entry, MAX_L1_BYTES, OFFSET_MASK, entry_at, from_bytes, set_entry, to_bytes,
};
use super::header::{DIRTY, Header};
use super::snapshot_table::{self, Snapshot};
use super::{Qcow2, Repair};
use crate::errno::{Errno, Error, IoResult, Result};
use crate::storage::{Storage, StorageExt};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

impl Qcow2 {
    /// The image's snapshots.
    ///
    /// # Errors
    /// The table is damaged or cannot be read.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>> {
        let header = self.header.lock().clone();
        snapshot_table::read(&*self.file, &header)
    }

    /// Takes a snapshot of the disk as it is.
    ///
    /// # Errors
    /// Its name is too long, or the host's.
    pub fn create_snapshot(&self, name: &str) -> Result<()> {
        let mut list = self.snapshots()?;
        let alone = self.gate.write();
        self.writable().map_err(plain)?;
        if name.len() > 255 || list.len() >= 65536 {
            return Err(Error::invalid("Invalid argument"));
        }
        let ids = list.iter().filter_map(|s| s.id.parse::<u64>().ok());
        let id = ids.max().unwrap_or(0) + 1;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default();
        self.begin_recount().map_err(plain)?;
        let l1 = self.mapping.read().l1.clone();
        let result = self.add_references(&l1).and_then(|()| {
            let l1_offset = self.write_l1_copy(&l1)?;
            list.push(Snapshot {
                id: id.to_string(),
                name: name.to_string(),
                seconds: now.as_secs() as u32,
                nanoseconds: now.subsec_nanos(),
                guest_time: 0,
                vm_state_size: 0,
                disk_size: self.size(),
                icount: Some(0),
                l1_offset,
                l1_entries: l1.len() as u32,
                unknown: Vec::new(),
            });
            self.write_snapshot_table(&list)
        });
        self.end_recount(alone, result)
    }

    /// Makes the disk what it was when a snapshot was taken.
    ///
    /// # Errors
    /// There is no such snapshot, or the host's.
    pub fn apply_snapshot(&self, id_or_name: &str) -> Result<()> {
        let list = self.snapshots()?;
        let snapshot = find(&list, id_or_name)?.clone();
        let alone = self.gate.write();
        self.writable().map_err(plain)?;
        let mut l1 = self.snapshot_l1(&snapshot)?;
        let needed = self.geometry.l1_entries(snapshot.disk_size) as usize;
        if needed as u64 * 8 > MAX_L1_BYTES {
            return Err(Error::invalid("Snapshot L1 table too large"));
        }
        l1.resize(l1.len().max(needed), 0);
        self.begin_recount().map_err(plain)?;
        let result = self
            .add_references(&l1)
            .and_then(|()| self.switch_l1(l1, snapshot.disk_size));
        self.end_recount(alone, result)
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// There is no such snapshot, or the host's.
    pub fn delete_snapshot(&self, id_or_name: &str) -> Result<()> {
        let mut list = self.snapshots()?;
        let snapshot = find(&list, id_or_name)?.clone();
        let alone = self.gate.write();
        self.writable().map_err(plain)?;
        let l1 = self.snapshot_l1(&snapshot)?;
        list.retain(|s| *s != snapshot);
        self.begin_recount().map_err(plain)?;
        let result = self.write_snapshot_table(&list).and_then(|()| {
            self.drop_references(&l1)?;
            let first = snapshot.l1_offset >> self.geometry.cluster_bits;
            let clusters = self.geometry.clusters(l1.len() as u64 * 8);
            self.release(first, clusters);
            Ok(())
        });
        self.end_recount(alone, result)
    }

    fn snapshot_l1(&self, snapshot: &Snapshot) -> Result<Vec<u64>> {
        if !snapshot_table::l1_is_sane(snapshot, self.geometry) {
            return Err(Error::invalid("Snapshot L1 table offset invalid"));
        }
        let mut bytes = vec![0; snapshot.l1_entries as usize * 8];
        self.file
            .read_at(&mut bytes, snapshot.l1_offset)
            .map_err(plain)?;
        Ok(from_bytes(&bytes))
    }

    /// From here on, counts and marks may disagree.
    fn begin_recount(&self) -> IoResult<()> {
        self.settle()?;
        // Regions of the disk may have to move on.
        self.refcounts.lock().forget_plots();
        if self.version >= 3 {
            self.update_header(|h| h.incompatible |= DIRTY)?;
            self.dirty.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// They agree again. If something failed on the way, everything is
    /// counted anew.
    fn end_recount(
        &self,
        _alone: parking_lot::RwLockWriteGuard<'_, ()>,
        result: IoResult<()>,
    ) -> Result<()> {
        let done = result
            .and_then(|()| self.refresh_marks())
            .and_then(|()| self.settle());
        if done.is_err() && !self.corrupt.load(Ordering::SeqCst) {
            self.check_alone(Repair::All, &mut |_| {})?;
        }
        done.map_err(plain)
    }

    /// Calls `visit` with every cluster range that an L1 table leads to.
    fn visit_references(
        &self,
        l1: &[u64],
        visit: &mut dyn FnMut(Range<u64>) -> IoResult<()>,
    ) -> IoResult<()> {
        let g = self.geometry;
        let mut table = vec![0; g.cluster_size() as usize];
        for offset in l1.iter().map(|e| e & OFFSET_MASK).filter(|o| *o != 0) {
            if g.in_cluster(offset) != 0 {
                return Err(self.found_corrupt());
            }
            self.file.read_at(&mut table, offset)?;
            let cluster = offset >> g.cluster_bits;
            visit(cluster..cluster + 1)?;
            for index in 0..table.len() / 8 {
                let (offset, len) = match g.decode(entry_at(&table, index)) {
                    Ok(Entry::Data { offset, .. } | Entry::ZeroAllocated { offset, .. }) => {
                        (offset, g.cluster_size())
                    }
                    Ok(Entry::Compressed { offset, len }) => (offset, len),
                    Ok(Entry::Unallocated | Entry::Zero) => continue,
                    Err(_) => return Err(self.found_corrupt()),
                };
                visit(offset >> g.cluster_bits..g.clusters(offset + len))?;
            }
        }
        Ok(())
    }

    fn add_references(&self, l1: &[u64]) -> IoResult<()> {
        let mut refcounts = self.refcounts.lock();
        self.visit_references(l1, &mut |clusters| refcounts.increment(self, clusters))?;
        refcounts.write_changes(&*self.file)
    }

    fn drop_references(&self, l1: &[u64]) -> IoResult<()> {
        let mut freed = Vec::new();
        {
            let mut refcounts = self.refcounts.lock();
            self.visit_references(l1, &mut |clusters| {
                freed.extend(refcounts.decrement(self, clusters)?);
                Ok(())
            })?;
        }
        let bits = self.geometry.cluster_bits;
        for cluster in freed {
            // Only space is lost if this fails.
            let _ = self.file.zero(cluster << bits, 1 << bits, true);
        }
        Ok(())
    }

    fn write_l1_copy(&self, l1: &[u64]) -> IoResult<u64> {
        let g = self.geometry;
        if l1.is_empty() {
            return Ok(0);
        }
        let clusters = g.clusters(l1.len() as u64 * 8);
        let run = self.refcounts.lock().allocate_exactly(self, clusters)?;
        let offset = run.first << g.cluster_bits;
        self.file.write_at(&to_bytes(l1), offset)?;
        Ok(offset)
    }

    /// Replaces the snapshot table, durably.
    fn write_snapshot_table(&self, list: &[Snapshot]) -> IoResult<()> {
        let g = self.geometry;
        let bytes = snapshot_table::to_bytes(list);
        let old = {
            let header = self.header.lock();
            (header.snapshots_offset, header.snapshots)
        };
        let old_len = match old.1 {
            0 => 0,
            _ => {
                let before = self.snapshots().map_err(|e| e.errno())?;
                snapshot_table::table_len(&before)
            }
        };
        let offset = match bytes.len() as u64 {
            0 => 0,
            len => {
                let clusters = g.clusters(len);
                let run = self.refcounts.lock().allocate_exactly(self, clusters)?;
                let offset = run.first << g.cluster_bits;
                self.file.write_at(&bytes, offset)?;
                offset
            }
        };
        self.refcounts.lock().write_changes(&*self.file)?;
        self.file.flush()?;
        self.update_header(|h| {
            h.snapshots = list.len() as u32;
            h.snapshots_offset = offset;
        })?;
        if old_len > 0 {
            self.release(old.0 >> g.cluster_bits, g.clusters(old_len));
        }
        Ok(())
    }

    /// Uses another L1 table, whose references are counted, for a disk of
    /// `size` bytes.
    fn switch_l1(&self, l1: Vec<u64>, size: u64) -> IoResult<()> {
        let g = self.geometry;
        let offset = self.write_l1_copy(&l1)?;
        self.refcounts.lock().write_changes(&*self.file)?;
        self.file.flush()?;
        self.update_header(|h| {
            h.l1_offset = offset;
            h.l1_entries = l1.len() as u32;
            h.size = size;
        })?;
        self.len.store(size, Ordering::Release);
        let (old, old_offset) = self.mapping.write().switch_l1(l1, offset);
        self.drop_references(&old)?;
        if !old.is_empty() {
            let clusters = g.clusters(old.len() as u64 * 8);
            self.release(old_offset >> g.cluster_bits, clusters);
        }
        Ok(())
    }

    /// Makes the marks in the active tables true.
    fn refresh_marks(&self) -> IoResult<()> {
        let g = self.geometry;
        let mut refcounts = self.refcounts.lock();
        let mut mapping = self.mapping.write();
        let mut mark = |entry: u64| -> IoResult<u64> {
            let cluster = (entry & OFFSET_MASK) >> g.cluster_bits;
            Ok(match refcounts.get(self, cluster)? {
                1 => entry | COPIED,
                _ => entry & !COPIED,
            })
        };
        let mut table = vec![0; g.cluster_size() as usize];
        for index in 0..mapping.l1.len() {
            let offset = mapping.l1[index] & OFFSET_MASK;
            if offset == 0 {
                continue;
            }
            mapping.l1[index] = mark(mapping.l1[index])?;
            self.file.read_at(&mut table, offset)?;
            let mut changed = false;
            for n in 0..table.len() / 8 {
                let entry = entry_at(&table, n);
                let markable = matches!(
                    g.decode(entry),
                    Ok(Entry::Data { .. } | Entry::ZeroAllocated { .. })
                );
                if markable && mark(entry)? != entry {
                    set_entry(&mut table, n, mark(entry)?);
                    changed = true;
                }
            }
            if changed {
                self.file.write_at(&table, offset)?;
                mapping.slices.forget(offset, offset + g.cluster_size());
            }
        }
        self.file
            .write_at(&to_bytes(&mapping.l1), mapping.l1_offset)
    }
}

/// The header that the image would have if a snapshot were its contents.
pub(super) fn header_of(
    file: &dyn Storage,
    mut header: Header,
    id_or_name: &str,
    writable: bool,
) -> Result<Header> {
    if writable {
        return Err(Error::invalid("Snapshots can only be opened read-only"));
    }
    let list = snapshot_table::read(file, &header)?;
    let snapshot =
        find(&list, id_or_name).map_err(|e| Error::new(e.errno(), "Can't find snapshot"))?;
    if !snapshot_table::l1_is_sane(snapshot, header.geometry) {
        return Err(Error::invalid("Snapshot L1 table offset invalid"));
    }
    header.l1_offset = snapshot.l1_offset;
    header.l1_entries = snapshot.l1_entries;
    header.size = snapshot.disk_size;
    Ok(header)
}

fn plain(errno: Errno) -> Error {
    Error::new(errno, errno.to_string())
}

/// By id first, as QEMU does, then by name.
fn find<'a>(list: &'a [Snapshot], id_or_name: &str) -> Result<&'a Snapshot> {
    let by_id = list.iter().find(|s| s.id == id_or_name);
    by_id
        .or_else(|| list.iter().find(|s| s.name == id_or_name))
        .ok_or_else(|| plain(Errno(libc::ENOENT)))
}
