//! When a queue's worker watches the ring instead of sleeping, and how many
//! completions share an interrupt. Both follow what the driver does: a driver
//! that waits for each request is told at once, and one that is quiet costs
//! no CPU time.

use std::time::Duration;

/// Longest time that the ring is watched after short requests: about what a sleep
/// and a wake-up cost, so that being wrong costs at most as much again.
const MAX_WATCH: Duration = Duration::from_micros(60);
/// After long ones, whose drivers have more to do between two, as long as they
/// take, but no longer than this.
const LONGEST_WATCH: Duration = Duration::from_micros(200);
/// The first watch after a time without.
const MIN_WATCH: Duration = Duration::from_micros(8);
/// Longest time that a completion waits for the next request.
pub(crate) const MAX_GAP: Duration = Duration::from_micros(100);
/// Longest time that a completion waits while requests keep coming.
pub(crate) const MAX_HOLD: Duration = Duration::from_micros(500);
/// Most completions for one interrupt.
const MAX_BATCH: u32 = 16;
/// A larger batch is tried after so many full ones.
const FULL_BEFORE_MORE: u32 = 4;
/// After a batch that did not fill, this many times as long.
const AFTER_FAILURE: u32 = 64;

/// Of one queue.
#[derive(Debug)]
pub(crate) struct Pace {
    watch: Duration,
    /// Longest watch after the last request.
    longest: Duration,
    batch: u32,
    /// Full batches until a larger one is tried.
    credit: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            watch: Duration::ZERO,
            longest: MAX_WATCH,
            batch: 1,
            credit: FULL_BEFORE_MORE,
        }
    }
}

impl Pace {
    /// How long to watch the ring before going to sleep.
    pub(crate) fn watch(&self) -> Duration {
        self.watch
    }

    /// A request took `time`.
    pub(crate) fn served(&mut self, time: Duration) {
        self.longest = time.clamp(MAX_WATCH, LONGEST_WATCH);
    }

    /// A request came `after` the worker had nothing to do.
    pub(crate) fn came(&mut self, after: Duration) {
        if after > self.watch && after <= self.longest {
            self.watch = (self.watch * 2).clamp(MIN_WATCH, self.longest);
        } else if after > self.longest {
            // It would have been in vain.
            self.watch = Duration::ZERO;
        }
    }

    /// Completions after which the driver is told.
    pub(crate) fn batch(&self) -> u32 {
        self.batch
    }

    /// A batch is full.
    pub(crate) fn filled(&mut self) {
        self.credit = self.credit.saturating_sub(1);
        if self.credit == 0 {
            self.batch = (self.batch + 1).min(MAX_BATCH);
            self.credit = FULL_BEFORE_MORE;
        }
    }

    /// No more came than `got`: the driver was waiting for them.
    pub(crate) fn starved(&mut self, got: u32) {
        self.batch = got.clamp(1, self.batch);
        self.credit = AFTER_FAILURE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    #[test]
    fn the_watch_grows_only_while_it_could_help() {
        let mut pace = Pace::default();
        assert_eq!(pace.watch(), Duration::ZERO);
        for _ in 0..6 {
            pace.came(30 * US);
        }
        assert_eq!(pace.watch(), 32 * US);
        // Within the watch: nothing to change.
        pace.came(20 * US);
        assert_eq!(pace.watch(), 32 * US);
        pace.came(5000 * US);
        assert_eq!(pace.watch(), Duration::ZERO);
    }

    #[test]
    fn long_requests_make_long_watches() {
        let mut pace = Pace::default();
        for (time, longest) in [(150, 150), (5000, 200), (10, 60)] {
            pace.served(time * US);
            for _ in 0..6 {
                pace.came((longest - 5) * US);
            }
            assert_eq!(pace.watch(), longest * US);
            pace.came((longest + 5) * US);
            assert_eq!(pace.watch(), Duration::ZERO);
        }
    }

    #[test]
    fn batches_grow_to_what_the_driver_has_in_flight() {
        for depth in [1, 2, 5, 40] {
            let mut pace = Pace::default();
            let mut vain = 0;
            for _ in 0..2000 {
                if pace.batch() <= depth {
                    pace.filled();
                } else {
                    pace.starved(depth);
                    vain += 1;
                }
            }
            assert!(pace.batch() >= depth.min(MAX_BATCH), "{depth}");
            assert!(vain <= 2000 / AFTER_FAILURE + 1, "{depth}: {vain}");
        }
    }
}
