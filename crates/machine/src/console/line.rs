//! A console as a stream of bytes for a program: what a monitor is behind.

use super::input::Receiver;
use super::{InputQueue, Output};
use devices::uart::ByteSource;
use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// The stream. One thread reads.
pub struct Line {
    output: Arc<Output>,
    input: Arc<InputQueue>,
    connected: Arc<AtomicBool>,
    bell: Arc<Bell>,
    was_connected: bool,
}

/// The way out of a stream.
pub struct LineWriter(Arc<Output>);

impl LineWriter {
    /// Writes; waits for a reader that is slow.
    pub fn write(&self, text: &str) {
        self.0.print(text);
    }

    /// The same for any bytes.
    pub fn write_bytes(&self, bytes: &[u8]) {
        self.0.print_bytes(bytes);
    }
}

/// What a read came back with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// So many bytes.
    Bytes(usize),
    /// Somebody connected, or turned to this end of a shared one.
    Opened,
    /// Whoever was connected left.
    Left,
    /// The machine ends.
    Closed,
}

#[derive(Default)]
struct Bell {
    state: Mutex<Rung>,
    changed: Condvar,
}

#[derive(Default)]
struct Rung {
    any: bool,
    focus: bool,
}

impl Receiver for Bell {
    fn pump(&self) {
        self.state.lock().any = true;
        self.changed.notify_all();
    }

    fn focus(&self) {
        self.state.lock().focus = true;
        self.pump();
    }
}

impl Line {
    pub(super) fn new(
        output: Arc<Output>,
        input: Arc<InputQueue>,
        connected: Arc<AtomicBool>,
        shared: bool,
    ) -> Self {
        let bell = Arc::new(Bell::default());
        let weak: Weak<Bell> = Arc::downgrade(&bell);
        input.attach(weak);
        Self {
            output,
            input,
            connected,
            bell,
            // One of several is open only once somebody turns to it.
            was_connected: shared,
        }
    }

    /// The way out.
    pub fn writer(&self) -> LineWriter {
        LineWriter(self.output.clone())
    }

    /// Waits for bytes or something else to happen.
    pub fn read(&mut self, bytes: &mut [u8]) -> Heard {
        loop {
            let connected = self.connected.load(Ordering::Acquire);
            if connected != std::mem::replace(&mut self.was_connected, connected) {
                return if connected {
                    Heard::Opened
                } else {
                    Heard::Left
                };
            }
            if std::mem::take(&mut self.bell.state.lock().focus) {
                return Heard::Opened;
            }
            match self.input.get(bytes) {
                0 => {}
                n => return Heard::Bytes(n),
            }
            if self.input.is_closed() {
                return Heard::Closed;
            }
            let mut rung = self.bell.state.lock();
            while !std::mem::take(&mut rung.any) {
                self.bell.changed.wait(&mut rung);
            }
        }
    }
}
