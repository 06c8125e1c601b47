//! Work that threads of a crew do together.
//!
//! It consists of parts, and whoever has time begins one after the other.
//! Nobody waits for a thread that has not begun one: help that comes too late,
//! because the host's CPUs are busy, costs no more than the call for it.

use super::{Crew, State, Turn};
use parking_lot::MutexGuard;
use std::sync::Arc;

/// With so many other requests the crew has enough to do.
const COMPANY: u32 = 2;

/// Something in parts.
pub(crate) trait Work: Send + Sync {
    /// Does parts until all have begun. Called by several threads.
    fn work(&self);

    /// Not all parts have begun.
    fn has_more(&self) -> bool;
}

/// Work that idle threads may join.
struct Offer {
    work: Arc<dyn Work>,
    /// How many more may join, and how many are at it.
    places: usize,
    inside: usize,
}

/// A crew's.
#[derive(Default)]
pub(super) struct Offers(Vec<Offer>);

impl Offers {
    /// Work to join, and whether yet another thread should.
    fn join(&mut self) -> Option<(Arc<dyn Work>, bool)> {
        let open = |o: &&mut Offer| o.places > 0 && o.work.has_more();
        let offer = self.0.iter_mut().find(open)?;
        offer.places -= 1;
        offer.inside += 1;
        Some((offer.work.clone(), offer.places > 0))
    }

    /// A helper is done.
    fn leave(&mut self, work: &Arc<dyn Work>) {
        let mut all = self.0.iter_mut();
        if let Some(offer) = all.find(|o| Arc::ptr_eq(&o.work, work)) {
            offer.inside -= 1;
        }
    }

    /// Nobody else is to join; true when nobody is at it any more.
    fn withdraw(&mut self, work: &Arc<dyn Work>) -> bool {
        let at = self.0.iter().position(|o| Arc::ptr_eq(&o.work, work));
        at.is_none_or(|at| {
            self.0[at].places = 0;
            let alone = self.0[at].inside == 0;
            if alone {
                self.0.swap_remove(at);
            }
            alone
        })
    }
}

impl Turn<'_> {
    /// Does `work` together with up to `helpers` threads that have nothing else
    /// to do. All of it is done when this returns, and nobody is at it.
    pub(crate) fn share(&self, work: &Arc<dyn Work>, helpers: usize) {
        let crew = self.crew;
        crew.offer(&mut crew.state.lock(), work, helpers);
        work.work();
        self.clock.except(|| {
            let mut state = crew.state.lock();
            while !state.offers.withdraw(work) {
                crew.helped.wait(&mut state);
            }
        });
    }
}

impl Crew {
    fn offer(self: &Arc<Self>, state: &mut State, work: &Arc<dyn Work>, places: usize) {
        // A ring that cannot be read is found out by who looks after it.
        let waiting = state.waiting(&self.memory).unwrap_or(0);
        let others = state.serving - 1 + u32::from(waiting);
        if places == 0 || others >= COMPANY {
            return;
        }
        state.offers.0.push(Offer {
            work: work.clone(),
            places,
            inside: 0,
        });
        self.call_helper(state);
    }

    /// Wakes a thread that is idle, or makes one that will be.
    fn call_helper(self: &Arc<Self>, state: &mut State) {
        // Who is called will look after the ring.
        if state.idle > state.called {
            self.called.notify_one();
        } else {
            self.spawn_another(state);
        }
    }

    /// Joins work of others; false if there is none.
    pub(super) fn help(self: &Arc<Self>, state: &mut MutexGuard<'_, State>) -> bool {
        let Some((work, more)) = state.offers.join() else {
            return false;
        };
        state.idle -= 1;
        if more {
            self.call_helper(state);
        }
        MutexGuard::unlocked(state, || work.work());
        state.idle += 1;
        state.offers.leave(&work);
        self.helped.notify_all();
        true
    }
}
