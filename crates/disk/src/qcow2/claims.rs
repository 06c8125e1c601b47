//! Who is changing the mapping of which guest clusters.

use parking_lot::{Condvar, Mutex};

/// Ranges of guest bytes whose mapping is being changed.
#[derive(Default)]
pub(super) struct Claims {
    ranges: Mutex<Vec<(u64, u64)>>,
    ended: Condvar,
}

/// A range that is ours until this is dropped.
pub(super) struct Claim<'a> {
    claims: &'a Claims,
    range: (u64, u64),
}

impl Claims {
    /// Waits until nobody changes anything between `from` and `to`.
    pub(super) fn claim(&self, from: u64, to: u64) -> Claim<'_> {
        let mut ranges = self.ranges.lock();
        while ranges.iter().any(|&(f, t)| f < to && from < t) {
            self.ended.wait(&mut ranges);
        }
        ranges.push((from, to));
        Claim {
            claims: self,
            range: (from, to),
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut ranges = self.claims.ranges.lock();
        if let Some(at) = ranges.iter().position(|r| *r == self.range) {
            ranges.swap_remove(at);
        }
        self.claims.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn overlapping_claims_exclude_each_other() {
        let (claims, inside) = (Claims::default(), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for n in 0..4u64 {
                let (claims, inside) = (&claims, &inside);
                scope.spawn(move || {
                    for _ in 0..200 {
                        // All of them contain 10.
                        let _claim = claims.claim(n, 11 + n);
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        let _left = claims.claim(0, 10);
        let _right = claims.claim(10, 20);
    }
}
