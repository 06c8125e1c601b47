//! A frame in each datagram: what QEMU's `-netdev dgram`, and `-netdev socket` with
//! `udp=` or `mcast=`, speak.

mod ends;

use crate::frame::{Accepts, Frame};
use crate::watch::{NOTHING, Watch};
use crate::{Guest, Network};
use ends::Ends;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recvfrom, send, sendto};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Longest frame: no more than any adapter sends.
const LONGEST: usize = 65_535 + 64;
/// Frames for the guest in one go, so that what it sends gets its turn.
const BURST: usize = 256;
/// When to try again if there is no room: a Unix socket does not say when its peer's
/// queue has some.
const PAUSE: Duration = Duration::from_millis(1);
/// Frames are lost when there was no room for so long: the peer may have stopped.
const PATIENCE: Duration = Duration::from_millis(100);

/// Between whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DgramConfig {
    /// UDP between two addresses.
    Udp {
        /// Ours.
        local: SocketAddr,
        /// The other side's.
        remote: SocketAddr,
    },
    /// All who are in a group.
    Multicast {
        /// Its address.
        group: SocketAddrV4,
        /// Address of the interface; unspecified: what the host's routes say.
        interface: Ipv4Addr,
    },
    /// Two Unix sockets.
    Unix {
        /// Ours.
        local: PathBuf,
        /// The other side's.
        remote: PathBuf,
    },
    /// A socket that somebody else opened.
    Opened {
        /// The number of its descriptor.
        fd: i32,
        /// The group that it is for; otherwise it is connected.
        group: Option<SocketAddrV4>,
    },
}

impl fmt::Display for DgramConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp { local, remote } => write!(f, "udp {local} to {remote}"),
            Self::Multicast { group, .. } => write!(f, "group {group}"),
            Self::Unix { local, remote } => {
                write!(f, "{} to {}", local.display(), remote.display())
            }
            Self::Opened { fd, .. } => write!(f, "fd={fd}"),
        }
    }
}

/// The network behind a socket for datagrams.
#[derive(Debug)]
pub struct Dgram {
    ends: Ends,
    watch: Watch,
    frame: Frame,
    /// There may be more frames to receive without waiting.
    more: bool,
    /// Since when there has been no room for a frame.
    full_since: Option<Instant>,
    /// Somebody waits for room.
    waits: bool,
}

impl Dgram {
    /// Opens the socket.
    ///
    /// # Errors
    /// One line: what is wrong.
    pub fn open(config: &DgramConfig) -> Result<Self, String> {
        let failed = |e: io::Error| format!("{config}: {e}");
        let ends = Ends::open(config)?;
        let mut watch = Watch::new().map_err(failed)?;
        watch.begin(&ends.comes).map_err(failed)?;
        Ok(Self {
            ends,
            watch,
            frame: Frame::default(),
            more: false,
            full_since: None,
            waits: false,
        })
    }

    /// Reads a datagram; `None`: none is there, false: it is no frame for the guest.
    fn read(&mut self) -> Option<bool> {
        let bytes = &mut self.frame.bytes;
        bytes.resize(LONGEST, 0);
        // The length is the datagram's, even if that did not fit.
        match recvfrom(&self.ends.comes, &mut **bytes, RecvFlags::TRUNC) {
            Ok((_, length, from)) => {
                let own = from.is_some() && from == self.ends.own;
                bytes.truncate(length);
                Some(!own && (1..=LONGEST).contains(&length))
            }
            Err(Errno::AGAIN) => None,
            // The host says that what was sent did not arrive: nobody is there now.
            Err(Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::INTR) => {
                Some(false)
            }
            Err(error) => {
                log::debug!("a datagram: {error}");
                None
            }
        }
    }
}

impl Network for Dgram {
    fn fd(&self) -> BorrowedFd<'_> {
        self.watch.fd()
    }

    fn deadline(&self) -> Option<Instant> {
        if self.more {
            return Some(Instant::now());
        }
        self.waits.then(|| Instant::now() + PAUSE)
    }

    fn accepts(&mut self, _: Accepts) {}

    fn send(&mut self, frame: &Frame) -> bool {
        let (socket, bytes) = (self.ends.goes(), &*frame.bytes);
        let sent = match &self.ends.to {
            Some(to) => sendto(socket, bytes, SendFlags::NOSIGNAL, to),
            None => send(socket, bytes, SendFlags::NOSIGNAL),
        };
        if sent != Err(Errno::AGAIN) && sent != Err(Errno::NOBUFS) {
            // Whatever else is wrong, the frame is lost, as on any wire.
            self.full_since = None;
            return true;
        }
        let since = *self.full_since.get_or_insert_with(Instant::now);
        self.waits = since.elapsed() <= PATIENCE;
        !self.waits
    }

    fn run(&mut self, _: Instant, guest: &mut dyn Guest) -> io::Result<()> {
        (self.more, self.waits) = (true, false);
        let mut flags = EventFlags::IN;
        for _ in 0..BURST {
            if !guest.has_room() {
                (flags, self.more) = (NOTHING, false);
                break;
            }
            match self.read() {
                Some(true) => guest.deliver(&self.frame),
                Some(false) => {}
                None => {
                    self.more = false;
                    break;
                }
            }
        }
        self.watch.set(&self.ends.comes, flags)
    }
}
