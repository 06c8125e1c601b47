//! What a network waits for, as something that others can wait for.

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Waits for nothing: a connection that is lost says so once.
pub(crate) const NOTHING: EventFlags = EventFlags::ET;

/// An epoll, so that what is waited for may change while others wait for it.
#[derive(Debug)]
pub(crate) struct Watch {
    epoll: OwnedFd,
    /// What is waited for of the descriptor it began with last.
    flags: EventFlags,
}

impl Watch {
    /// Waits for nothing.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            flags: NOTHING,
        })
    }

    /// Readable when what is waited for has come.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// What is waited for.
    pub(crate) fn flags(&self) -> EventFlags {
        self.flags
    }

    /// Waits until `fd` is readable.
    pub(crate) fn begin(&mut self, fd: impl AsFd) -> io::Result<()> {
        self.flags = EventFlags::IN;
        Ok(epoll::add(
            &self.epoll,
            fd,
            EventData::new_u64(0),
            self.flags,
        )?)
    }

    /// Waits for `flags` of `fd`, which is the one it began with last.
    pub(crate) fn set(&mut self, fd: impl AsFd, flags: EventFlags) -> io::Result<()> {
        if self.flags != flags {
            epoll::modify(&self.epoll, fd, EventData::new_u64(0), flags)?;
            self.flags = flags;
        }
        Ok(())
    }

    /// Waits for `flags` of `fd`, another one.
    pub(crate) fn set_other(&self, fd: impl AsFd, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::modify(
            &self.epoll,
            fd,
            EventData::new_u64(0),
            flags,
        )?)
    }
}
