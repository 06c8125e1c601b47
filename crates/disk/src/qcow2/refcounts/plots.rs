//! Clusters set aside, so that what is written to the disk here and there
//! comes to lie in the file as it does on the disk. A long transfer later is
//! one of the file then, too.
//!
//! They are set aside in memory only: the file counts them as free.

use super::{Geometry, Home, Refcounts, Run};
use crate::errno::IoResult;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// Guest bytes that are kept together.
const REGION: u64 = 1 << 20;
/// At most so many clusters: the bits of a mask.
const MAX_CLUSTERS: u64 = 64;
/// At most so many plots, which bounds the holes in the file.
const MAX_PLOTS: usize = 512;
/// So many clusters given back are worth a new search for room between others;
/// besides, an eighth of the file's.
const WORTH_A_SEARCH: u64 = 1024;

/// Host clusters for a region of the disk.
struct Plot {
    region: u64,
    /// Those of them that nothing was ever written to.
    fresh: u64,
    /// How often somebody found a cluster of it in use.
    missed: u64,
    /// When it was made.
    serial: u64,
}

/// Those of an image.
pub(super) struct Plots {
    /// Clusters of each.
    size: u64,
    /// By their first clusters.
    plots: BTreeMap<u64, Plot>,
    /// Their first clusters, by regions.
    places: HashMap<u64, u64>,
    made: u64,
    /// No room for one is before this cluster.
    search: u64,
    /// Clusters given back since the search began anew.
    freed: u64,
}

impl Plots {
    pub(super) fn new(geometry: Geometry) -> Self {
        Self {
            size: (REGION >> geometry.cluster_bits).clamp(1, MAX_CLUSTERS),
            plots: BTreeMap::new(),
            places: HashMap::new(),
            made: 0,
            search: 0,
            freed: 0,
        }
    }

    /// The plot that has this cluster.
    pub(super) fn around(&self, cluster: u64) -> Option<Range<u64>> {
        let (&first, _) = self.plots.range(..=cluster).next_back()?;
        let plot = first..first + self.size;
        plot.contains(&cluster).then_some(plot)
    }

    /// Clusters from this one to the next plot.
    pub(super) fn distance(&self, cluster: u64) -> u64 {
        let next = self.plots.range(cluster..).next();
        let next = next.map_or(u64::MAX, |(&first, _)| first);
        match self.around(cluster) {
            Some(_) => 0,
            None => next - cluster,
        }
    }

    /// A cluster is free again, in a file of so many.
    pub(super) fn gave_back(&mut self, clusters: u64) {
        self.freed += 1;
        if self.freed > WORTH_A_SEARCH + clusters / 8 {
            self.freed = 0;
            self.search = 0;
        }
    }

    fn insert(&mut self, first: u64, region: u64, fresh: u64) {
        self.made += 1;
        let plot = Plot {
            region,
            fresh,
            missed: 0,
            serial: self.made,
        };
        self.places.insert(region, first);
        self.plots.insert(first, plot);
    }

    fn remove(&mut self, first: u64) {
        if let Some(plot) = self.plots.remove(&first) {
            self.places.remove(&plot.region);
        }
    }

    /// The one to give up for another.
    fn oldest(&self) -> Option<u64> {
        if self.plots.len() < MAX_PLOTS {
            return None;
        }
        let oldest = self.plots.iter().min_by_key(|(_, p)| p.serial);
        oldest.map(|(&first, _)| first)
    }

    /// These clusters of the plot at `first` will be written to; whether none
    /// ever was.
    fn use_up(&mut self, first: u64, clusters: Range<u64>) -> bool {
        let Some(plot) = self.plots.get_mut(&first) else {
            return false;
        };
        let mask = clusters.fold(0, |mask, c| mask | 1 << (c - first));
        let fresh = plot.fresh & mask == mask;
        plot.fresh &= !mask;
        fresh
    }

    /// A cluster of the plot at `first` was in use; whether most of them are,
    /// by a snapshot perhaps, so that another plot is better.
    fn missed(&mut self, first: u64) -> bool {
        let Some(plot) = self.plots.get_mut(&first) else {
            return false;
        };
        plot.missed += 1;
        plot.missed > self.size / 4
    }
}

impl Refcounts {
    /// Takes free clusters for guest clusters from number `guest` on: where
    /// their neighbours are if possible. At least one, at most `wanted`.
    pub(in crate::qcow2) fn allocate_for(
        &mut self,
        home: &dyn Home,
        guest: u64,
        wanted: u64,
    ) -> IoResult<Run> {
        while let Some(plot) = self.plot_for(home, guest)? {
            if let Some(run) = self.take_of_plot(home, plot, guest, wanted)? {
                return Ok(run);
            }
            if !self.plots.missed(plot) {
                break;
            }
            self.give_up(plot);
        }
        self.allocate(home, wanted)
    }

    /// The plot of the region around a guest cluster: the one there is, one
    /// about clusters that the region has, or a new one.
    fn plot_for(&mut self, home: &dyn Home, guest: u64) -> IoResult<Option<u64>> {
        let size = self.plots.size;
        let (region, index) = (guest / size, guest % size);
        if let Some(&plot) = self.plots.places.get(&region) {
            return Ok(Some(plot));
        }
        // There may be no room for holes.
        if self.in_order || !home.file().grows() {
            return Ok(None);
        }
        let clusters = region * size..(region + 1) * size;
        let first = match home.surroundings(clusters) {
            Some(first) if self.is_free_about(home, first, index)? => first,
            _ => self.find_plot(home)?,
        };
        if let Some(oldest) = self.plots.oldest() {
            self.give_up(oldest);
        }
        let used = self.fresh.saturating_sub(first).min(size);
        let fresh = u64::MAX.checked_shl(used as u32).unwrap_or(0);
        self.plots.insert(first, region, fresh);
        self.fresh = self.fresh.max(first + size);
        if self.hint == first {
            self.hint = first + size;
        }
        Ok(Some(first))
    }

    /// A plot at `first` would be nobody else's, and the cluster wanted of it
    /// is free.
    fn is_free_about(&mut self, home: &dyn Home, first: u64, index: u64) -> IoResult<bool> {
        let clusters = first..first + self.plots.size;
        Ok(self.plots.distance(first) >= self.plots.size
            && self.missing_blocks(clusters)?.is_empty()
            && self.get(home, first + index)? == 0)
    }

    /// Free clusters for a plot.
    fn find_plot(&mut self, home: &dyn Home) -> IoResult<u64> {
        let size = self.plots.size;
        let first = self.find_run(home, self.hint.max(self.plots.search), size)?;
        self.plots.search = first + size;
        Ok(first)
    }

    fn take_of_plot(
        &mut self,
        home: &dyn Home,
        plot: u64,
        guest: u64,
        wanted: u64,
    ) -> IoResult<Option<Run>> {
        let index = guest % self.plots.size;
        let first = plot + index;
        let count = self.unused_run(home, first, wanted.min(self.plots.size - index))?;
        if count == 0 {
            return Ok(None);
        }
        self.increment(home, first..first + count)?;
        let fresh = self.plots.use_up(plot, first..first + count);
        Ok(Some(Run {
            first,
            count,
            fresh,
        }))
    }

    /// Gives up all plots.
    pub(in crate::qcow2) fn forget_plots(&mut self) {
        let first = self.plots.plots.first_key_value();
        self.hint = first.map_or(self.hint, |(&first, _)| self.hint.min(first));
        self.plots = Plots::new(self.geometry);
    }

    /// What is left of a plot is anybody's.
    fn give_up(&mut self, first: u64) {
        self.plots.remove(first);
        self.hint = self.hint.min(first);
    }
}
