//! How the machine's threads agree to stop.

use crate::outcome::{Error, Outcome};
use hv::Kicker;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

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
    /// Mirrors that there is an ending or the machine is stopped, for the
    /// vCPUs' loop.
    attention: AtomicBool,
    /// Exits until the machine is saved; 0 for never.
    save_after: AtomicU64,
    /// Set for good once the machine is about to end.
    ending: Arc<AtomicBool>,
    state: Mutex<State>,
    changed: Condvar,
}

/// Whether the machine runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunState {
    /// It does.
    #[default]
    Running,
    /// It was stopped on request.
    Paused,
    /// It was stopped by an I/O error of a disk.
    IoError,
}

#[derive(Default)]
struct State {
    ending: Option<Ending>,
    /// One was asked for since the machine last started.
    over: bool,
    run_state: RunState,
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
        state.over = true;
        self.summon(&state);
    }

    /// Saves the machine after so many exits of its vCPUs.
    pub fn save_after(&self, exits: u64) {
        self.save_after.store(exits, Ordering::Relaxed);
    }

    /// A vCPU left the guest and its exit was served.
    pub fn count_exit(&self) {
        if self.save_after.load(Ordering::Relaxed) != 0
            && self.save_after.fetch_sub(1, Ordering::Relaxed) == 1
        {
            self.end(Outcome::Saved);
        }
    }

    /// A flag that is set once the machine is about to end, for those who
    /// wait for the host.
    pub fn ending_flag(&self) -> Arc<AtomicBool> {
        self.ending.clone()
    }

    /// Stops the vCPUs until the machine ends or goes on.
    pub fn set_paused(&self, paused: bool) {
        let mut state = self.state.lock();
        state.run_state = match paused {
            true => RunState::Paused,
            false => RunState::Running,
        };
        self.summon(&state);
    }

    /// Whether the machine runs.
    pub fn run_state(&self) -> RunState {
        self.state.lock().run_state
    }

    /// Stops the vCPUs because of an I/O error and waits: true when the
    /// machine goes on, false when it ends or starts again. `tell` is called
    /// if it ran until now. Not for vCPUs' threads.
    pub fn stop_for_error(&self, tell: impl FnOnce()) -> bool {
        let mut state = self.state.lock();
        // Nothing would wake who comes after the ending.
        if state.over {
            return false;
        }
        if state.run_state == RunState::Running {
            tell();
            state.run_state = RunState::IoError;
            self.summon(&state);
        }
        while state.run_state != RunState::Running && !state.over {
            self.changed.wait(&mut state);
        }
        !state.over
    }

    /// The machine starts: the vCPUs to stop from now on. Who waited for the
    /// last one's end is gone: its devices' threads have been joined.
    pub fn set_kickers(&self, kickers: Vec<Arc<dyn Kicker>>) {
        let mut state = self.state.lock();
        state.over = state.ending.is_some();
        state.kickers = kickers;
    }

    /// False when a vCPU must leave its loop; waits while paused.
    pub fn may_run(&self) -> bool {
        if !self.attention.load(Ordering::Acquire) {
            return true;
        }
        let mut state = self.state.lock();
        while state.run_state != RunState::Running && state.ending.is_none() {
            self.changed.wait(&mut state);
        }
        state.ending.is_none()
    }

    /// Takes the ending once all vCPUs have stopped.
    pub fn take_ending(&self) -> Option<Ending> {
        let mut state = self.state.lock();
        state.kickers.clear();
        let ending = state.ending.take();
        let stopped = state.run_state != RunState::Running;
        self.attention.store(stopped, Ordering::Release);
        ending
    }

    fn summon(&self, state: &State) {
        let attention = state.ending.is_some() || state.run_state != RunState::Running;
        self.attention.store(attention, Ordering::Release);
        self.changed.notify_all();
        if attention {
            state.kickers.iter().for_each(|k| k.kick());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_stopped_by_an_error_goes_on_or_ends() {
        for goes_on in [true, false] {
            let control = Control::default();
            std::thread::scope(|scope| {
                let (told, telling) = std::sync::mpsc::channel();
                let tell = move || told.send(()).expect("we listen");
                let waits = scope.spawn(|| control.stop_for_error(tell));
                telling.recv().expect("it stops");
                // `tell` is called under the lock.
                assert_eq!(control.run_state(), RunState::IoError);
                match goes_on {
                    true => control.set_paused(false),
                    false => {
                        control.request(Ending::Reset);
                        // Even if the ending is over before anybody looks.
                        assert!(control.take_ending().is_some());
                    }
                }
                assert_eq!(waits.join().expect("no panic"), goes_on);
            });
        }
    }

    #[test]
    fn an_error_after_the_ending_does_not_wait() {
        let control = Control::default();
        control.set_paused(true);
        control.request(Ending::Reset);
        assert!(control.take_ending().is_some());
        assert!(!control.stop_for_error(|| panic!("it is over")));
        // It starts again, and stops again.
        control.set_kickers(Vec::new());
        control.set_paused(false);
        let told = AtomicBool::new(false);
        let tell = || told.store(true, Ordering::Relaxed);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| control.stop_for_error(tell));
            while control.run_state() != RunState::IoError {
                std::thread::yield_now();
            }
            control.set_paused(false);
            assert!(waits.join().expect("no panic"));
        });
        assert!(told.into_inner());
    }
}
