//! Devices that act on their own when time passes.

use parking_lot::{Condvar, Mutex};
use std::sync::Arc;

/// Something with deadlines.
pub trait Timed: Send + Sync {
    /// Does what is due and returns the next deadline on the device's
    /// monotonic clock in ns, or `None` while nothing is armed.
    fn run_due(&self) -> Option<u64>;
}

/// Wakes whoever waits for deadlines because a device armed a nearer one.
#[derive(Clone, Debug, Default)]
pub struct Waker(Arc<WakerState>);

#[derive(Debug, Default)]
struct WakerState {
    /// Set by `wake` and `stop`; the waiter clears `woken`.
    state: Mutex<Flags>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct Flags {
    woken: bool,
    stopped: bool,
}

impl Waker {
    /// Deadlines changed.
    pub fn wake(&self) {
        self.0.state.lock().woken = true;
        self.0.changed.notify_all();
    }
    /// No more waiting, ever.
    pub fn stop(&self) {
        self.0.state.lock().stopped = true;
        self.0.changed.notify_all();
    }
    /// Waits until woken, stopped, or `timeout_ns` went by; false once
    /// stopped.
    pub fn wait(&self, timeout_ns: Option<u64>) -> bool {
        let mut state = self.0.state.lock();
        if !state.woken && !state.stopped {
            match timeout_ns {
                None => self.0.changed.wait(&mut state),
                Some(ns) => {
                    let limit = std::time::Duration::from_nanos(ns);
                    self.0.changed.wait_for(&mut state, limit);
                }
            }
        }
        state.woken = false;
        !state.stopped
    }
}
