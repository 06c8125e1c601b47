//! The bytes between a debugger and its end here: a connection to a socket of ours,
//! or another host end.

use crate::debugger::Wake;
use machine::console::{Connection, Heard, Line, LineWriter};
use parking_lot::Mutex;
use rustix::fd::{AsFd, BorrowedFd};
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

/// The way to one debugger.
pub(crate) trait Wire {
    /// What becomes readable; a wire without one rings the bell.
    fn readable(&self) -> Option<BorrowedFd<'_>>;
    /// What has come, perhaps nothing. An error is the end.
    fn receive(&self) -> io::Result<Vec<u8>>;
    fn send(&self, bytes: &[u8]) -> io::Result<()>;
}

impl Wire for Connection {
    fn readable(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let (mut from, mut bytes) = (self, vec![0; 4096]);
        match from.read(&mut bytes) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                bytes.truncate(n);
                Ok(bytes)
            }
            Err(why) if why.kind() == ErrorKind::Interrupted => Ok(Vec::new()),
            Err(why) => Err(why),
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let mut to = self;
        to.write_all(bytes)
    }
}

/// A host end that is no server: the terminal, a pty and others.
pub(crate) struct LineWire {
    read: Arc<Mutex<Inbox>>,
    writer: LineWriter,
}

/// What a host end has read.
#[derive(Default)]
struct Inbox {
    bytes: Vec<u8>,
    /// Who sent that has left since.
    left: bool,
}

impl LineWire {
    /// Reads it on a thread of its own, which ends when the machine does.
    pub(crate) fn start(mut line: Line, wake: Wake) -> io::Result<Self> {
        let read = Arc::<Mutex<Inbox>>::default();
        let (writer, to) = (line.writer(), read.clone());
        let thread = std::thread::Builder::new().name("gdb-input".into());
        thread.spawn(move || {
            let mut bytes = [0; 4096];
            loop {
                match line.read(&mut bytes) {
                    Heard::Bytes(n) => to.lock().bytes.extend(&bytes[..n]),
                    Heard::Left => to.lock().left = true,
                    Heard::Opened => {}
                    Heard::Closed => return,
                }
                wake.wake();
            }
        })?;
        Ok(Self { read, writer })
    }

    /// Somebody said something that nobody has heard yet.
    pub(crate) fn is_called(&self) -> bool {
        let mut inbox = self.read.lock();
        inbox.left = false;
        !inbox.bytes.is_empty()
    }
}

impl Wire for LineWire {
    fn readable(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut inbox = self.read.lock();
        match inbox.left && inbox.bytes.is_empty() {
            true => Err(ErrorKind::UnexpectedEof.into()),
            false => Ok(std::mem::take(&mut inbox.bytes)),
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_bytes(bytes);
        Ok(())
    }
}
