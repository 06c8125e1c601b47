//! Which guest instruction made an access that has to leave generated code.
//!
//! There are hundreds of thousands of them, and a search through all would miss the
//! host's caches a dozen times for each page fault of the guest.

use crate::translate::Site;

/// log2 of the bytes of code whose sites are found by number.
const PART_SHIFT: u32 = 10;

/// Return PCs of slow-path calls, ascending.
pub(super) struct Accesses {
    sites: Vec<Site>,
    /// Index of the first site behind the start of each part of the code.
    parts: Vec<u32>,
    /// Arena offset of the first part.
    start: u32,
}

impl Accesses {
    /// Those of code from arena offset `start` on; most often `expected` of them.
    pub(super) fn new(start: usize, expected: usize) -> Self {
        Self {
            sites: Vec::with_capacity(expected),
            parts: Vec::new(),
            start: start as u32,
        }
    }

    fn part(&self, at: u32) -> usize {
        (at.saturating_sub(self.start) >> PART_SHIFT) as usize
    }

    /// Adds sites behind all others.
    pub(super) fn extend(&mut self, new: &[Site]) {
        for site in new {
            let part = self.part(site.at);
            if self.parts.len() <= part {
                self.parts.resize(part + 1, self.sites.len() as u32);
            }
            self.sites.push(*site);
        }
    }

    /// The site at arena offset `at`.
    pub(super) fn find(&self, at: u32) -> Option<Site> {
        let part = self.part(at);
        let from = *self.parts.get(part)? as usize;
        let next = self.parts.get(part + 1);
        let to = next.map_or(self.sites.len(), |&i| i as usize);
        let sites = &self.sites[from..to];
        let i = sites.binary_search_by_key(&at, |s| s.at).ok()?;
        Some(sites[i])
    }

    pub(super) fn clear(&mut self) {
        self.sites.clear();
        self.parts.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(at: u32) -> Site {
        Site {
            at,
            rip: u64::from(at) * 3,
            ..Site::default()
        }
    }

    #[test]
    fn each_site_is_found_and_nothing_else() {
        let mut accesses = Accesses::new(5000, 8);
        let all = [5000, 5001, 6023, 6024, 9999, 20_000, 20_001];
        for pair in all.chunks(2) {
            let sites: Vec<Site> = pair.iter().map(|&at| site(at)).collect();
            accesses.extend(&sites);
        }
        for at in 4990..21_000 {
            let found = accesses.find(at).map(|s| s.rip);
            let want = all.contains(&at).then_some(u64::from(at) * 3);
            assert_eq!(found, want, "{at}");
        }
        assert!(accesses.find(u32::MAX).is_none());
        accesses.clear();
        assert!(accesses.find(5000).is_none());
        accesses.extend(&[site(9000)]);
        assert_eq!(accesses.find(9000).map(|s| s.at), Some(9000));
    }
}
