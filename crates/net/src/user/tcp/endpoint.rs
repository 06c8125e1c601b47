//! The guest's end of a connection: an instance of smoltcp that has the other end's
//! address, and this one connection. So a segment costs the same however many
//! connections there are.

use super::segment::{finish, most, takes_long};
use crate::user::link::{Link, kind_of};
use crate::user::packet::{MTU, Mac};
use crate::user::shared::Shared;
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{self, Checksum, ChecksumCapabilities, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Bytes on their way in each direction. It is a multiple of what a window that has
/// not been scaled can say, so that smoltcp, which scales even a first segment's,
/// takes no more than it has room for.
const BUFFER: usize = 65_535 << 2;
/// How long the guest may take to answer a first segment.
const HANDSHAKE: Duration = Duration::from_secs(75);
/// Retransmissions and probes of a closed window are never further apart.
const SLOWEST: Duration = Duration::from_secs(120);
/// How often to ask a guest for a window that nobody probes.
const ASK: Duration = Duration::from_secs(1);
/// The longest packet there is.
const LONG_MTU: usize = 65_535;

/// smoltcp has failed at an assertion of its own. The connection is lost, not the VM.
pub(super) struct Broken;

pub(super) struct Endpoint {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    /// The guest's own, in segments of a long one.
    pub(super) mss: u16,
    /// Makes long segments.
    pub(super) long: bool,
    remote: IpAddr,
}

impl Endpoint {
    /// The end that the guest takes for `remote`.
    fn new(shared: &mut Shared, remote: IpAddr, mss: u16) -> Self {
        let long = takes_long(shared.link.accepts, remote);
        let now = shared.ticks();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = RandomState::new().hash_one(remote);
        let mut wire = Wire {
            link: &mut shared.link,
            packet: None,
            mac: [0; 6],
            remote,
            mss,
            long,
        };
        let mut interface = Interface::new(config, &mut wire, now);
        interface.update_ip_addrs(|all| {
            let bits = if remote.is_ipv4() { 32 } else { 128 };
            // There is room for more than one.
            let _ = all.push(IpCidr::new(IpAddress::from(remote), bits));
        });
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        // Segments are made when there is something to send, and answers are sent once
        // for all that came together.
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        socket.set_timeout(Some(HANDSHAKE));
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Self {
            interface,
            sockets,
            handle,
            mss,
            long,
            remote,
        }
    }

    /// Waits for the guest's first segment.
    pub(super) fn listen(shared: &mut Shared, remote: SocketAddr, mss: u16) -> Option<Self> {
        let mut endpoint = Self::new(shared, remote.ip(), mss);
        endpoint.socket().listen(remote).ok()?;
        Some(endpoint)
    }

    /// Sends the guest a first segment.
    pub(super) fn connect(
        shared: &mut Shared,
        remote: SocketAddr,
        guest: SocketAddr,
    ) -> Option<Self> {
        let mut endpoint = Self::new(shared, remote.ip(), most(remote.ip()));
        let socket = endpoint
            .sockets
            .get_mut::<tcp::Socket<'static>>(endpoint.handle);
        let context = endpoint.interface.context();
        socket.connect(context, guest, remote).ok()?;
        Some(endpoint)
    }

    pub(super) fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// The guest has taken part: from now on silence is no failure.
    pub(super) fn established(&mut self) {
        self.socket().set_timeout(None);
    }

    /// Takes a packet of the guest's.
    pub(super) fn ingress(
        &mut self,
        shared: &mut Shared,
        packet: &[u8],
        mac: Mac,
    ) -> Result<(), Broken> {
        let now = shared.ticks();
        self.guarded(
            &mut shared.link,
            Some(packet),
            mac,
            |interface, wire, sockets| {
                interface.poll_ingress_single(now, wire, sockets);
            },
        )
    }

    /// Sends what there is to send, while there is room.
    pub(super) fn egress(&mut self, shared: &mut Shared, mac: Mac) -> Result<(), Broken> {
        let now = shared.ticks();
        self.guarded(&mut shared.link, None, mac, |interface, wire, sockets| {
            while wire.link.has_room()
                && interface.poll_egress(now, wire, sockets) == PollResult::SocketStateChanged
            {
            }
        })
    }

    fn guarded(
        &mut self,
        link: &mut Link,
        packet: Option<&[u8]>,
        mac: Mac,
        work: impl FnOnce(&mut Interface, &mut Wire, &mut SocketSet<'static>),
    ) -> Result<(), Broken> {
        let mut wire = Wire {
            link,
            packet,
            mac,
            remote: self.remote,
            mss: self.mss,
            long: self.long,
        };
        // Nobody looks at the instance again if this fails, and a frame is queued only
        // when it is complete.
        let work = AssertUnwindSafe(|| work(&mut self.interface, &mut wire, &mut self.sockets));
        catch_unwind(work).map_err(|_| Broken)
    }

    /// When there is something to do without anybody's doing.
    pub(super) fn deadline(&mut self, now: Instant) -> Option<Instant> {
        let deadline = self.interface.poll_at(now, &self.sockets);
        let lazy = deadline.is_none_or(|when| when > now + SLOWEST);
        let socket = self.sockets.get_mut::<tcp::Socket<'static>>(self.handle);
        let waits = socket.send_queue() > 0;
        if !(lazy && waits) {
            if socket.keep_alive().is_some() && !waits {
                socket.set_keep_alive(None);
            }
            return deadline;
        }
        // A window that closes while something is being retransmitted is not probed
        // when it still is closed at the retransmission's time. If the guest's word
        // that it is open again gets lost, a question whether it is there brings it.
        socket.set_keep_alive(Some(ASK));
        Some(now + ASK)
    }
}

/// The cable, as smoltcp sees it for a moment.
struct Wire<'a> {
    link: &'a mut Link,
    packet: Option<&'a [u8]>,
    mac: Mac,
    remote: IpAddr,
    mss: u16,
    long: bool,
}

struct Incoming<'a>(&'a [u8]);

struct Outgoing<'a> {
    link: &'a mut Link,
    mac: Mac,
    remote: IpAddr,
    mss: u16,
}

impl Wire<'_> {
    fn outgoing(&mut self) -> Outgoing<'_> {
        Outgoing {
            link: self.link,
            mac: self.mac,
            remote: self.remote,
            mss: self.mss,
        }
    }
}

impl phy::Device for Wire<'_> {
    type RxToken<'b>
        = Incoming<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Outgoing<'b>
    where
        Self: 'b;

    fn receive(&mut self, _: Instant) -> Option<(Incoming<'_>, Outgoing<'_>)> {
        let packet = self.packet.take()?;
        Some((Incoming(packet), self.outgoing()))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outgoing<'_>> {
        self.link.has_room().then(|| self.outgoing())
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = if self.long { LONG_MTU } else { MTU };
        // Sums have been looked at before, and are added afterwards.
        let mut checksum = ChecksumCapabilities::ignored();
        checksum.ipv4 = Checksum::Tx;
        capabilities.checksum = checksum;
        capabilities
    }
}

impl phy::RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl phy::TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let kind = kind_of(self.remote);
        let accepts = self.link.accepts;
        self.link.frame(self.mac, kind, len, |packet| {
            let result = f(packet);
            (finish(packet, kind, accepts, self.mss), result)
        })
    }
}
