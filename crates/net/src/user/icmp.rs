//! Echoes, and bad news.

use super::packet::Ip;
use super::shared::Shared;
use super::tcp::is_reset;
use smoltcp::wire::IpProtocol;
use std::net::{IpAddr, SocketAddr};

/// How much of a packet comes back with bad news about it (RFC 1812, 4.3.2.3).
const QUOTE: usize = 548;

/// A request for an echo.
pub(super) struct Echo<'a> {
    /// Who asks, his identifier being the port.
    pub(super) guest: SocketAddr,
    /// Who is to answer.
    pub(super) remote: IpAddr,
    /// The whole message.
    pub(super) message: &'a [u8],
}

/// Numbers of messages that IPv4 and IPv6 have both.
pub(super) fn echo_request(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 8 } else { 128 }
}

pub(super) fn echo_reply(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 0 } else { 129 }
}

/// What cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreachable {
    Net,
    Host,
    Port,
    Prohibited,
}

impl Unreachable {
    /// Type and code: RFC 792 and RFC 1812, 5.2.7.1; RFC 4443, 3.1.
    fn numbers(self, ip: IpAddr) -> (u8, u8) {
        match (self, ip) {
            (Self::Net, IpAddr::V4(_)) => (3, 0),
            (Self::Host, IpAddr::V4(_)) => (3, 1),
            (Self::Port, IpAddr::V4(_)) => (3, 3),
            (Self::Prohibited, IpAddr::V4(_)) => (3, 13),
            (Self::Net, IpAddr::V6(_)) => (1, 0),
            (Self::Prohibited, IpAddr::V6(_)) => (1, 1),
            (Self::Host, IpAddr::V6(_)) => (1, 3),
            (Self::Port, IpAddr::V6(_)) => (1, 4),
        }
    }
}

/// The request that the guest's message is, if it is one to somebody outside. An
/// echo of the host's or the name server's is answered here.
pub(super) fn message<'a>(shared: &mut Shared, ip: &Ip<'a>) -> Option<Echo<'a>> {
    let (header, _) = ip.payload().split_first_chunk::<8>()?;
    let request = header[0] == echo_request(ip.dst) && header[1] == 0;
    if !request || shared.config.restrict {
        return None;
    }
    let config = &shared.config;
    if config.is_host(ip.dst) || config.is_dns(ip.dst) {
        reply(shared, ip.dst, ip.src, &ip.payload()[4..]);
        return None;
    }
    let identifier = u16::from_be_bytes([header[4], header[5]]);
    Some(Echo {
        guest: SocketAddr::new(ip.src, identifier),
        remote: ip.dst,
        message: ip.payload(),
    })
}

/// The echo of what follows a request's checksum.
pub(super) fn reply(shared: &mut Shared, from: IpAddr, to: IpAddr, rest: &[u8]) {
    shared.link.icmp(from, to, echo_reply(from), 0, rest);
}

/// Says about `packet`, which the guest has sent, that it did not get where it was
/// to go. Nothing is said about bad news, nor to anybody but one.
pub(super) fn unreachable(shared: &mut Shared, packet: &Ip, what: Unreachable) {
    let answerable = match packet.protocol {
        IpProtocol::Tcp => !is_reset(packet.payload()),
        IpProtocol::Udp => true,
        _ => packet.payload().first() == Some(&echo_request(packet.src)),
    };
    if answerable && shared.config.contains(packet.src) {
        let quote = &packet.bytes[..packet.bytes.len().min(QUOTE)];
        bad_news(shared, packet.src, what, quote);
    }
}

/// Says that nobody is at `remote`, to which `guest` has sent a datagram.
pub(super) fn port_unreachable(shared: &mut Shared, guest: SocketAddr, remote: SocketAddr) {
    use smoltcp::wire::{IpRepr, UDP_HEADER_LEN};
    let protocol = IpProtocol::Udp;
    let ip = IpRepr::new(
        guest.ip().into(),
        remote.ip().into(),
        protocol,
        UDP_HEADER_LEN,
        64,
    );
    let mut quote = vec![0; ip.buffer_len()];
    ip.emit(&mut quote[..], &Default::default());
    let udp = &mut quote[ip.header_len()..];
    udp[..2].copy_from_slice(&guest.port().to_be_bytes());
    udp[2..4].copy_from_slice(&remote.port().to_be_bytes());
    udp[4..6].copy_from_slice(&(UDP_HEADER_LEN as u16).to_be_bytes());
    bad_news(shared, guest.ip(), Unreachable::Port, &quote);
}

fn bad_news(shared: &mut Shared, to: IpAddr, what: Unreachable, quote: &[u8]) {
    let from = shared.config.host_for(to);
    let (kind, code) = what.numbers(to);
    let mut rest = vec![0; 4];
    rest.extend_from_slice(quote);
    shared.link.icmp(from, to, kind, code, &rest);
}
