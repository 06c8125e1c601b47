//! Frames over a stream socket, each behind its length in 32 bits, big-endian: what
//! QEMU's `-netdev stream` and passt speak.

mod link;
mod peer;

use crate::frame::{Accepts, Frame};
use crate::watch::{NOTHING, Watch};
use crate::{Guest, Network};
use link::Link;
use log::info;
use peer::Listener;
use rustix::event::epoll::EventFlags;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Frames for the guest in one go, so that what it sends gets its turn.
const BURST: usize = 256;

/// Where the other side is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamAddress {
    /// A Unix socket.
    Unix(PathBuf),
    /// TCP: host and port.
    Tcp(String, u16),
    /// A connection already: the number of its descriptor.
    Opened(i32),
}

/// Who waits for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamConfig {
    /// Where.
    pub address: StreamAddress,
    /// Waits for the other side to connect.
    pub server: bool,
    /// Connects again so long after the connection was lost.
    pub reconnect: Option<Duration>,
}

/// The network behind a stream socket.
#[derive(Debug)]
pub struct Stream {
    config: StreamConfig,
    watch: Watch,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nobody has connected yet.
    Listening(Listener),
    /// There is somebody; behind it the listener, if there is one.
    Connected(Link, Option<Listener>),
    /// Until it is time to connect again.
    Waiting(Instant),
    /// The connection is lost for good.
    Lost,
}

impl Stream {
    /// Connects or begins to listen.
    ///
    /// # Errors
    /// One line: what is wrong.
    pub fn open(config: StreamConfig) -> Result<Self, String> {
        let failed = |e: io::Error| format!("{}: {e}", config.address);
        let mut watch = Watch::new().map_err(failed)?;
        let state = if config.server {
            let listener = Listener::bind(&config.address).map_err(failed)?;
            watch.begin(listener.fd()).map_err(failed)?;
            State::Listening(listener)
        } else {
            match (peer::connect(&config.address), config.reconnect) {
                (Ok(socket), _) => {
                    watch.begin(&socket).map_err(failed)?;
                    State::Connected(Link::new(socket), None)
                }
                (Err(_), Some(pause)) => State::Waiting(Instant::now() + pause),
                (Err(e), None) => return Err(failed(e)),
            }
        };
        Ok(Self {
            config,
            watch,
            state,
        })
    }

    /// Somebody has connected.
    fn welcome(&mut self, listener: Listener) -> io::Result<()> {
        self.state = match listener.accept()? {
            None => State::Listening(listener),
            Some(socket) => {
                info!("{}: connected", self.config.address);
                // The listener is left alone until the one who came has gone.
                self.watch.set_other(listener.fd(), NOTHING)?;
                self.watch.begin(&socket)?;
                State::Connected(Link::new(socket), Some(listener))
            }
        };
        Ok(())
    }

    fn connect_again(&mut self, now: Instant, at: Instant) -> io::Result<()> {
        let Some(pause) = self.config.reconnect.filter(|_| now >= at) else {
            return Ok(());
        };
        self.state = match peer::connect(&self.config.address) {
            Err(_) => State::Waiting(now + pause),
            Ok(socket) => {
                self.watch.begin(&socket)?;
                State::Connected(Link::new(socket), None)
            }
        };
        Ok(())
    }

    /// The other side has gone, or said what nobody understands.
    fn lost(&mut self, why: &io::Error, now: Instant) -> io::Result<()> {
        info!("{}: {why}", self.config.address);
        let before = std::mem::replace(&mut self.state, State::Lost);
        self.state = match (before, self.config.reconnect) {
            (State::Connected(_, Some(listener)), _) => {
                self.watch.set_other(listener.fd(), EventFlags::IN)?;
                State::Listening(listener)
            }
            (_, Some(pause)) => State::Waiting(now + pause),
            (_, None) => State::Lost,
        };
        Ok(())
    }

    /// Moves frames both ways.
    fn exchange(link: &mut Link, watch: &mut Watch, guest: &mut dyn Guest) -> io::Result<()> {
        link.flush()?;
        link.more = true;
        let mut flags = EventFlags::IN;
        for _ in 0..BURST {
            if !guest.has_room() {
                flags = NOTHING;
                link.more = false;
                break;
            }
            if !link.receive(|frame| guest.deliver(frame))? {
                link.more = false;
                break;
            }
        }
        if link.is_full() {
            flags |= EventFlags::OUT;
        }
        watch.set(link.socket(), flags)
    }
}

impl Network for Stream {
    fn fd(&self) -> BorrowedFd<'_> {
        self.watch.fd()
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Waiting(at) => Some(*at),
            State::Connected(link, _) if link.more => Some(Instant::now()),
            _ => None,
        }
    }

    /// Somebody is at the other end.
    fn has_carrier(&self) -> bool {
        matches!(self.state, State::Connected(..))
    }

    fn accepts(&mut self, _: Accepts) {}

    fn send(&mut self, frame: &Frame) -> bool {
        match &mut self.state {
            State::Connected(link, _) if link.is_full() => false,
            State::Connected(link, _) => {
                // Whatever is wrong with the connection, reading says it too.
                let sent = link.send(&frame.bytes);
                if sent.is_ok() && link.is_full() {
                    let flags = self.watch.flags() | EventFlags::OUT;
                    return self.watch.set(link.socket(), flags).is_ok();
                }
                true
            }
            // A wire without another end.
            _ => true,
        }
    }

    fn run(&mut self, now: Instant, guest: &mut dyn Guest) -> io::Result<()> {
        match &mut self.state {
            State::Listening(_) => {
                let before = std::mem::replace(&mut self.state, State::Lost);
                match before {
                    State::Listening(listener) => self.welcome(listener),
                    _ => Ok(()),
                }
            }
            State::Waiting(at) => {
                let at = *at;
                self.connect_again(now, at)
            }
            State::Connected(link, _) => match Self::exchange(link, &mut self.watch, guest) {
                Ok(()) => Ok(()),
                Err(why) => self.lost(&why, now),
            },
            State::Lost => Ok(()),
        }
    }
}
