//! A serial back end in memory, for tests and programs that drive a guest.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A handle; clones share one pair of buffers.
#[derive(Clone, Debug, Default)]
pub struct MemorySerial(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    output: Vec<u8>,
    input: VecDeque<u8>,
    closed: bool,
}

impl MemorySerial {
    /// Empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Everything the guest has sent so far, invalid UTF-8 replaced.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&self.0.state.lock().output).into_owned()
    }

    /// Queues bytes for the guest.
    pub fn send(&self, bytes: &[u8]) {
        self.0.state.lock().input.extend(bytes);
        self.0.changed.notify_all();
    }

    /// Waits until the output contains `needle`; false after `timeout` or
    /// when the machine ended without it.
    pub fn wait_for(&self, needle: &str, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let needle = needle.as_bytes();
        let mut state = self.0.state.lock();
        loop {
            if needle.is_empty() || state.output.windows(needle.len()).any(|w| w == needle) {
                return true;
            }
            if state.closed || self.0.changed.wait_until(&mut state, deadline).timed_out() {
                return false;
            }
        }
    }

    pub(crate) fn append(&self, bytes: &[u8]) {
        self.0.state.lock().output.extend_from_slice(bytes);
        self.0.changed.notify_all();
    }

    /// Takes at most `max` input bytes, waiting for some; empty when closed.
    pub(crate) fn take_input(&self, max: usize) -> Vec<u8> {
        let mut state = self.0.state.lock();
        while state.input.is_empty() && !state.closed {
            self.0.changed.wait(&mut state);
        }
        let n = state.input.len().min(max);
        state.input.drain(..n).collect()
    }

    pub(crate) fn set_closed(&self, closed: bool) {
        self.0.state.lock().closed = closed;
        self.0.changed.notify_all();
    }
}
