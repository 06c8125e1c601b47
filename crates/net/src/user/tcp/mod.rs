//! Connections of the guest's, each of which is one of the host's.

mod connection;
mod endpoint;
mod segment;

pub(super) use segment::is_reset;

use super::UserSocket;
use super::flow::unreachable_for;
use super::icmp::{self, Unreachable};
use super::packet::Ip;
use super::poller::Ready;
use super::schedule::Token;
use super::shared::Shared;
use super::socket;
use connection::{Connection, Fate, Key};
use segment::{First, reset, takes_long};
use smoltcp::wire::TcpPacket;
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};

/// Connections at most; more are refused.
const CONNECTIONS: usize = 8192;
/// Where ports begin that the host uses for connections to the guest.
const FIRST_PORT: u16 = 49_152;

#[derive(Default)]
pub(super) struct Connections {
    open: HashMap<u64, Connection>,
    ids: HashMap<Key, u64>,
    last: u64,
    ports: u16,
}

impl Connections {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// As QEMU shows them.
    pub(super) fn rows(&mut self, rows: &mut Vec<UserSocket>) {
        rows.extend(self.open.values_mut().map(Connection::row));
    }

    /// A segment from the guest.
    pub(super) fn segment(&mut self, shared: &mut Shared, ip: &Ip) {
        let Ok(tcp) = TcpPacket::new_checked(ip.payload()) else {
            return;
        };
        let key = Key {
            guest: SocketAddr::new(ip.src, tcp.src_port()),
            remote: SocketAddr::new(ip.dst, tcp.dst_port()),
        };
        if key.guest.port() == 0 || key.remote.port() == 0 {
            return;
        }
        let first = tcp.syn().then(|| {
            let long = takes_long(shared.link.accepts, ip.src);
            First::new(ip, &tcp, long)
        });
        let wanted = tcp.syn() && !tcp.ack() && !tcp.rst();
        match (self.ids.get(&key).copied(), first) {
            (Some(id), Some(first)) if wanted && self.is_over(id) => {
                self.remove(shared, id);
                self.connect(shared, key, ip, first);
            }
            (Some(id), first) => self.ingress(shared, id, ip, first, tcp.rst()),
            (None, Some(first)) if wanted => self.connect(shared, key, ip, first),
            (None, _) => reset(shared, ip),
        }
    }

    fn is_over(&mut self, id: u64) -> bool {
        self.open.get_mut(&id).is_some_and(Connection::is_over)
    }

    fn ingress(
        &mut self,
        shared: &mut Shared,
        id: u64,
        ip: &Ip,
        first: Option<First>,
        reset: bool,
    ) {
        if let Some(connection) = self.open.get_mut(&id) {
            let fate = connection.ingress(shared, ip, first, reset);
            self.settle(shared, id, fate);
            shared.schedule.add(Token::Tcp(id));
        }
    }

    /// The guest wants a connection.
    fn connect(&mut self, shared: &mut Shared, key: Key, ip: &Ip, first: First) {
        let forward = shared.config.guest_forwards.iter();
        let mut forward = forward.filter(|f| f.server == key.remote).map(|f| f.target);
        let Some(target) = forward.next().or_else(|| shared.target(key.remote)) else {
            return reset(shared, ip);
        };
        if !self.has_room(shared) {
            return reset(shared, ip);
        }
        match socket::tcp(target) {
            Ok(stream) => {
                let token = Token::Tcp(self.last + 1);
                if shared.poller.add(&stream, token).is_err() {
                    return reset(shared, ip);
                }
                self.insert(Connection::from_guest(key, stream, first));
            }
            Err(e) => refuse(shared, ip, &e),
        }
    }

    /// The host has accepted a connection that is to be one to `guest`.
    pub(super) fn accept(&mut self, shared: &mut Shared, stream: TcpStream, guest: SocketAddr) {
        let Some(key) = self.key_for(shared, guest) else {
            return socket::reset_when_closed(&stream);
        };
        let ready = stream.set_nonblocking(true).and_then(|()| {
            stream.set_nodelay(true)?;
            shared.poller.add(&stream, Token::Tcp(self.last + 1))
        });
        if ready.is_err() || !self.has_room(shared) {
            return socket::reset_when_closed(&stream);
        }
        if let Some(connection) = Connection::from_host(shared, key, stream) {
            let id = self.insert(connection);
            shared.schedule.add(Token::Tcp(id));
        }
    }

    /// An address of the host's from which there is no connection to `guest` yet.
    fn key_for(&mut self, shared: &Shared, guest: SocketAddr) -> Option<Key> {
        let host = shared.config.host_for(guest.ip());
        let count = u16::MAX - FIRST_PORT;
        (0..count).find_map(|_| {
            self.ports = (self.ports + 1) % count;
            let remote = SocketAddr::new(host, FIRST_PORT + self.ports);
            let key = Key { guest, remote };
            (!self.ids.contains_key(&key)).then_some(key)
        })
    }

    /// Whether there may be one more, if need be without those that are over.
    fn has_room(&mut self, shared: &mut Shared) -> bool {
        if self.open.len() < CONNECTIONS {
            return true;
        }
        let over = self
            .open
            .iter_mut()
            .filter_map(|(id, c)| c.is_over().then_some(*id));
        let over: Vec<u64> = over.collect();
        for id in &over {
            self.remove(shared, *id);
        }
        !over.is_empty()
    }

    fn insert(&mut self, connection: Connection) -> u64 {
        self.last += 1;
        self.ids.insert(connection.key, self.last);
        self.open.insert(self.last, connection);
        self.last
    }

    fn remove(&mut self, shared: &mut Shared, id: u64) {
        shared.schedule.set_timer(Token::Tcp(id), None);
        if let Some(connection) = self.open.remove(&id) {
            self.ids.remove(&connection.key);
        }
    }

    /// The host's end is ready for something.
    pub(super) fn ready(&mut self, shared: &mut Shared, id: u64, ready: Ready) {
        if let Some(connection) = self.open.get_mut(&id) {
            connection.ready(ready);
            shared.schedule.add(Token::Tcp(id));
        }
    }

    pub(super) fn service(&mut self, shared: &mut Shared, id: u64) {
        if let Some(connection) = self.open.get_mut(&id) {
            let fate = connection.service(shared);
            self.settle(shared, id, fate);
        }
    }

    fn settle(&mut self, shared: &mut Shared, id: u64, fate: Fate) {
        match fate {
            Fate::Stays => shared.schedule.set_timer(Token::Tcp(id), None),
            Fate::Again => shared.schedule.add(Token::Tcp(id)),
            Fate::StaysUntil(when) => shared.schedule.set_timer(Token::Tcp(id), Some(when)),
            Fate::Ends => self.remove(shared, id),
            Fate::Refused(packet, e) => {
                self.remove(shared, id);
                if let Some(ip) = Ip::parse(&packet) {
                    refuse(shared, &ip, &e);
                }
            }
        }
    }

    /// Somebody's address is news: those who have asked for it go on.
    pub(super) fn wake(&mut self, shared: &mut Shared) {
        for (id, _) in self.open.iter().filter(|(_, c)| c.is_asking()) {
            shared.schedule.add(Token::Tcp(*id));
        }
    }

    /// The guest takes no long segments any more: connections that make them end.
    pub(super) fn end_long(&mut self, shared: &mut Shared) {
        let long = self.open.iter().filter(|(_, c)| c.is_long());
        let ids: Vec<u64> = long.map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(connection) = self.open.get_mut(&id) {
                connection.abort(shared);
            }
            self.remove(shared, id);
        }
    }
}

/// Says that the host's end could not be connected.
fn refuse(shared: &mut Shared, ip: &Ip, error: &io::Error) {
    log::debug!("connection to {}: {error}", ip.dst);
    match error.kind() {
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => {
            let what: Unreachable = unreachable_for(error);
            icmp::unreachable(shared, ip, what);
        }
        _ => reset(shared, ip),
    }
}
