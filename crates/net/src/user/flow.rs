//! Datagrams and echoes: a socket of the host's for each pair of addresses that the
//! guest uses, which takes what the other end sends back, until nobody sends anything
//! for a while.

use super::UserSocket;
use super::icmp::{self, Echo, Unreachable};
use super::packet::Ip;
use super::schedule::Token;
use super::shared::{DNS_PORT, Shared};
use super::socket;
use smoltcp::wire::UdpPacket;
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Flows at most; a new one takes the place of the idlest.
const FLOWS: usize = 4096;
const IDLE: Duration = Duration::from_secs(240);
/// A question is answered, or is asked again.
const IDLE_DNS: Duration = Duration::from_secs(15);
/// Datagrams read before others have their turn.
const AT_ONCE: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Udp,
    /// The guest's port is its identifier.
    Echo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    kind: Kind,
    guest: SocketAddr,
    /// As the guest sees it.
    remote: SocketAddr,
}

enum Socket {
    Own(UdpSocket),
    /// That of a forward, and who uses it.
    Forward(Arc<UdpSocket>, SocketAddr),
}

struct Flow {
    key: Key,
    socket: Socket,
    used: Instant,
    idle: Duration,
}

impl Flow {
    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.socket {
            Socket::Own(socket) => socket.send(bytes),
            Socket::Forward(socket, peer) => socket.send_to(bytes, peer),
        }
    }
}

#[derive(Default)]
pub(super) struct Flows {
    flows: HashMap<u64, Flow>,
    ids: HashMap<Key, u64>,
    last: u64,
}

impl Flows {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// As QEMU shows them.
    pub(super) fn rows(&self, now: Instant, rows: &mut Vec<UserSocket>) {
        rows.extend(self.flows.values().map(|flow| {
            let end = flow.used + flow.idle;
            let left = end.saturating_duration_since(now).as_secs();
            UserSocket {
                protocol: match flow.key.kind {
                    Kind::Udp => "UDP",
                    Kind::Echo => "ICMP",
                },
                state: format!("{left} sec"),
                fd: match &flow.socket {
                    Socket::Own(socket) => socket.as_raw_fd(),
                    Socket::Forward(socket, _) => socket.as_raw_fd(),
                },
                from: flow.key.guest,
                to: flow.key.remote,
                from_guest: 0,
                to_guest: 0,
            }
        }));
    }

    /// A datagram from the guest.
    pub(super) fn datagram(&mut self, shared: &mut Shared, ip: &Ip) {
        let Ok(udp) = UdpPacket::new_checked(ip.payload()) else {
            return;
        };
        let key = Key {
            kind: Kind::Udp,
            guest: SocketAddr::new(ip.src, udp.src_port()),
            remote: SocketAddr::new(ip.dst, udp.dst_port()),
        };
        if key.guest.port() == 0 {
            return;
        }
        let found = match self.ids.get(&key) {
            Some(id) => Ok(*id),
            None => self.open(shared, key),
        };
        match found {
            Ok(id) => self.send(shared, id, udp.payload()),
            Err(what) => report(shared, ip, what),
        }
    }

    /// A request for somebody else's echo.
    pub(super) fn echo(&mut self, shared: &mut Shared, ip: &Ip, echo: &Echo) {
        let key = Key {
            kind: Kind::Echo,
            guest: echo.guest,
            remote: SocketAddr::new(echo.remote, 0),
        };
        let found = match self.ids.get(&key) {
            Some(id) => Ok(*id),
            None if shared.is_outside(echo.remote) => {
                self.add(shared, key, IDLE_DNS, || socket::echo(key.remote))
            }
            None => Err(Some(Unreachable::Host)),
        };
        match found {
            Ok(id) => self.send(shared, id, echo.message),
            Err(what) => report(shared, ip, what),
        }
    }

    fn open(&mut self, shared: &mut Shared, key: Key) -> Result<u64, Option<Unreachable>> {
        let Some(target) = shared.target(key.remote) else {
            let known = shared.config.contains(key.remote.ip()) && !shared.config.restrict;
            return Err(known.then_some(Unreachable::Port));
        };
        let idle = match key.remote.port() {
            DNS_PORT => IDLE_DNS,
            _ => IDLE,
        };
        self.add(shared, key, idle, || socket::udp(target))
    }

    /// Opens a socket and gives it to a new flow, or says what to say to the guest.
    fn add(
        &mut self,
        shared: &mut Shared,
        key: Key,
        idle: Duration,
        open: impl Fn() -> io::Result<UdpSocket>,
    ) -> Result<u64, Option<Unreachable>> {
        let mut socket = open();
        if socket.as_ref().is_err_and(is_out_of_files) {
            self.remove_idlest(shared);
            socket = open();
        }
        let socket = socket.map_err(|e| Some(unreachable_for(&e)))?;
        let id = self.number(shared, idle);
        shared
            .poller
            .add(&socket, Token::Flow(id))
            .map_err(|_| None)?;
        let flow = Flow {
            key,
            socket: Socket::Own(socket),
            used: shared.now(),
            idle,
        };
        self.flows.insert(id, flow);
        self.ids.insert(key, id);
        Ok(id)
    }

    /// A number for a new flow, and room for it.
    fn number(&mut self, shared: &mut Shared, idle: Duration) -> u64 {
        if self.flows.len() >= FLOWS {
            self.remove_idlest(shared);
        }
        self.last += 1;
        let id = self.last;
        let end = shared.now() + idle;
        shared.schedule.set_timer(Token::Flow(id), Some(end));
        id
    }

    fn remove_idlest(&mut self, shared: &mut Shared) {
        let idlest = self.flows.iter().min_by_key(|(_, flow)| flow.used);
        if let Some(id) = idlest.map(|(id, _)| *id) {
            self.remove(shared, id);
        }
    }

    fn remove(&mut self, shared: &mut Shared, id: u64) {
        shared.schedule.set_timer(Token::Flow(id), None);
        if let Some(flow) = self.flows.remove(&id) {
            self.ids.remove(&flow.key);
        }
    }

    fn send(&mut self, shared: &mut Shared, id: u64, bytes: &[u8]) {
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        flow.used = shared.now();
        let mut result = flow.send(bytes);
        if matches!(&result, Err(e) if e.kind() == io::ErrorKind::ConnectionRefused) {
            // Bad news about the one before, which says nothing about this one.
            refused(shared, flow.key);
            result = flow.send(bytes);
        }
        if let Err(e) = result {
            log::debug!("datagram to {}: {e}", flow.key.remote);
        }
    }

    /// Something came for a flow, or its time may be over.
    pub(super) fn service(&mut self, shared: &mut Shared, id: u64) {
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        let token = Token::Flow(id);
        if let Socket::Own(socket) = &flow.socket {
            let mut left = AT_ONCE;
            while shared.link.has_room() {
                match socket.recv(&mut shared.scratch) {
                    Ok(len) => receive(shared, flow.key, len),
                    Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                        refused(shared, flow.key);
                    }
                    Err(_) => break,
                }
                flow.used = shared.now();
                left -= 1;
                if left == 0 {
                    break;
                }
            }
            if left == 0 || !shared.link.has_room() {
                shared.schedule.add(token);
            }
        }
        let end = flow.used + flow.idle;
        if end <= shared.now() {
            self.remove(shared, id);
        } else {
            shared.schedule.set_timer(token, Some(end));
        }
    }

    /// A datagram from the host, which begins the scratch buffer, goes to the guest.
    pub(super) fn forward(
        &mut self,
        shared: &mut Shared,
        socket: &Arc<UdpSocket>,
        peer: SocketAddr,
        guest: SocketAddr,
        len: usize,
    ) {
        let key = Key {
            kind: Kind::Udp,
            guest,
            remote: shared.seen(peer, guest),
        };
        let id = match self.ids.get(&key) {
            Some(id) => *id,
            None => self.number(shared, IDLE),
        };
        let flow = Flow {
            key,
            socket: Socket::Forward(socket.clone(), peer),
            used: shared.now(),
            idle: IDLE,
        };
        self.flows.insert(id, flow);
        self.ids.insert(key, id);
        if shared.link.mac_of(guest.ip()).is_none() {
            // The datagram is lost, but not its successors.
            shared.ask_for(guest.ip());
        }
        receive(shared, key, len);
    }
}

/// What the scratch buffer begins with goes to the guest.
fn receive(shared: &mut Shared, key: Key, len: usize) {
    let Some(bytes) = shared.scratch.get(..len) else {
        return;
    };
    match key.kind {
        Kind::Udp => shared.link.udp(key.remote, key.guest, bytes),
        Kind::Echo => {
            let (from, to) = (key.remote.ip(), key.guest.ip());
            let [kind, _, _, _, _, _, rest @ ..] = bytes else {
                return;
            };
            if *kind == icmp::echo_reply(from) {
                let mut body = key.guest.port().to_be_bytes().to_vec();
                body.extend_from_slice(rest);
                icmp::reply(shared, from, to, &body);
            }
        }
    }
}

fn refused(shared: &mut Shared, key: Key) {
    if key.kind == Kind::Udp {
        icmp::port_unreachable(shared, key.guest, key.remote);
    }
}

fn report(shared: &mut Shared, ip: &Ip, what: Option<Unreachable>) {
    if let Some(what) = what {
        icmp::unreachable(shared, ip, what);
    }
}

/// The process, or the host, has as many sockets and files as it may have.
fn is_out_of_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE))
}

/// What the guest is told about an error of the host's.
pub(super) fn unreachable_for(error: &io::Error) -> Unreachable {
    match error.kind() {
        io::ErrorKind::NetworkUnreachable => Unreachable::Net,
        io::ErrorKind::HostUnreachable => Unreachable::Host,
        _ => Unreachable::Prohibited,
    }
}
