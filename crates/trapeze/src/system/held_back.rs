//! How often the same warning is shown: a guest can make a device warn as often
//! as it likes, and neither a terminal nor a log on disk is to pay for that.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Shown of one place within [`PERIOD`].
const MOST: u32 = 10;
const PERIOD: Duration = Duration::from_secs(1);

/// Where in the program a record is made: module and line. There are only so
/// many, whatever the guest does; its text may hold the guest's numbers.
pub(super) type Place = (&'static str, u32);

/// What was shown lately, and what was not.
#[derive(Default)]
pub(super) struct HeldBack(Mutex<HashMap<Place, Recent>>);

struct Recent {
    begun: Instant,
    shown: u32,
    held: u64,
}

impl HeldBack {
    /// Whether a record made at `now` is shown: with the number of those of the
    /// same place that were not, since the last one that was.
    pub(super) fn admit(&self, place: Place, now: Instant) -> Option<u64> {
        let mut places = self.places();
        let recent = places.entry(place).or_insert(Recent {
            begun: now,
            shown: 0,
            held: 0,
        });
        if now.saturating_duration_since(recent.begun) >= PERIOD {
            (recent.begun, recent.shown) = (now, 0);
        }
        if recent.shown == MOST {
            recent.held += 1;
            return None;
        }
        recent.shown += 1;
        Some(std::mem::take(&mut recent.held))
    }

    /// Places of which records are still held back, with their number, which
    /// begins anew.
    pub(super) fn take(&self) -> Vec<(Place, u64)> {
        let mut places = self.places();
        let held = places
            .iter_mut()
            .map(|(&place, recent)| (place, std::mem::take(&mut recent.held)));
        let mut held: Vec<_> = held.filter(|&(_, count)| count > 0).collect();
        held.sort_unstable();
        held
    }

    fn places(&self) -> std::sync::MutexGuard<'_, HashMap<Place, Recent>> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place = ("here", 1);
    const THERE: Place = ("there", 2);

    #[test]
    fn a_flood_is_cut_and_counted() {
        let (held_back, begin) = (HeldBack::default(), Instant::now());
        let at = |millis| begin + Duration::from_millis(millis);
        let shown = (0..1000).filter_map(|n| held_back.admit(HERE, at(n % 900)));
        assert_eq!(shown.collect::<Vec<_>>(), [0; MOST as usize]);
        // Another place has its own share.
        assert_eq!(held_back.admit(THERE, at(900)), Some(0));
        // The next second's first one says how many there were.
        assert_eq!(
            held_back.admit(HERE, at(1000)),
            Some(1000 - u64::from(MOST))
        );
        assert_eq!(held_back.admit(HERE, at(1001)), Some(0));
        assert_eq!(held_back.take(), []);
    }

    #[test]
    fn what_is_held_back_at_the_end_is_counted_once() {
        let (held_back, now) = (HeldBack::default(), Instant::now());
        for _ in 0..MOST + 3 {
            held_back.admit(THERE, now);
            held_back.admit(HERE, now);
        }
        held_back.admit(HERE, now);
        assert_eq!(held_back.take(), [(HERE, 4), (THERE, 3)]);
        assert_eq!(held_back.take(), []);
    }

    #[test]
    fn what_comes_slowly_is_always_shown() {
        let (held_back, begin) = (HeldBack::default(), Instant::now());
        for n in 0..100 {
            let now = begin + PERIOD * n / MOST;
            assert_eq!(held_back.admit(HERE, now), Some(0), "{n}");
        }
    }
}
