//! Bytes on their way into the guest.

use devices::uart::{ByteSource, SerialPort};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Weak;

/// A producer waits while this many bytes are queued.
const CAPACITY: usize = 4096;

/// Who gets the bytes of an [`InputQueue`].
pub trait Receiver: Send + Sync {
    /// There are bytes, or somebody connected or left.
    fn pump(&self);
    /// The user sends a break.
    fn send_break(&self) {}
    /// The user turns to this one of several that share a host end.
    fn focus(&self) {}
}

impl Receiver for SerialPort {
    fn pump(&self) {
        Self::pump(self);
    }
    fn send_break(&self) {
        Self::send_break(self);
    }
}

/// A bounded queue between a reader thread and a port of the guest. Lock
/// order: the port's lock, then `state`; `push` holds neither when it calls
/// the port.
pub struct InputQueue {
    state: Mutex<State>,
    changed: Condvar,
    port: Mutex<Weak<dyn Receiver>>,
}

impl Default for InputQueue {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            port: Mutex::new(Weak::<SerialPort>::new()),
        }
    }
}

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    closed: bool,
}

impl InputQueue {
    /// Queues bytes and offers them to the port; waits while the queue is
    /// full. False once closed.
    pub fn push(&self, bytes: &[u8]) -> bool {
        for chunk in bytes.chunks(CAPACITY) {
            let mut state = self.state.lock();
            while state.bytes.len() + chunk.len() > CAPACITY && !state.closed {
                self.changed.wait(&mut state);
            }
            if state.closed {
                return false;
            }
            state.bytes.extend(chunk);
            drop(state);
            self.offer();
        }
        true
    }

    /// Sends a break.
    pub fn send_break(&self) {
        if let Some(port) = self.port.lock().upgrade() {
            port.send_break();
        }
    }

    /// The user turns to this one.
    pub fn focus(&self) {
        if let Some(port) = self.port.lock().upgrade() {
            port.focus();
        }
    }

    /// Sets the port that gets the bytes.
    pub fn attach(&self, port: Weak<dyn Receiver>) {
        *self.port.lock() = port;
        self.offer();
    }

    /// Wakes and refuses producers.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
        self.offer();
    }

    /// It was closed.
    pub fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// There are bytes.
    pub fn has_bytes(&self) -> bool {
        !self.state.lock().bytes.is_empty()
    }

    /// Tells the port that something is new.
    pub fn offer(&self) {
        let port = self.port.lock().upgrade();
        if let Some(port) = port {
            port.pump();
        }
    }
}

impl ByteSource for InputQueue {
    fn get(&self, buf: &mut [u8]) -> usize {
        let mut state = self.state.lock();
        let n = buf.len().min(state.bytes.len());
        if n > 0 {
            buf.iter_mut()
                .zip(state.bytes.drain(..n))
                .for_each(|(to, from)| *to = from);
            self.changed.notify_all();
        }
        n
    }

    /// May exceed the capacity by what one receiver holds.
    fn unget(&self, bytes: &[u8]) {
        let mut state = self.state.lock();
        bytes.iter().rev().for_each(|&b| state.bytes.push_front(b));
    }
}
