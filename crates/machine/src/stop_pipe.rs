//! A way to end a thread that waits for a file descriptor.
#![allow(unsafe_code, reason = "eventfd and poll")]

use crate::outcome::{Error, Result};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::time::Duration;

/// An eventfd that becomes readable, for ever, when its owner says stop.
pub struct StopPipe(File);

impl StopPipe {
    /// Not stopped yet.
    pub fn new() -> Result<Self> {
        // SAFETY: eventfd takes plain numbers and returns a new descriptor.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(Error::Host {
                what: "eventfd",
                source: std::io::Error::last_os_error(),
            });
        }
        // SAFETY: the descriptor is new and belongs to nobody else.
        Ok(Self(unsafe { File::from_raw_fd(fd) }))
    }

    /// Ends every present and future wait.
    pub fn stop(&self) {
        // An eventfd takes the value unless it is about to overflow, in which
        // case it is readable already.
        let _ = (&self.0).write_all(&1u64.to_ne_bytes());
    }

    /// Waits so long; true when stopped.
    pub fn wait_for(&self, time: Duration) -> bool {
        let mut fd = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let milliseconds = time.as_millis().min(i32::MAX as u128) as i32;
        // SAFETY: the pointer is to one entry.
        unsafe { libc::poll(&raw mut fd, 1, milliseconds) > 0 }
    }

    /// Waits until `fd` can be read (or has ended); false when stopped.
    pub fn wait_readable(&self, fd: RawFd) -> bool {
        let entry = |fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        let mut fds = [entry(self.0.as_raw_fd()), entry(fd)];
        loop {
            // SAFETY: the pointer and count describe the array above.
            let n = unsafe { libc::poll(fds.as_mut_ptr(), 2, -1) };
            if fds[0].revents != 0 {
                return false;
            }
            if n > 0 && fds[1].revents != 0 {
                return fds[1].revents & libc::POLLNVAL == 0;
            }
            let error = std::io::Error::last_os_error();
            if n < 0 && error.kind() != std::io::ErrorKind::Interrupted {
                return false;
            }
        }
    }
}
