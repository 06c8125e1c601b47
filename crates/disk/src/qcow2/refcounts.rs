//! Which clusters of the file are in use: the refcount table, its blocks, and
//! the search for free clusters.
//!
//! A refcount may be too high after a crash (a leak) but never too low. So
//! increments may reach the file at any time before what they protect, and a
//! decrement enters this table only when the reference is gone from the file.

mod plots;

use super::geometry::{Geometry, from_bytes, to_bytes};
use super::slices::{Found, Slices};
use crate::errno::{Errno, IoResult};
use crate::storage::{Storage, StorageExt};
use plots::Plots;
use std::collections::BTreeSet;
use std::ops::Range;

/// Pieces of refcount blocks kept in memory.
const CACHED_SLICES: usize = 256;

/// What the table needs of the image around it.
pub(super) trait Home {
    /// The image file.
    fn file(&self) -> &dyn Storage;

    /// Makes the header durably say where the refcount table is.
    ///
    /// # Errors
    /// The host's.
    fn table_moved(&self, offset: u64, clusters: u32) -> IoResult<()>;

    /// The cluster holds a table, whatever its count says.
    fn is_table(&self, cluster: u64) -> bool;

    /// Where the first of these guest clusters would be, judged by those of
    /// them that the file has.
    fn surroundings(&self, clusters: Range<u64>) -> Option<u64>;
}

/// Free clusters that have been taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Number of the first cluster.
    pub(super) first: u64,
    pub(super) count: u64,
    /// Nothing has ever been written there, so the file reads as zeros.
    pub(super) fresh: bool,
}

/// The refcounts. What it does with the file it does while the caller holds
/// its lock; only those who allocate or free wait for that.
pub(super) struct Refcounts {
    geometry: Geometry,
    /// Offsets of the refcount blocks.
    table: Vec<u64>,
    table_offset: u64,
    slices: Slices,
    plots: Plots,
    /// See [`super::Qcow2Options::in_order`].
    pub(super) in_order: bool,
    /// No cluster before this one is free, but those of plots.
    hint: u64,
    /// No cluster from this one on was ever written or set aside.
    fresh: u64,
    /// Where the next compressed cluster goes, inside a cluster that has some.
    packed_end: Option<u64>,
}

impl Refcounts {
    /// Reads the table.
    pub(super) fn open(
        file: &dyn Storage,
        geometry: Geometry,
        offset: u64,
        clusters: u32,
        fresh: u64,
    ) -> IoResult<Self> {
        let mut bytes = vec![0; (u64::from(clusters) << geometry.cluster_bits) as usize];
        file.read_at(&mut bytes, offset)?;
        Ok(Self::new(geometry, from_bytes(&bytes), offset, fresh))
    }

    /// A table whose blocks are in the file already.
    pub(super) fn new(geometry: Geometry, table: Vec<u64>, table_offset: u64, fresh: u64) -> Self {
        Self {
            geometry,
            table,
            table_offset,
            slices: Slices::new(CACHED_SLICES),
            plots: Plots::new(geometry),
            in_order: false,
            hint: 0,
            fresh,
            packed_end: None,
        }
    }

    /// Offset of the block that describes a cluster, unless there is none.
    fn block(&self, cluster: u64) -> IoResult<Option<u64>> {
        let index = cluster / self.geometry.refblock_entries();
        let entry = self.table.get(index as usize).map_or(0, |e| e & !0x1ff);
        match self.geometry.in_cluster(entry) {
            0 => Ok((entry != 0).then_some(entry)),
            // A table like this must not be written to either.
            _ => Err(Errno::EIO),
        }
    }

    /// Place of a cluster's refcount: offset of the piece, index in it.
    fn place(&self, cluster: u64) -> IoResult<Option<(u64, u64)>> {
        let g = self.geometry;
        let in_block = cluster % g.refblock_entries();
        let per_slice = g.slice_size() * 8 / u64::from(g.refcount_bits());
        let slice = in_block / per_slice * g.slice_size();
        let place = |block| (block + slice, in_block % per_slice);
        Ok(self.block(cluster)?.map(place))
    }

    /// Has the piece at this offset read in if need be.
    fn load(&mut self, home: &dyn Home, slice: u64) -> IoResult<()> {
        if matches!(self.slices.find(slice), Found::Ready(_)) {
            return Ok(());
        }
        if !self.slices.begin_load(slice) {
            // Nothing depends on when refcounts are written.
            self.write_changes(home.file())?;
            self.slices.begin_load(slice);
        }
        let mut bytes = vec![0; self.geometry.slice_size() as usize].into_boxed_slice();
        let read = home.file().read_at(&mut bytes, slice);
        self.slices.end_load(slice, read.is_ok().then_some(bytes));
        read
    }

    /// A cluster's refcount.
    pub(super) fn get(&mut self, home: &dyn Home, cluster: u64) -> IoResult<u64> {
        let Some((slice, index)) = self.place(cluster)? else {
            return Ok(0);
        };
        self.load(home, slice)?;
        match self.slices.find(slice) {
            Found::Ready(bytes) => Ok(read_count(bytes, index, self.geometry.refcount_order)),
            _ => Err(Errno::EIO),
        }
    }

    fn set(&mut self, home: &dyn Home, cluster: u64, count: u64) -> IoResult<()> {
        let (slice, index) = self.place(cluster)?.ok_or(Errno::EIO)?;
        self.load(home, slice)?;
        let bytes = self.slices.change(slice).ok_or(Errno::EIO)?;
        write_count(bytes, index, self.geometry.refcount_order, count);
        Ok(())
    }

    /// Sets a count, making the block for it if need be: for repairs.
    pub(super) fn store(&mut self, home: &dyn Home, cluster: u64, count: u64) -> IoResult<()> {
        if count > self.geometry.refcount_max() {
            return Err(Errno::EINVAL);
        }
        if self.block(cluster)?.is_none() {
            self.extend(home, self.hint.max(self.fresh), cluster..cluster + 1)?;
        }
        self.set(home, cluster, count)
    }

    /// Takes no cluster before `end`, whatever the counts say: for repairs.
    pub(super) fn build_from(&mut self, end: u64) {
        self.hint = end;
        self.fresh = end;
    }

    /// One more reference to each cluster.
    ///
    /// # Errors
    /// `EINVAL` if a refcount would not fit; the counts are then as before.
    pub(super) fn increment(&mut self, home: &dyn Home, clusters: Range<u64>) -> IoResult<()> {
        let start = clusters.start;
        for cluster in clusters {
            let count = match self.get(home, cluster) {
                Ok(count) if count < self.geometry.refcount_max() => Ok(count + 1),
                Ok(_) => Err(Errno::EINVAL),
                Err(errno) => Err(errno),
            };
            if let Err(errno) = count.and_then(|c| self.set(home, cluster, c)) {
                // Whoever asked has no reference: leaks at worst.
                let _ = self.decrement(home, start..cluster);
                return Err(errno);
            }
        }
        Ok(())
    }

    /// One reference less to each cluster; those that are free now.
    pub(super) fn decrement(
        &mut self,
        home: &dyn Home,
        clusters: Range<u64>,
    ) -> IoResult<Vec<u64>> {
        let mut freed = Vec::new();
        for cluster in clusters {
            let count = self.get(home, cluster)?;
            self.set(home, cluster, count.checked_sub(1).ok_or(Errno::EIO)?)?;
            if count == 1 {
                let packing = self.packed_end.map(|at| at >> self.geometry.cluster_bits);
                if packing == Some(cluster) {
                    self.packed_end = None;
                }
                self.hint = self.hint.min(cluster);
                self.plots.gave_back(self.fresh);
                freed.push(cluster);
            }
        }
        Ok(freed)
    }

    /// The first free cluster from `from` on.
    fn next_free(&mut self, home: &dyn Home, from: u64) -> IoResult<u64> {
        let mut cluster = from;
        // Offsets have 56 bits.
        while cluster >> (56 - self.geometry.cluster_bits) == 0 {
            let Some((slice, index)) = self.place(cluster)? else {
                return Ok(cluster);
            };
            self.load(home, slice)?;
            let Found::Ready(bytes) = self.slices.find(slice) else {
                return Err(Errno::EIO);
            };
            let order = self.geometry.refcount_order;
            let entries = (bytes.len() as u64 * 8) >> order;
            match (index..entries).find(|&i| read_count(bytes, i, order) == 0) {
                Some(free) => match self.plots.around(cluster - index + free) {
                    Some(plot) => cluster = plot.end,
                    None => return Ok(cluster - index + free),
                },
                None => cluster += entries - index,
            }
        }
        Err(Errno(libc::EFBIG))
    }

    /// Length of the free run at `first`, at most `max`.
    fn free_run(&mut self, home: &dyn Home, first: u64, max: u64) -> IoResult<u64> {
        let max = max.min(self.plots.distance(first));
        self.unused_run(home, first, max)
    }

    /// The same, of clusters that may be set aside.
    fn unused_run(&mut self, home: &dyn Home, first: u64, max: u64) -> IoResult<u64> {
        for n in 0..max {
            if self.get(home, first + n)? != 0 {
                return Ok(n);
            }
        }
        Ok(max)
    }

    /// Takes free clusters that follow each other: at least one, at most
    /// `wanted`.
    pub(super) fn allocate(&mut self, home: &dyn Home, wanted: u64) -> IoResult<Run> {
        loop {
            let first = self.next_free(home, self.hint)?;
            if self.block(first)?.is_none() {
                self.extend(home, first, first..first + 1)?;
                continue;
            }
            let entries = self.geometry.refblock_entries();
            let block_end = (first / entries + 1) * entries;
            let mut count = self.free_run(home, first, wanted.min(block_end - first))?;
            if first + count == block_end && count < wanted && self.block(block_end)?.is_some() {
                count += self.free_run(home, block_end, (wanted - count).min(entries))?;
            }
            self.hint = first;
            return self.take(home, first, count);
        }
    }

    /// Takes exactly so many clusters that follow each other.
    pub(super) fn allocate_exactly(&mut self, home: &dyn Home, wanted: u64) -> IoResult<Run> {
        let first = self.find_run(home, self.hint, wanted)?;
        let run = self.take(home, first, wanted)?;
        let mut taken = first..first + wanted;
        match !run.fresh && taken.any(|c| self.is_used(home, c)) {
            true => Err(Errno::EIO),
            false => Ok(run),
        }
    }

    /// The first of so many free clusters that follow each other, from `from`
    /// on. Their blocks are there.
    fn find_run(&mut self, home: &dyn Home, from: u64, wanted: u64) -> IoResult<u64> {
        let mut from = from;
        loop {
            let first = self.next_free(home, from)?;
            let run = self.free_run(home, first, wanted)?;
            if run < wanted {
                from = first + run;
                continue;
            }
            let clusters = first..first + wanted;
            if self.missing_blocks(clusters.clone())?.is_empty() {
                return Ok(first);
            }
            self.extend(home, clusters.end.max(self.fresh), clusters)?;
        }
    }

    /// Room for a compressed cluster, which is shorter than a cluster: behind
    /// the last one if possible. Each cluster that it touches is counted once
    /// more.
    pub(super) fn allocate_bytes(&mut self, home: &dyn Home, len: u64) -> IoResult<u64> {
        let g = self.geometry;
        let place = match self.packed_end.take() {
            Some(at) if len <= g.cluster_size() - g.in_cluster(at) => {
                let cluster = at >> g.cluster_bits;
                match self.increment(home, cluster..cluster + 1) {
                    Ok(()) => at,
                    // The refcount is too narrow for one more.
                    Err(_) => self.allocate(home, 1)?.first << g.cluster_bits,
                }
            }
            before => {
                let new = self.allocate(home, 1)?.first;
                let last = before.map(|at| (at, at >> g.cluster_bits));
                match last {
                    Some((at, cluster))
                        if cluster + 1 == new
                            && self.increment(home, cluster..cluster + 1).is_ok() =>
                    {
                        at
                    }
                    _ => new << g.cluster_bits,
                }
            }
        };
        let end = place + len;
        self.packed_end = (g.in_cluster(end) != 0).then_some(end);
        Ok(place)
    }

    fn take(&mut self, home: &dyn Home, first: u64, count: u64) -> IoResult<Run> {
        self.increment(home, first..first + count)?;
        if self.hint == first {
            self.hint += count;
        }
        let fresh = first >= self.fresh;
        self.fresh = self.fresh.max(first + count);
        Ok(Run {
            first,
            count,
            fresh,
        })
    }

    /// Blocks that would describe these clusters and do not exist.
    fn missing_blocks(&self, clusters: Range<u64>) -> IoResult<BTreeSet<u64>> {
        let entries = self.geometry.refblock_entries();
        let mut missing = BTreeSet::new();
        for index in clusters.start / entries..clusters.end.div_ceil(entries) {
            if self.block(index * entries)?.is_none() {
                missing.insert(index);
            }
        }
        Ok(missing)
    }

    /// Makes the blocks that describe `cover`, in free clusters from `start`
    /// on, together with a larger table if the old one has no room for them.
    fn extend(&mut self, home: &dyn Home, start: u64, cover: Range<u64>) -> IoResult<()> {
        let mut start = start;
        let plan = loop {
            let plan = self.plan(start, &cover)?;
            let run = self.free_run(home, start, plan.clusters())?;
            if run == plan.clusters() {
                break plan;
            }
            start = self.next_free(home, start + run)?;
        };
        let mut built = plan.start..plan.start + plan.clusters();
        if built.any(|c| self.is_used(home, c)) {
            return Err(Errno::EIO);
        }
        self.write_blocks(home, &plan)?;
        match plan.table_clusters {
            0 => {
                for (n, index) in plan.blocks.iter().enumerate() {
                    let entry = plan.block_offset(n as u64, self.geometry);
                    let at = self.table_offset + index * 8;
                    home.file().write_at(&entry.to_be_bytes(), at)?;
                }
                self.enter(&plan);
            }
            _ => self.move_table(home, &plan)?,
        }
        self.fresh = self.fresh.max(plan.start + plan.clusters());
        Ok(())
    }

    /// What to build at `start`: more blocks need more clusters, which may
    /// need more blocks, so this goes on until nothing changes.
    fn plan(&self, start: u64, cover: &Range<u64>) -> IoResult<Plan> {
        let g = self.geometry;
        let mut plan = Plan {
            start,
            blocks: BTreeSet::new(),
            table_clusters: 0,
        };
        loop {
            let mut blocks = self.missing_blocks(cover.clone())?;
            blocks.extend(self.missing_blocks(start..start + plan.clusters())?);
            let entries = blocks.last().map_or(0, |last| last + 1);
            let table_clusters = match entries > self.table.len() as u64 {
                true => g.clusters((entries + entries / 2) * 8),
                false => 0,
            };
            if table_clusters << g.cluster_bits > super::geometry::MAX_REFTABLE_BYTES {
                return Err(Errno(libc::EFBIG));
            }
            if blocks == plan.blocks && table_clusters <= plan.table_clusters {
                return Ok(plan);
            }
            plan.table_clusters = table_clusters.max(plan.table_clusters);
            plan.blocks = blocks;
        }
    }

    /// Writes new blocks with the refcounts of what the plan builds.
    fn write_blocks(&mut self, home: &dyn Home, plan: &Plan) -> IoResult<()> {
        let g = self.geometry;
        let entries = g.refblock_entries();
        let built = plan.start..plan.start + plan.clusters();
        for (n, &index) in plan.blocks.iter().enumerate() {
            let mut block = vec![0; g.cluster_size() as usize];
            let described = index * entries..(index + 1) * entries;
            for cluster in built.clone().filter(|c| described.contains(c)) {
                write_count(&mut block, cluster % entries, g.refcount_order, 1);
            }
            let place = plan.block_offset(n as u64, g);
            // A damaged table may have led here before.
            self.slices.forget(place, place + g.cluster_size());
            home.file().write_at(&block, place)?;
        }
        for cluster in built {
            if !plan.blocks.contains(&(cluster / entries)) {
                self.set(home, cluster, 1)?;
            }
        }
        // The table must not point to blocks that are not there, nor to
        // clusters that others may take.
        self.write_changes(home.file())?;
        home.file().flush()
    }

    fn enter(&mut self, plan: &Plan) {
        for (n, &index) in plan.blocks.iter().enumerate() {
            self.table[index as usize] = plan.block_offset(n as u64, self.geometry);
        }
    }

    fn move_table(&mut self, home: &dyn Home, plan: &Plan) -> IoResult<()> {
        let g = self.geometry;
        let old = (self.table_offset, self.table.len());
        let entries = (plan.table_clusters << g.cluster_bits) / 8;
        self.table.resize(entries as usize, 0);
        self.enter(plan);
        let offset = plan.start << g.cluster_bits;
        let result = home
            .file()
            .write_at(&to_bytes(&self.table), offset)
            .and_then(|()| home.file().flush())
            .and_then(|()| home.table_moved(offset, plan.table_clusters as u32));
        if let Err(errno) = result {
            // The file has the old table. What was built is leaked.
            self.table.truncate(old.1);
            for &index in &plan.blocks {
                if let Some(entry) = self.table.get_mut(index as usize) {
                    *entry = 0;
                }
            }
            return Err(errno);
        }
        self.table_offset = offset;
        let first = old.0 >> g.cluster_bits;
        let clusters = g.clusters(old.1 as u64 * 8);
        // A leak if it fails.
        let _ = self.decrement(home, first..first + clusters);
        Ok(())
    }

    /// Writes what differs from the file.
    pub(super) fn write_changes(&mut self, file: &dyn Storage) -> IoResult<()> {
        let changes = self.slices.take_changes();
        let result = changes
            .iter()
            .try_for_each(|(offset, bytes)| file.write_at(bytes, *offset));
        self.slices.written(&changes, result.is_ok());
        result
    }

    /// The header or a table is in this cluster, whatever its count says:
    /// using it would destroy the image.
    pub(super) fn is_used(&self, home: &dyn Home, cluster: u64) -> bool {
        let g = self.geometry;
        let first = self.table_offset >> g.cluster_bits;
        let clusters = g.clusters(self.table.len() as u64 * 8);
        cluster == 0
            || (first..first + clusters).contains(&cluster)
            || self.table.contains(&(cluster << g.cluster_bits))
            || home.is_table(cluster)
    }

    /// The table, with the offset it is at.
    pub(super) fn table(&self) -> (u64, &[u64]) {
        (self.table_offset, &self.table)
    }
}

/// New blocks and perhaps a new table, one after the other.
struct Plan {
    start: u64,
    /// Indices of the blocks.
    blocks: BTreeSet<u64>,
    /// Of the table, which comes first; 0 if it stays where it is.
    table_clusters: u64,
}

impl Plan {
    fn clusters(&self) -> u64 {
        self.table_clusters + self.blocks.len() as u64
    }

    fn block_offset(&self, n: u64, geometry: Geometry) -> u64 {
        (self.start + self.table_clusters + n) << geometry.cluster_bits
    }
}

/// Entry `index` of a refcount block or a piece of one. Entries of less than
/// a byte are filled from the least significant bit.
pub(super) fn read_count(block: &[u8], index: u64, order: u32) -> u64 {
    let bits = 1usize << order;
    let index = index as usize;
    if bits < 8 {
        let byte = block[index * bits / 8];
        return u64::from(byte >> (index * bits % 8)) & ((1 << bits) - 1);
    }
    let bytes = bits / 8;
    block[index * bytes..(index + 1) * bytes]
        .iter()
        .fold(0, |n, b| n << 8 | u64::from(*b))
}

/// See [`read_count`].
pub(super) fn write_count(block: &mut [u8], index: u64, order: u32, count: u64) {
    let bits = 1usize << order;
    let index = index as usize;
    if bits < 8 {
        let shift = index * bits % 8;
        let byte = &mut block[index * bits / 8];
        let mask = ((1u8 << bits) - 1) << shift;
        *byte = (*byte & !mask) | ((count as u8) << shift);
        return;
    }
    let bytes = bits / 8;
    let from = 8 - bytes;
    block[index * bytes..(index + 1) * bytes].copy_from_slice(&count.to_be_bytes()[from..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_all_widths_keep_to_themselves() {
        for order in 0..=6 {
            let max = u64::MAX >> (64 - (1 << order));
            let mut block = vec![0; 64];
            let entries = (64 * 8) >> order;
            for i in 0..entries {
                write_count(&mut block, i, order, max);
                assert_eq!(read_count(&block, i, order), max);
                if i > 0 {
                    assert_eq!(read_count(&block, i - 1, order), 0);
                }
                write_count(&mut block, i, order, 0);
            }
            assert!(block.iter().all(|b| *b == 0));
        }
    }

    #[test]
    fn small_counts_begin_at_the_low_bits() {
        let mut block = vec![0; 1];
        write_count(&mut block, 1, 1, 3);
        assert_eq!(block, [0b1100]);
        let mut block = vec![0; 4];
        write_count(&mut block, 1, 4, 0x1234);
        assert_eq!(block, [0, 0, 0x12, 0x34]);
    }
}
