//! When nobody can still be using a cluster that was dropped.
//!
//! A request looks a cluster up and then uses it without a lock. Requests note
//! the phase they began in; when the phase has moved on twice, no request of
//! the first one is left.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Requests by phase.
#[derive(Default)]
pub(super) struct Grace {
    phase: AtomicUsize,
    /// Requests in even and in odd phases.
    active: [AtomicUsize; 2],
}

/// A request that is going on.
pub(super) struct Request<'a> {
    grace: &'a Grace,
    phase: usize,
}

impl Grace {
    /// Begins a request.
    pub(super) fn enter(&self) -> Request<'_> {
        loop {
            let phase = self.phase.load(Ordering::SeqCst);
            let active = &self.active[phase % 2];
            active.fetch_add(1, Ordering::SeqCst);
            if self.phase.load(Ordering::SeqCst) == phase {
                return Request { grace: self, phase };
            }
            active.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// The current phase.
    pub(super) fn phase(&self) -> usize {
        self.phase.load(Ordering::SeqCst)
    }

    /// Moves on if no request of the phase before is left. One thread at a
    /// time.
    pub(super) fn advance(&self) {
        let phase = self.phase.load(Ordering::SeqCst);
        if self.active[(phase + 1) % 2].load(Ordering::SeqCst) == 0 {
            self.phase.store(phase + 1, Ordering::SeqCst);
        }
    }

    /// No request that began in `phase` or before is left.
    pub(super) fn over(&self, phase: usize) -> bool {
        self.phase.load(Ordering::SeqCst) >= phase + 2
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        self.grace.active[self.phase % 2].fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_when_the_requests_before_have_ended() {
        let grace = Grace::default();
        let early = grace.enter();
        let phase = grace.phase();
        for _ in 0..4 {
            grace.advance();
        }
        assert!(!grace.over(phase), "a request is left");
        let late = grace.enter();
        drop(early);
        grace.advance();
        assert!(grace.over(phase), "the late request does not hinder");
        drop(late);
    }
}
