//! Sockets of the host's that never block.

use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, ipproto};
use std::io;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;

fn open(to: SocketAddr, kind: SocketType, protocol: Option<Protocol>) -> io::Result<OwnedFd> {
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(family, kind, flags, protocol)?)
}

fn connected(to: SocketAddr, kind: SocketType, protocol: Option<Protocol>) -> io::Result<OwnedFd> {
    let socket = open(to, kind, protocol)?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(e) => Err(e.into()),
    }
}

/// A connection that is being made.
pub(super) fn tcp(to: SocketAddr) -> io::Result<TcpStream> {
    connected(to, SocketType::STREAM, None).map(TcpStream::from)
}

/// A socket that exchanges datagrams with `to` only.
pub(super) fn udp(to: SocketAddr) -> io::Result<UdpSocket> {
    connected(to, SocketType::DGRAM, None).map(UdpSocket::from)
}

/// A socket that exchanges echoes with `to` only, if the host lets us have one: the
/// kernel chooses identifiers.
pub(super) fn echo(to: SocketAddr) -> io::Result<UdpSocket> {
    let protocol = match to {
        SocketAddr::V4(_) => ipproto::ICMP,
        SocketAddr::V6(_) => ipproto::ICMPV6,
    };
    connected(to, SocketType::DGRAM, Some(protocol)).map(UdpSocket::from)
}

/// How making a connection went, once it has gone somewhere: None while it has not.
pub(super) fn outcome(stream: &TcpStream) -> Option<io::Result<()>> {
    match stream.take_error() {
        Ok(None) => {}
        Ok(Some(e)) | Err(e) => return Some(Err(e)),
    }
    match stream.peer_addr() {
        Ok(_) => Some(Ok(())),
        Err(e) if e.kind() == io::ErrorKind::NotConnected => None,
        Err(e) => Some(Err(e)),
    }
}

/// Closing `stream` tells its other end that something went wrong.
pub(super) fn reset_when_closed(stream: &TcpStream) {
    let linger = Some(std::time::Duration::ZERO);
    // A connection that is gone already needs none.
    let _ = rustix::net::sockopt::set_socket_linger(stream, linger);
}
