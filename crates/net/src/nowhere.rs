//! A network with nobody on it.

use crate::{Accepts, Frame, Guest, Network};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

/// Takes every frame and has none.
#[derive(Debug)]
pub struct Nowhere {
    /// Never readable: nobody writes to the other end, which is here.
    quiet: UnixStream,
    _other: UnixStream,
}

impl Nowhere {
    /// A network of its own.
    ///
    /// # Errors
    /// The host has no more descriptors.
    pub fn new() -> io::Result<Self> {
        let (quiet, _other) = UnixStream::pair()?;
        Ok(Self { quiet, _other })
    }
}

impl Network for Nowhere {
    fn fd(&self) -> BorrowedFd<'_> {
        self.quiet.as_fd()
    }
    fn takes(&self) -> Accepts {
        Accepts::ALL
    }
    fn accepts(&mut self, _: Accepts) {}
    fn send(&mut self, _: &Frame) -> bool {
        true
    }
    fn run(&mut self, _: Instant, _: &mut dyn Guest) -> io::Result<()> {
        Ok(())
    }
}
