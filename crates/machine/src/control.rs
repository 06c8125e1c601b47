//! How the machine's threads agree to stop.

use crate::outcome::{Error, Outcome};
use hv::Kicker;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Why the vCPUs stop.
#[derive(Debug)]
pub enum Ending {
    /// The machine is done.
    Done(Outcome),
    /// The machine starts again from reset.
    Reset,
    /// The machine cannot go on.
    Failed(Error),
}

/// Shared by vCPU threads, console readers and the owner of the machine. The
/// first to ask for an ending decides it.
#[derive(Default)]
pub struct Control {
    /// Mirrors `ending.is_some() || paused`, for the vCPUs' loop.
    attention: AtomicBool,
    /// Set for good once the machine is about to end.
    ending: Arc<AtomicBool>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    ending: Option<Ending>,
    paused: bool,
    kickers: Vec<Arc<dyn Kicker>>,
}

impl Control {
    /// Ends the machine.
    pub fn end(&self, outcome: Outcome) {
        self.request(Ending::Done(outcome));
    }

    /// Asks for any ending.
    pub fn request(&self, ending: Ending) {
        let mut state = self.state.lock();
        // An outcome overrides a reset that has not been carried out yet:
        // Ctrl-A X must win against a guest that resets in a loop.
        let replace = matches!(
            (&state.ending, &ending),
            (None, _) | (Some(Ending::Reset), Ending::Done(_) | Ending::Failed(_))
        );
        if replace {
            let final_one = !matches!(ending, Ending::Reset);
            self.ending.fetch_or(final_one, Ordering::Release);
            state.ending = Some(ending);
        }
        self.summon(&state);
    }

    /// A flag that is set once the machine is about to end, for those who
    /// wait for the host.
    pub fn ending_flag(&self) -> Arc<AtomicBool> {
        self.ending.clone()
    }

    /// Stops the vCPUs until the machine ends or goes on.
    pub fn set_paused(&self, paused: bool) {
        let mut state = self.state.lock();
        state.paused = paused;
        self.summon(&state);
    }

    /// The vCPUs to stop from now on.
    pub fn set_kickers(&self, kickers: Vec<Arc<dyn Kicker>>) {
        self.state.lock().kickers = kickers;
    }

    /// False when a vCPU must leave its loop; waits while paused.
    pub fn may_run(&self) -> bool {
        if !self.attention.load(Ordering::Acquire) {
            return true;
        }
        let mut state = self.state.lock();
        while state.paused && state.ending.is_none() {
            self.changed.wait(&mut state);
        }
        state.ending.is_none()
    }

    /// Takes the ending once all vCPUs have stopped.
    pub fn take_ending(&self) -> Option<Ending> {
        let mut state = self.state.lock();
        state.kickers.clear();
        let ending = state.ending.take();
        self.attention.store(state.paused, Ordering::Release);
        ending
    }

    fn summon(&self, state: &State) {
        let attention = state.ending.is_some() || state.paused;
        self.attention.store(attention, Ordering::Release);
        self.changed.notify_all();
        if attention {
            state.kickers.iter().for_each(|k| k.kick());
        }
    }
}
