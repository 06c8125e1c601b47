//! Host ends of serial ports and monitors: where bytes go and come from.
//!
//! A [`Console`] lives as long as the machine; the serial port it is attached
//! to is made anew at every reset. What is behind it, the [`Backend`], may be
//! shared by several ([`crate::config::MuxConfig`]).

mod backend;
mod end;
mod escape;
mod feed;
mod input;
mod line;
mod output;
mod pty;
mod ring;
mod socket;
mod stdio;
mod stream;
mod terminal;

pub use backend::Backends;
pub use end::End;
pub use input::InputQueue;
pub use line::{Heard, Line, LineWriter};
pub use output::Output;
pub use pty::Pty;
pub use ring::Ring;
pub use socket::{Connection, Listener, Telnet};
pub use terminal::RawTerminal;

use crate::outcome::Result;
use backend::Backend;
use devices::uart::SerialPort;
use std::sync::{Arc, Weak};

/// One host end, for one user.
pub struct Console {
    /// Bytes from the guest.
    pub output: Arc<Output>,
    /// Bytes for the guest.
    pub input: Arc<InputQueue>,
    backend: Arc<Backend>,
}

impl Console {
    fn new(backend: Arc<Backend>) -> Self {
        let input = Arc::new(InputQueue::default());
        backend.feed.add(input.clone());
        Self {
            output: backend.output.clone(),
            input,
            backend,
        }
    }

    /// Starts to read.
    pub fn start(&self) -> Result<()> {
        self.backend.start()
    }

    /// As the host's end of a virtio port.
    pub fn end(&self) -> Arc<End> {
        let (output, input) = (self.output.clone(), self.input.clone());
        Arc::new(End::new(output, input, self.backend.connected.clone()))
    }

    /// As a stream for a program.
    pub fn line(&self) -> Line {
        let (output, input) = (self.output.clone(), self.input.clone());
        let shared = self.backend.is_shared();
        Line::new(output, input, self.backend.connected.clone(), shared)
    }

    /// Connects the guest's serial port.
    pub fn attach(&self, port: &Arc<SerialPort>) {
        let port: Weak<SerialPort> = Arc::downgrade(port);
        self.input.attach(port);
    }

    /// Disconnects it.
    pub fn detach(&self) {
        self.input.attach(Weak::<SerialPort>::new());
    }

    /// Stops reading, restores the terminal and writes out what the guest
    /// sent.
    pub fn stop(&mut self) {
        self.input.close();
        self.backend.stop();
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.stop();
    }
}
