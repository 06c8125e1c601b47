//! What is on its way to a client. It has room for so much: a client that does
//! not read keeps its own session waiting, and misses events.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Bytes that wait at most, but for one message.
const ROOM: usize = 1 << 20;

/// The queue; public for sessions without threads.
#[derive(Default)]
pub struct Outbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    messages: VecDeque<String>,
    bytes: usize,
    writing: bool,
    closed: bool,
}

impl Outbox {
    /// Queues an answer; waits for room. False once closed.
    pub fn send(&self, message: String) -> bool {
        let mut state = self.state.lock();
        while state.bytes >= ROOM && !state.closed {
            self.changed.wait(&mut state);
        }
        self.put(&mut state, message)
    }

    /// Queues an event if there is room.
    pub fn offer(&self, message: String) -> bool {
        let mut state = self.state.lock();
        state.bytes < ROOM && self.put(&mut state, message)
    }

    fn put(&self, state: &mut State, message: String) -> bool {
        if state.closed {
            return false;
        }
        state.bytes += message.len();
        state.messages.push_back(message);
        self.changed.notify_all();
        true
    }

    /// Nothing goes out any more.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.messages.clear();
        state.bytes = 0;
        self.changed.notify_all();
    }

    /// Hands messages to `write` until it fails or the box is closed.
    pub fn drain(&self, mut write: impl FnMut(&str) -> bool) {
        let mut state = self.state.lock();
        loop {
            let Some(message) = state.messages.pop_front() else {
                if state.closed {
                    return;
                }
                self.changed.wait(&mut state);
                continue;
            };
            state.writing = true;
            let written = parking_lot::MutexGuard::unlocked(&mut state, || write(&message));
            state.writing = false;
            state.bytes = state.bytes.saturating_sub(message.len());
            self.changed.notify_all();
            if !written {
                drop(state);
                return self.close();
            }
        }
    }

    /// Takes all that waits.
    pub fn take(&self) -> String {
        let mut state = self.state.lock();
        state.bytes = 0;
        self.changed.notify_all();
        state.messages.drain(..).collect()
    }

    /// Waits until everything went out; false if it did not in time.
    pub fn flush(&self, deadline: Instant) -> bool {
        let mut state = self.state.lock();
        while !state.closed && (state.writing || !state.messages.is_empty()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO || self.changed.wait_for(&mut state, left).timed_out() {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_does_not_read_misses_events() {
        let outbox = Outbox::default();
        assert!(outbox.send("x".repeat(ROOM)));
        assert!(!outbox.offer("event".into()));
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| outbox.send("answer".into()));
            let mut count = 0;
            outbox.drain(|_| {
                count += 1;
                count < 2
            });
            assert!(sender.join().unwrap());
        });
        assert!(!outbox.send("late".into()));
    }
}
