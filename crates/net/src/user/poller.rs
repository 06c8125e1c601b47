//! The host's sockets, waited for through one file descriptor. Edges, not levels:
//! a socket that nobody wants to read now does not keep anyone awake.

use super::schedule::Token;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Events taken at once.
const EVENTS: usize = 256;

/// What a socket may be ready for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    pub(super) readable: bool,
    pub(super) writable: bool,
}

pub(super) struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Says of `socket` when it becomes ready for anything, until it is closed.
    pub(super) fn add(&self, socket: impl AsFd, token: Token) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(
            &self.epoll,
            socket,
            EventData::new_u64(token.to_bits()),
            flags,
        )?)
    }

    /// What has become ready; what does not fit is there the next time.
    pub(super) fn take(&self) -> io::Result<Vec<(Token, Ready)>> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS);
        let now = Timespec::default();
        let buffer = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&self.epoll, buffer, Some(&now)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let broken = EventFlags::ERR | EventFlags::HUP;
        let ready = events.iter().map(|event| {
            let flags = event.flags;
            let ready = Ready {
                readable: flags.intersects(EventFlags::IN | EventFlags::RDHUP | broken),
                writable: flags.intersects(EventFlags::OUT | broken),
            };
            let data = event.data;
            (Token::from_bits(data.u64()), ready)
        });
        Ok(ready.collect())
    }
}
