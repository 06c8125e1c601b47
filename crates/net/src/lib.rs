//! The host's side of networks: where a guest's frames go and come from. Knows
//! nothing of devices; whoever has one end of a [`Network`] is "the guest" here.

mod dgram;
mod dump;
mod frame;
pub mod header;
mod hub;
mod inherited;
mod nowhere;
mod socket;
mod stream;
mod tap;
mod user;
mod vhost_user;
mod watch;

pub use dgram::{Dgram, DgramConfig};
pub use dump::{DumpConfig, Dumps, Watched};
pub use frame::{Accepts, Frame, Offload, Partial, SegmentKind, Segments};
pub use hub::{Hub, HubPort};
pub use nowhere::Nowhere;
pub use socket::SocketConfig;
pub use stream::{Stream, StreamAddress, StreamConfig};
pub use tap::{MAX_QUEUES as MAX_TAP_QUEUES, Tap, TapConfig};
pub use user::{
    GuestForward, HostForward, Transport, UserConfig, UserControl, UserError, UserNet, UserSocket,
};

pub use vhost_user::{MAX_PAIRS as MAX_VHOST_USER_PAIRS, VhostUser, VhostUserConfig};

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

/// The guest's network adapter, as a network sees it.
pub trait Guest {
    /// There is room for a frame.
    fn has_room(&mut self) -> bool;
    /// Takes a frame, or drops it if there is no room.
    fn deliver(&mut self, frame: &Frame);
}

/// A network. One thread at a time uses it, which waits for [`Network::fd`] and
/// [`Network::deadline`] along with its own matters.
pub trait Network: Send {
    /// Readable when [`Network::run`] has something to do; not while all it lacks is
    /// the guest's room.
    fn fd(&self) -> BorrowedFd<'_>;
    /// When [`Network::run`] has something to do though nothing is readable.
    fn deadline(&self) -> Option<Instant> {
        None
    }
    /// The network's cable is plugged in, at the other end; looked at after
    /// [`Network::run`].
    fn has_carrier(&self) -> bool {
        true
    }
    /// What the guest may leave to do with its frames.
    fn takes(&self) -> Accepts {
        Accepts::default()
    }
    /// Does what others asked; [`Network::run`] does, too.
    fn attend(&mut self) {}
    /// What the guest's driver can do; said before the first frame and after each
    /// change.
    fn accepts(&mut self, accepts: Accepts);
    /// Nobody is behind it any more, until [`Network::accepts`] is called again.
    fn left(&mut self) {}
    /// One of several queues of a network, which each are a [`Network`]: frames come
    /// here, or the others have them all and nothing else is called. Each begins on.
    ///
    /// # Errors
    /// The host's; the network is dead then.
    fn enable(&mut self, _on: bool) -> io::Result<()> {
        Ok(())
    }
    /// A frame from the guest. False: not now, offer it again after
    /// [`Network::run`].
    fn send(&mut self, frame: &Frame) -> bool;
    /// Does what is to be done, and gives frames to the guest while it has room.
    ///
    /// # Errors
    /// The host's; the network is dead then.
    fn run(&mut self, now: Instant, guest: &mut dyn Guest) -> io::Result<()>;
}
