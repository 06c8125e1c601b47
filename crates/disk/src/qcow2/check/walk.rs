//! Following an L1 table to everything it refers to.

use super::{Check, reserved_bits};
use crate::errno::IoResult;
use crate::qcow2::geometry::{COPIED, Entry, OFFSET_MASK, entry_at, in_use};
use crate::storage::StorageExt;
use std::collections::BTreeMap;

/// A walk through one L1 table.
pub(super) struct Walk {
    /// The image's own, whose clusters make the statistics.
    active: bool,
    /// Where the next data cluster would be if nothing were fragmented.
    expected: u64,
}

impl Walk {
    pub(super) fn new(active: bool) -> Self {
        Self {
            active,
            expected: 0,
        }
    }

    pub(super) fn l1(&mut self, check: &mut Check, l1: &[u64]) -> IoResult<()> {
        // A crafted table can name one L2 table a million times.
        let mut tables: BTreeMap<u64, u32> = BTreeMap::new();
        let mut order = Vec::new();
        for (_, entry) in in_use(l1) {
            let table = entry & OFFSET_MASK;
            if table == 0 {
                continue;
            }
            if entry & !(OFFSET_MASK | COPIED) != 0 {
                check.corruption(&format!(
                    "ERROR found L1 entry with reserved bits set: {entry:x}"
                ));
            }
            let times = tables.entry(table).or_insert(0);
            if *times == 0 {
                order.push(table);
            }
            *times += 1;
        }
        for table in order {
            let times = tables.get(&table).copied().unwrap_or(0);
            self.l2(check, table, times)?;
        }
        Ok(())
    }

    fn l2(&mut self, check: &mut Check, table: u64, times: u32) -> IoResult<()> {
        let g = check.image.geometry;
        check.count(table, g.cluster_size(), times)?;
        if g.in_cluster(table) != 0 {
            check.corruption(&format!(
                "ERROR l2_offset={table:x}: Table is not cluster aligned; L1 entry corrupted"
            ));
            // Whatever is there, it is no table.
            return Ok(());
        }
        if table >> g.cluster_bits >= check.file_clusters()? {
            return Ok(());
        }
        let mut bytes = vec![0; g.cluster_size() as usize];
        check.image.file.read_at(&mut bytes, table)?;
        for index in 0..bytes.len() / 8 {
            let entry = entry_at(&bytes, index);
            if entry != 0 {
                self.entry(check, entry, times)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, check: &mut Check, entry: u64, times: u32) -> IoResult<()> {
        let g = check.image.geometry;
        let decoded = g.decode(entry);
        if let Ok(Entry::Compressed { offset, len }) = decoded {
            if entry & COPIED != 0 {
                check.corruption(&format!(
                    "ERROR: coffset={offset:#x}: copied flag must never be set for compressed \
                     clusters"
                ));
            }
            if self.active {
                check.report.allocated_clusters += 1;
                check.report.compressed_clusters += 1;
                // Compressed clusters are never where the disk has them.
                check.report.fragmented_clusters += 1;
            }
            return check.count(offset, len, times);
        }
        if reserved_bits(entry) != 0 {
            check.corruption(&format!(
                "ERROR found l2 entry with reserved bits set: {entry:x}"
            ));
        }
        let offset = entry & OFFSET_MASK;
        let zero = matches!(decoded, Ok(Entry::Zero | Entry::ZeroAllocated { .. }));
        if offset == 0 {
            return Ok(());
        }
        if g.in_cluster(offset) != 0 {
            check.corruption(&format!(
                "ERROR offset={offset:x}: Data cluster is not properly aligned; L2 entry \
                 corrupted."
            ));
        }
        if self.active && !zero {
            check.report.allocated_clusters += 1;
            if self.expected != 0 && offset != self.expected {
                check.report.fragmented_clusters += 1;
            }
            self.expected = offset + g.cluster_size();
        }
        check.count(offset, g.cluster_size(), times)
    }
}
