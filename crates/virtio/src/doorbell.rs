//! Wakes a queue's worker.

use crate::alarm::Alarm;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;

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
    alarm: Option<Arc<Alarm>>,
}

impl Doorbell {
    /// There may be something in the queue.
    pub fn ring(&self) {
        let alarm = {
            let mut state = self.state.lock();
            let first = !std::mem::replace(&mut state.rung, true);
            state.alarm.clone().filter(|_| first)
        };
        match alarm {
            Some(alarm) => alarm.raise(),
            None => drop(self.changed.notify_one()),
        }
    }

    /// The worker waits for `alarm` from now on, not with [`Self::wait`]; until
    /// the next [`Self::reset`].
    pub(crate) fn attach(&self, alarm: Arc<Alarm>) {
        self.state.lock().alarm = Some(alarm);
    }

    /// Forgets rings, of which there may have been some; false if the worker
    /// shall end.
    pub(crate) fn quiet(&self) -> bool {
        let mut state = self.state.lock();
        state.rung = false;
        !state.stopped
    }

    /// The worker shall end.
    pub fn stop(&self) {
        let alarm = {
            let mut state = self.state.lock();
            state.stopped = true;
            state.alarm.clone()
        };
        self.changed.notify_all();
        if let Some(alarm) = alarm {
            alarm.raise();
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn rings_and_stops_raise_the_alarm() {
        let (alarm, bell) = (Arc::new(Alarm::new().unwrap()), Doorbell::default());
        bell.attach(alarm.clone());
        let limit = Duration::from_secs(20);
        let begin = Instant::now();
        bell.ring();
        bell.ring();
        alarm.wait(None, Some(begin + limit));
        alarm.clear();
        assert!(bell.quiet());
        bell.ring();
        alarm.wait(None, Some(begin + limit));
        alarm.clear();
        bell.stop();
        alarm.wait(None, Some(begin + limit));
        assert!(!bell.quiet());
        assert!(begin.elapsed() < limit);
    }
}
