//! The VM's timer thread: fires the timers of the interrupt controllers.

use crate::clock::VmClock;
use crate::vm::SoftVm;
use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::sync::{Arc, Weak};

const NEVER: u64 = u64::MAX;

/// The earliest deadline, shared with the thread that waits for it.
#[derive(Debug)]
pub struct Timer {
    /// Copy of `State::earliest`, so that later deadlines cost no lock.
    hint: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// ns on the VM's clock.
    earliest: u64,
    stop: bool,
}

impl Timer {
    /// Nothing to wait for.
    pub fn new() -> Self {
        Self {
            hint: AtomicU64::new(NEVER),
            state: Mutex::new(State {
                earliest: NEVER,
                stop: false,
            }),
            changed: Condvar::new(),
        }
    }
    /// A deadline was set: the thread must not sleep past it.
    pub fn deadline(&self, ns: u64) {
        if ns >= self.hint.load(SeqCst) {
            return;
        }
        let mut state = self.state.lock();
        if ns < state.earliest {
            state.earliest = ns;
            self.hint.store(ns, SeqCst);
            drop(state);
            self.changed.notify_one();
        }
    }
    /// True, once, if the deadline has passed and the thread has not noticed yet:
    /// the caller fires the timers. The thread does so as well when it runs.
    pub fn take_due(&self, now: u64) -> bool {
        let earliest = self.hint.load(SeqCst);
        earliest <= now
            && self
                .hint
                .compare_exchange(earliest, NEVER, SeqCst, SeqCst)
                .is_ok()
    }
    /// Ends the thread.
    pub fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_one();
    }
}

/// Starts the thread; it ends with the VM.
pub fn start(vm: &Arc<SoftVm>) -> std::io::Result<()> {
    let (timer, clock, weak) = (vm.timer.clone(), vm.clock.clone(), Arc::downgrade(vm));
    let name = std::thread::Builder::new().name("vm-timer".into());
    name.spawn(move || run(&weak, &timer, &clock))?;
    Ok(())
}

fn run(vm: &Weak<SoftVm>, timer: &Timer, clock: &VmClock) {
    set_timer_slack();
    let mut state = timer.state.lock();
    while !state.stop {
        if state.earliest > clock.now_ns() {
            if state.earliest == NEVER {
                timer.changed.wait(&mut state);
            } else {
                let at = clock.instant(state.earliest);
                timer.changed.wait_until(&mut state, at);
            }
            continue;
        }
        // Deadlines set while the timers fire are compared with NEVER.
        state.earliest = NEVER;
        timer.hint.store(NEVER, SeqCst);
        drop(state);
        let next = match vm.upgrade() {
            Some(vm) => vm.fire_timers(),
            None => return,
        };
        state = timer.state.lock();
        state.earliest = state.earliest.min(next.unwrap_or(NEVER));
        timer.hint.store(state.earliest, SeqCst);
    }
}

/// Asks the kernel for wake-ups within a microsecond instead of 50.
#[allow(unsafe_code, reason = "prctl")]
fn set_timer_slack() {
    // SAFETY: PR_SET_TIMERSLACK only changes this thread's timer slack; a
    // refusal costs precision, nothing else.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1000u64, 0u64, 0u64, 0u64);
    }
}
