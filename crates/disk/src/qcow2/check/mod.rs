//! Checking an image: every cluster's refcount must be the number of
//! references to it, and the "exactly one" marks must be true.

mod counts;
mod repair;
mod walk;

use super::geometry::{COPIED, Entry, OFFSET_MASK, ZERO, entry_at, in_use};
use super::header::{CORRUPT, DIRTY};
use super::{Qcow2, snapshot_table};
use crate::device::BlockDevice;
use crate::errno::{Errno, IoResult, Result};
use crate::storage::StorageExt;
use counts::Counts;
use std::sync::atomic::Ordering;
use walk::Walk;

/// What a check found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Contradictions that lose data when written to.
    pub corruptions: u64,
    /// Clusters counted more often than they are used.
    pub leaks: u64,
    /// Things that could not be checked.
    pub check_errors: u64,
    /// Corruptions repaired.
    pub corruptions_fixed: u64,
    /// Leaks repaired.
    pub leaks_fixed: u64,
    /// End of the last cluster in use.
    pub image_end_offset: u64,
    /// Clusters of the disk.
    pub total_clusters: u64,
    /// Those with data.
    pub allocated_clusters: u64,
    /// Of these, compressed.
    pub compressed_clusters: u64,
    /// Of these, not behind their neighbour.
    pub fragmented_clusters: u64,
}

/// What to repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Nothing.
    None,
    /// Leaks.
    Leaks,
    /// Everything that can be.
    All,
}

/// A check that is going on.
struct Check<'a> {
    image: &'a Qcow2,
    repair: Repair,
    say: &'a mut dyn FnMut(&str),
    report: CheckReport,
    counts: Counts,
    /// The refcount structure must be built anew.
    rebuild: bool,
}

impl Qcow2 {
    /// Checks the image, telling each finding as a line.
    ///
    /// # Errors
    /// The check could not be finished.
    pub fn check(&self, repair: Repair, say: &mut dyn FnMut(&str)) -> Result<CheckReport> {
        let _alone = self.gate.write();
        if !self.read_only && !self.corrupt.load(Ordering::SeqCst) {
            // The walk reads tables from the file.
            self.sync()
                .map_err(|e| crate::Error::io("Check failed", e))?;
        }
        self.check_alone(repair, say)
    }

    pub(super) fn check_alone(
        &self,
        repair: Repair,
        say: &mut dyn FnMut(&str),
    ) -> Result<CheckReport> {
        let failed = |e| crate::Error::io("Check failed", e);
        let mut check = Check {
            image: self,
            repair,
            say,
            report: CheckReport::default(),
            counts: Counts::default(),
            rebuild: false,
        };
        check.count_references().map_err(failed)?;
        check.compare(repair).map_err(failed)?;
        if check.rebuild && repair == Repair::Leaks {
            (check.say)("ERROR need to rebuild refcount structures");
            return Err(failed(Errno::EIO));
        }
        if check.rebuild && repair == Repair::All {
            check.rebuild().map_err(failed)?;
        }
        check.check_marks().map_err(failed)?;
        if repair != Repair::None {
            self.settle().map_err(failed)?;
        }
        let sound = check.report.corruptions + check.report.check_errors == 0;
        if repair == Repair::All && sound {
            self.mark_sound().map_err(failed)?;
        }
        Ok(check.report)
    }
}

impl Qcow2 {
    /// Everything has been checked and repaired.
    fn mark_sound(&self) -> IoResult<()> {
        let damaged = DIRTY | CORRUPT;
        if self.header.lock().incompatible & damaged != 0 {
            self.update_header(|h| h.incompatible &= !damaged)?;
        }
        self.dirty.store(false, Ordering::Release);
        Ok(())
    }
}

impl Check<'_> {
    fn corruption(&mut self, text: &str) {
        (self.say)(text);
        self.report.corruptions += 1;
    }

    /// Clusters that the file has, wholly or in part.
    fn file_clusters(&self) -> IoResult<u64> {
        let len = self.image.file.length()?;
        Ok(self.image.geometry.clusters(len))
    }

    /// Counts a reference to each cluster of a range, times `times`.
    fn count(&mut self, offset: u64, len: u64, times: u32) -> IoResult<()> {
        if len == 0 {
            return Ok(());
        }
        let g = self.image.geometry;
        let file = self.image.file.length()?;
        let end = offset.saturating_add(len);
        if end > file && end - file >= g.cluster_size() {
            for _ in 0..times.min(8) {
                self.corruption(&format!(
                    "ERROR: counting reference for region exceeding the end of the file by one \
                     cluster or more: offset {offset:#x} size {len:#x}"
                ));
            }
            return Ok(());
        }
        for cluster in offset >> g.cluster_bits..=(end - 1) >> g.cluster_bits {
            self.counts.add(cluster, times)?;
        }
        Ok(())
    }

    fn count_references(&mut self) -> IoResult<()> {
        let image = self.image;
        let g = image.geometry;
        let header = image.header.lock().clone();
        self.report.total_clusters = g.clusters(image.len());
        self.count(0, g.cluster_size(), 1)?;
        let l1 = image.mapping.read().l1.clone();
        let mut walk = Walk::new(true);
        self.count(header.l1_offset, l1.len() as u64 * 8, 1)?;
        walk.l1(self, &l1)?;
        let snapshots = match snapshot_table::read(&*image.file, &header) {
            Ok(snapshots) => snapshots,
            Err(error) => {
                self.corruption(&format!("ERROR {error}"));
                Vec::new()
            }
        };
        for snapshot in &snapshots {
            if !snapshot_table::l1_is_sane(snapshot, g) {
                self.corruption(&format!(
                    "ERROR snapshot {} ({}) l1_offset={:#x}: L1 table is not cluster aligned; \
                     snapshot table entry corrupted",
                    snapshot.id, snapshot.name, snapshot.l1_offset
                ));
                continue;
            }
            let mut bytes = vec![0; snapshot.l1_entries as usize * 8];
            image.file.read_at(&mut bytes, snapshot.l1_offset)?;
            self.count(snapshot.l1_offset, bytes.len() as u64, 1)?;
            Walk::new(false).l1(self, &super::geometry::from_bytes(&bytes))?;
        }
        let table = snapshot_table::table_len(&snapshots);
        self.count(header.snapshots_offset, table, 1)?;
        self.count_refcount_structure()
    }

    fn count_refcount_structure(&mut self) -> IoResult<()> {
        let g = self.image.geometry;
        let (offset, table) = {
            let refcounts = self.image.refcounts.lock();
            let (offset, table) = refcounts.table();
            (offset, table.to_vec())
        };
        self.count(offset, table.len() as u64 * 8, 1)?;
        let end = self.file_clusters()?;
        for (index, entry) in table.into_iter().enumerate() {
            let block = entry & !0x1ff;
            if g.in_cluster(block) != 0 {
                self.corruption(&format!(
                    "ERROR refcount block {index} is not cluster aligned; refcount table entry \
                     corrupted"
                ));
                self.rebuild = true;
            } else if block != 0 && block >> g.cluster_bits >= end {
                self.corruption(&format!("ERROR refcount block {index} is outside image"));
                self.rebuild = true;
            } else if block != 0 {
                self.count(block, g.cluster_size(), 1)?;
                if self.counts.get(block >> g.cluster_bits) != 1 {
                    self.corruption(&format!(
                        "ERROR refcount block {index} refcount={}",
                        self.counts.get(block >> g.cluster_bits)
                    ));
                    self.rebuild = true;
                }
            }
        }
        Ok(())
    }

    /// The count in the file, as far as it can be read.
    fn stored(&mut self, cluster: u64) -> Option<u64> {
        let image = self.image;
        let result = image.refcounts.lock().get(image, cluster);
        match result {
            Ok(count) => Some(count),
            Err(errno) => {
                (self.say)(&format!(
                    "Can't get refcount for cluster {cluster}: {errno}"
                ));
                self.report.check_errors += 1;
                None
            }
        }
    }

    /// Compares each cluster's count with its references.
    fn compare(&mut self, repair: Repair) -> IoResult<()> {
        let mut highest = None;
        for cluster in 0..self.file_clusters()? {
            let references = self.counts.get(cluster);
            let Some(stored) = self.stored(cluster) else {
                self.rebuild = true;
                continue;
            };
            if stored > 0 || references > 0 {
                highest = Some(cluster);
            }
            if stored == references {
                continue;
            }
            let leak = stored > references;
            let detail = format!("cluster {cluster} refcount={stored} reference={references}");
            let prefix = if leak { "Leaked" } else { "ERROR" };
            (self.say)(&format!("{prefix} {detail}"));
            let fixable = match repair {
                Repair::None => false,
                Repair::Leaks => leak,
                Repair::All => leak || stored > 0,
            };
            let fixed = fixable && {
                (self.say)(&format!("Repairing {detail}"));
                self.store(cluster, references)
            };
            match (leak, fixed) {
                (true, true) => self.report.leaks_fixed += 1,
                (true, false) => self.report.leaks += 1,
                (false, true) => self.report.corruptions_fixed += 1,
                (false, false) => {
                    self.report.corruptions += 1;
                    self.rebuild |= stored == 0;
                }
            }
        }
        let end = highest.map_or(0, |c| c + 1);
        self.report.image_end_offset = end << self.image.geometry.cluster_bits;
        Ok(())
    }

    /// Checks the marks of the active tables.
    fn check_marks(&mut self) -> IoResult<()> {
        let image = self.image;
        let g = image.geometry;
        let l1 = image.mapping.read().l1.clone();
        for (index, entry) in in_use(&l1) {
            let table = entry & OFFSET_MASK;
            if table == 0 || g.in_cluster(table) != 0 {
                continue;
            }
            let Some(count) = self.stored(table >> g.cluster_bits) else {
                continue;
            };
            if (count == 1) != (entry & COPIED != 0) {
                let fix = self.mark(&format!(
                    "OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={entry:x} refcount={count}"
                ));
                if fix {
                    self.set_l1(index, marked(entry, count))?;
                }
            }
            self.check_table_marks(table)?;
        }
        Ok(())
    }

    fn check_table_marks(&mut self, table: u64) -> IoResult<()> {
        let g = self.image.geometry;
        let mut bytes = vec![0; g.cluster_size() as usize];
        if table >> g.cluster_bits >= self.file_clusters()? {
            return Ok(());
        }
        self.image.file.read_at(&mut bytes, table)?;
        let mut changed = false;
        for index in 0..bytes.len() / 8 {
            let entry = entry_at(&bytes, index);
            let offset = match g.decode(entry) {
                Ok(Entry::Data { offset, .. } | Entry::ZeroAllocated { offset, .. }) => offset,
                _ => continue,
            };
            let Some(count) = self.stored(offset >> g.cluster_bits) else {
                continue;
            };
            if (count == 1) != (entry & COPIED != 0) {
                let fix = self.mark(&format!(
                    "OFLAG_COPIED data cluster: l2_entry={entry:x} refcount={count}"
                ));
                if fix {
                    super::geometry::set_entry(&mut bytes, index, marked(entry, count));
                    changed = true;
                }
            }
        }
        match changed {
            true => self.write_table(table, &bytes),
            false => Ok(()),
        }
    }

    /// Tells a wrong mark; whether to repair it.
    fn mark(&mut self, text: &str) -> bool {
        let fix = self.repair == Repair::All;
        let prefix = if fix { "Repairing" } else { "ERROR" };
        (self.say)(&format!("{prefix} {text}"));
        match fix {
            true => self.report.corruptions_fixed += 1,
            false => self.report.corruptions += 1,
        }
        fix
    }
}

/// The entry with a true mark.
fn marked(entry: u64, count: u64) -> u64 {
    match count {
        1 => entry | COPIED,
        _ => entry & !COPIED,
    }
}

/// Bits of a standard L2 entry that must be 0.
fn reserved_bits(entry: u64) -> u64 {
    entry & !(OFFSET_MASK | COPIED | ZERO)
}
