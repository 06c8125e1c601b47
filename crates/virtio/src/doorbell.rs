//! Wakes a queue's worker.

use parking_lot::{Condvar, Mutex};

/// Rung by the driver's notifications; waited for by one worker. Rings while
/// nobody waits are remembered as one.
#[derive(Debug, Default)]
pub struct Doorbell {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    rung: bool,
    stopped: bool,
}

impl Doorbell {
    /// There may be something in the queue.
    pub fn ring(&self) {
        self.state.lock().rung = true;
        self.changed.notify_one();
    }

    /// The worker shall end.
    pub fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }

    /// True once [`Self::stop`] was called.
    pub fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }

    /// A worker is about to start.
    pub fn reset(&self) {
        *self.state.lock() = State::default();
    }

    /// Waits for a ring; false if the worker shall end.
    pub fn wait(&self) -> bool {
        let mut state = self.state.lock();
        while !state.rung && !state.stopped {
            self.changed.wait(&mut state);
        }
        state.rung = false;
        !state.stopped
    }
}
