//! How the machine's threads agree to stop, and how others get at its vCPUs.

use crate::debugger::Attached;
use crate::events::{Cause, Event, Observers};
use crate::exits::Recorder;
use crate::outcome::{Error, Outcome};
use crate::saved;
use hv::{Kicker, Vcpu};
use parking_lot::{Condvar, Mutex, MutexGuard};
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
    /// Mirrors that there is an ending or an errand, or the machine is stopped,
    /// for the vCPUs' loop.
    attention: AtomicBool,
    /// Exits until the machine is saved; 0 for never.
    save_after: AtomicU64,
    /// Set for good once the machine is about to end.
    ending: Arc<AtomicBool>,
    state: Mutex<State>,
    changed: Condvar,
    /// Told of what happens, never under `state`.
    pub observers: Observers,
    /// Who debugs the guest.
    pub debugger: Attached,
    /// What its vCPUs leave it for.
    pub exits: Recorder,
}

/// Whether the machine runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunState {
    /// It does.
    #[default]
    Running,
    /// It has not been started yet (`-S`).
    Prelaunch,
    /// It was stopped on request.
    Paused,
    /// A debugger stopped it.
    Debug,
    /// It was stopped by an I/O error of a disk.
    IoError,
    /// The guest powered itself off.
    Shutdown,
    /// The guest panicked.
    GuestPanicked,
}

impl RunState {
    /// QMP's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Prelaunch => "prelaunch",
            Self::Paused => "paused",
            Self::Debug => "debug",
            Self::IoError => "io-error",
            Self::Shutdown => "shutdown",
            Self::GuestPanicked => "guest-panicked",
        }
    }

    /// The guest is over: only a reset helps.
    pub fn needs_reset(self) -> bool {
        matches!(self, Self::Shutdown | Self::GuestPanicked)
    }
}

/// Something to be done on a vCPU's thread between two instructions.
type Errand = Box<dyn FnOnce(&mut dyn Vcpu) + Send>;

#[derive(Default)]
struct State {
    ending: Option<Ending>,
    /// One was asked for since the machine last started.
    over: bool,
    run_state: RunState,
    /// The only vCPUs that run while the machine does; `None` for all.
    chosen: Option<Vec<u32>>,
    /// By the vCPUs' numbers.
    kickers: Vec<(u32, Arc<dyn Kicker>)>,
    /// Index of the vCPU, and what it shall do.
    errands: Vec<(u32, Errand)>,
}

impl State {
    fn wants_attention(&self) -> bool {
        self.ending.is_some()
            || self.run_state != RunState::Running
            || self.chosen.is_some()
            || !self.errands.is_empty()
    }

    fn lets_run(&self, vcpu: u32) -> bool {
        let chosen = self.chosen.as_ref();
        self.run_state == RunState::Running && chosen.is_none_or(|c| c.contains(&vcpu))
    }

    fn take_errand(&mut self, vcpu: u32) -> Option<Errand> {
        let found = self.errands.iter().position(|(index, _)| *index == vcpu)?;
        Some(self.errands.remove(found).1)
    }
}

impl Control {
    /// Ends the machine.
    pub fn end(&self, outcome: Outcome) {
        self.request(Ending::Done(outcome));
    }

    /// Asks for any ending.
    pub fn request(&self, ending: Ending) {
        let cause = match &ending {
            Ending::Reset => Cause::GuestReset,
            Ending::Failed(_) => Cause::HostError,
            Ending::Done(outcome) => outcome.cause(),
        };
        self.request_for(ending, cause);
    }

    /// The same for a cause of its own.
    pub fn request_for(&self, ending: Ending, cause: Cause) {
        let mut state = self.state.lock();
        let event = match &ending {
            Ending::Done(Outcome::Saved) => None,
            Ending::Reset => Some(Event::Reset(cause)),
            Ending::Done(_) | Ending::Failed(_) => Some(Event::Shutdown(cause)),
        };
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
        drop(state);
        if let Some(event) = event.filter(|_| replace) {
            self.observers.tell(&event);
        }
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

    /// Stops the vCPUs until the machine ends or goes on, or lets them go on.
    pub fn set_run_state(&self, to: RunState) {
        let mut state = self.state.lock();
        let from = std::mem::replace(&mut state.run_state, to);
        self.summon(&state);
        drop(state);
        let running = |state| state == RunState::Running;
        match (running(from), running(to)) {
            (true, false) => self.observers.tell(&Event::Stopped),
            (false, true) => self.observers.tell(&Event::Resumed),
            _ => {}
        }
    }

    /// The same for a machine that runs: one that is stopped stays so for its
    /// own reason.
    pub fn stop_if_running(&self, why: RunState) {
        let mut state = self.state.lock();
        if state.run_state == RunState::Running {
            state.run_state = why;
            self.summon(&state);
            drop(state);
            self.observers.tell(&Event::Stopped);
        }
    }

    /// Which vCPUs run when the machine does; `None` for all.
    pub fn choose(&self, vcpus: Option<Vec<u32>>) {
        let mut state = self.state.lock();
        state.chosen = vcpus;
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
            MutexGuard::unlocked(&mut state, || self.observers.tell(&Event::Stopped));
        }
        while state.run_state != RunState::Running && !state.over {
            self.changed.wait(&mut state);
        }
        !state.over
    }

    /// The machine starts: the vCPUs to stop from now on. Who waited for the
    /// last one's end is gone: its devices' threads have been joined.
    pub fn set_kickers(&self, kickers: Vec<(u32, Arc<dyn Kicker>)>) {
        let mut state = self.state.lock();
        state.over = state.ending.is_some();
        state.kickers = kickers;
        // As QEMU's, it waits until somebody lets it go on.
        if state.run_state.needs_reset() {
            state.run_state = RunState::Prelaunch;
        }
        self.attention
            .store(state.wants_attention(), Ordering::Release);
    }

    /// One more vCPU to stop.
    pub fn add_kicker(&self, number: u32, kicker: Arc<dyn Kicker>) {
        self.state.lock().kickers.push((number, kicker));
    }

    /// A vCPU is gone; what it was still to do is dropped.
    pub fn remove_kicker(&self, number: u32) {
        let mut state = self.state.lock();
        state.kickers.retain(|(other, _)| *other != number);
        state.errands.retain(|(other, _)| *other != number);
    }

    /// The vCPUs that run, by number.
    pub fn vcpus(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> = self.state.lock().kickers.iter().map(|(n, _)| *n).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Has `errand` done on a vCPU's thread, whether the machine runs or is
    /// stopped; false if there is no such vCPU at this moment. What becomes of
    /// an errand when the machine starts again before it is done: it is dropped.
    pub fn send(&self, vcpu: u32, errand: impl FnOnce(&mut dyn Vcpu) + Send + 'static) -> bool {
        let mut state = self.state.lock();
        let found = state.kickers.iter().find(|(number, _)| *number == vcpu);
        let Some((_, kicker)) = found.cloned() else {
            return false;
        };
        if state.ending.is_some() {
            return false;
        }
        state.errands.push((vcpu, Box::new(errand)));
        self.attention.store(true, Ordering::Release);
        self.changed.notify_all();
        kicker.kick();
        true
    }

    /// False when a vCPU must leave its loop; waits while the machine is
    /// stopped, and does what it is sent.
    pub fn may_run(&self, id: u32, vcpu: &mut dyn Vcpu) -> bool {
        if !self.attention.load(Ordering::Acquire) {
            return true;
        }
        let mut state = self.state.lock();
        loop {
            if state.ending.is_some() {
                return false;
            }
            if let Some(errand) = state.take_errand(id) {
                let done = MutexGuard::unlocked(&mut state, || self.settle(id, vcpu));
                match done {
                    Ok(()) => {
                        MutexGuard::unlocked(&mut state, || errand(vcpu));
                        continue;
                    }
                    Err(error) => {
                        drop(state);
                        self.request(Ending::Failed(error));
                        return false;
                    }
                }
            }
            if state.lets_run(id) {
                self.attention
                    .store(state.wants_attention(), Ordering::Release);
                return true;
            }
            self.changed.wait(&mut state);
        }
    }

    /// Finishes the instruction in flight. If a debugger has it stepped, that was
    /// the step.
    fn settle(&self, id: u32, vcpu: &mut dyn Vcpu) -> Result<(), Error> {
        if let Some(exit) = saved::settle(vcpu)?
            && self.debugger.hit(id, vcpu, exit) == Some(true)
        {
            self.stop_if_running(RunState::Debug);
        }
        Ok(())
    }

    /// Takes the ending once all vCPUs have stopped.
    pub fn take_ending(&self) -> Option<Ending> {
        let mut state = self.state.lock();
        state.kickers.clear();
        state.errands.clear();
        let ending = state.ending.take();
        self.attention
            .store(state.wants_attention(), Ordering::Release);
        ending
    }

    fn summon(&self, state: &State) {
        let attention = state.wants_attention();
        self.attention.store(attention, Ordering::Release);
        self.changed.notify_all();
        if attention {
            state.kickers.iter().for_each(|(_, k)| k.kick());
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
                    true => control.set_run_state(RunState::Running),
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
        control.set_run_state(RunState::Paused);
        control.request(Ending::Reset);
        assert!(control.take_ending().is_some());
        assert!(!control.stop_for_error(|| panic!("it is over")));
        // It starts again, and stops again.
        control.set_kickers(Vec::new());
        control.set_run_state(RunState::Running);
        let told = AtomicBool::new(false);
        let tell = || told.store(true, Ordering::Relaxed);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| control.stop_for_error(tell));
            while control.run_state() != RunState::IoError {
                std::thread::yield_now();
            }
            control.set_run_state(RunState::Running);
            assert!(waits.join().expect("no panic"));
        });
        assert!(told.into_inner());
    }
}
