//! Which large pages of the host a guest came to, and to which it comes next.

use super::LARGE;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Large pages that are provided together.
const DISTANCE: u64 = 2;

/// Those of a range of host addresses.
#[derive(Debug)]
pub(crate) struct Used {
    host: Range<u64>,
    /// One bit each.
    bits: Box<[AtomicU64]>,
}

impl Used {
    pub(crate) fn new(host: Range<u64>) -> Self {
        let pages = host.end.div_ceil(LARGE) - host.start / LARGE;
        let words = 0..pages.div_ceil(64);
        Self {
            host,
            bits: words.map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// The guest writes to `at`, an address of the range. What it will come to, if
    /// it was not in the large page before but in one next to it: it goes through
    /// memory then, and to provide more would be a guess.
    pub(crate) fn next(&self, at: u64) -> Option<Range<u64>> {
        let page = at / LARGE;
        if self.has(page) {
            return None;
        }
        self.set(page);
        let next = match (self.has(page.wrapping_sub(1)), self.has(page + 1)) {
            (true, false) => page + 1..page + 1 + DISTANCE,
            (false, true) => page.saturating_sub(DISTANCE)..page,
            _ => return None,
        };
        let start = (next.start * LARGE).max(self.host.start);
        let end = (next.end * LARGE).min(self.host.end);
        (start < end).then_some(start..end)
    }

    /// Word and bit of a large page.
    fn place(&self, page: u64) -> Option<(&AtomicU64, u64)> {
        let index = page.checked_sub(self.host.start / LARGE)?;
        let word = self.bits.get((index / 64) as usize)?;
        Some((word, 1 << (index % 64)))
    }

    fn has(&self, page: u64) -> bool {
        let place = self.place(page);
        place.is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    fn set(&self, page: u64) {
        if let Some((word, bit)) = self.place(page) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 large pages, of which the first and the last are halves.
    const HOST: Range<u64> = 1000 * LARGE + LARGE / 2..1099 * LARGE + LARGE / 2;

    fn pages(range: Option<Range<u64>>) -> Option<(u64, u64)> {
        range.map(|r| (r.start / LARGE, r.end.div_ceil(LARGE)))
    }

    #[test]
    fn only_who_goes_through_memory_is_provided_for() {
        let used = Used::new(HOST);
        let next = |page: u64| pages(used.next(page * LARGE + LARGE / 2));
        assert_eq!(next(1010), None, "who knows");
        assert_eq!(next(1050), None, "elsewhere");
        assert_eq!(next(1011), Some((1012, 1014)), "upwards");
        assert_eq!(next(1011), None, "once");
        assert_eq!(next(1012), Some((1013, 1015)));
        assert_eq!(next(1049), Some((1047, 1049)), "downwards");
        assert_eq!(next(1014), None);
        assert_eq!(next(1013), None, "both sides are there");
    }

    #[test]
    fn nothing_outside_is_asked_for() {
        let used = Used::new(HOST);
        used.next(1001 * LARGE);
        assert_eq!(used.next(HOST.start), None, "the first one's end");
        let used = Used::new(HOST);
        used.next(1002 * LARGE);
        assert_eq!(used.next(1001 * LARGE), Some(HOST.start..1001 * LARGE));
        used.next(1097 * LARGE);
        assert_eq!(used.next(1098 * LARGE), Some(1099 * LARGE..HOST.end));
        assert_eq!(used.next(HOST.end - 1), None);
    }
}
