//! References to clusters, counted.

use crate::errno::{Errno, IoResult};
use std::collections::HashMap;

const PAGE: u64 = 1024;

/// Pages that may exist: 1 GiB of memory, for images of 16 TiB with clusters
/// of 64 KiB. A crafted image must not make us take all memory.
const MAX_PAGES: usize = 1 << 18;

/// Counters for those parts of a file that are referred to at all.
#[derive(Default)]
pub(super) struct Counts {
    pages: HashMap<u64, Box<[u32]>>,
}

impl Counts {
    pub(super) fn get(&self, cluster: u64) -> u64 {
        let page = self.pages.get(&(cluster / PAGE));
        page.map_or(0, |p| p[(cluster % PAGE) as usize].into())
    }

    pub(super) fn add(&mut self, cluster: u64, times: u32) -> IoResult<()> {
        let full = self.pages.len() >= MAX_PAGES;
        let page = match self.pages.get_mut(&(cluster / PAGE)) {
            Some(page) => page,
            None if full => return Err(Errno(libc::ENOMEM)),
            None => self
                .pages
                .entry(cluster / PAGE)
                .or_insert_with(|| vec![0; PAGE as usize].into()),
        };
        let count = &mut page[(cluster % PAGE) as usize];
        *count = count.saturating_add(times);
        Ok(())
    }

    /// Every cluster with references, in order.
    pub(super) fn used(&self) -> Vec<(u64, u64)> {
        let mut pages: Vec<_> = self.pages.iter().collect();
        pages.sort_by_key(|(n, _)| **n);
        let entries = pages.into_iter().flat_map(|(n, page)| {
            let number = move |(i, c): (usize, &u32)| (n * PAGE + i as u64, u64::from(*c));
            page.iter().enumerate().map(number)
        });
        entries.filter(|(_, count)| *count > 0).collect()
    }
}
