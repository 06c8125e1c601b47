//! Repairs: counts, marks, and the refcount structure as a whole.

use super::Check;
use crate::errno::IoResult;
use crate::qcow2::refcounts::Refcounts;
use crate::storage::StorageExt;
use std::collections::BTreeSet;

impl Check<'_> {
    /// Stores a count; false if that failed.
    pub(super) fn store(&mut self, cluster: u64, count: u64) -> bool {
        let image = self.image;
        image.refcounts.lock().store(image, cluster, count).is_ok()
    }

    pub(super) fn set_l1(&mut self, index: usize, entry: u64) -> IoResult<()> {
        let offset = {
            let mut mapping = self.image.mapping.write();
            mapping.l1[index] = entry;
            mapping.l1_offset
        };
        let at = offset + index as u64 * 8;
        self.image.file.write_at(&entry.to_be_bytes(), at)
    }

    pub(super) fn write_table(&mut self, table: u64, bytes: &[u8]) -> IoResult<()> {
        let size = self.image.geometry.cluster_size();
        let mut mapping = self.image.mapping.write();
        mapping.slices.forget(table, table + size);
        self.image.file.write_at(bytes, table)
    }

    /// Clusters of the refcount structure that is given up.
    fn old_structure(&self) -> IoResult<BTreeSet<u64>> {
        let g = self.image.geometry;
        let end = self.file_clusters()?;
        let refcounts = self.image.refcounts.lock();
        let (offset, table) = refcounts.table();
        let first = offset >> g.cluster_bits;
        let own = first..first + g.clusters(table.len() as u64 * 8);
        let blocks = table.iter().filter(|e| **e != 0 && g.in_cluster(**e) == 0);
        let blocks = blocks.map(|e| e >> g.cluster_bits).filter(|c| *c < end);
        Ok(own.chain(blocks).collect())
    }

    /// Builds a new refcount structure behind everything that is in use. The
    /// old one's clusters become free.
    pub(super) fn rebuild(&mut self) -> IoResult<()> {
        (self.say)("Rebuilding refcount structure");
        let image = self.image;
        let g = image.geometry;
        let found = std::mem::take(&mut self.report);
        let old = self.old_structure()?;
        self.counts = super::Counts::default();
        {
            // Nothing of the old structure is to be counted.
            let mut refcounts = image.refcounts.lock();
            *refcounts = Refcounts::new(g, Vec::new(), 0, 0);
        }
        let mut silent = |_: &str| {};
        let mut again = Check {
            image,
            repair: self.repair,
            say: &mut silent,
            report: super::CheckReport::default(),
            counts: super::Counts::default(),
            rebuild: false,
        };
        again.count_references()?;
        let used = again.counts.used();
        let end = self
            .file_clusters()?
            .max(used.last().map_or(0, |u| u.0 + 1));
        let mut refcounts = image.refcounts.lock();
        for cluster in old {
            if used.binary_search_by_key(&cluster, |u| u.0).is_err() {
                (self.say)(&format!(
                    "Repairing cluster {cluster} refcount=1 reference=0"
                ));
            }
        }
        refcounts.build_from(end);
        for (cluster, count) in used {
            refcounts.store(image, cluster, count)?;
        }
        refcounts.write_changes(&*image.file)?;
        image.file.flush()?;
        drop(refcounts);
        self.report = super::CheckReport {
            corruptions_fixed: found.corruptions + found.corruptions_fixed,
            corruptions: 0,
            check_errors: 0,
            ..found
        };
        self.rebuild = false;
        let end = self.file_clusters()? << g.cluster_bits;
        self.report.image_end_offset = end;
        Ok(())
    }
}
