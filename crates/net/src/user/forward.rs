//! From the host to the guest.

use super::UserError;
use super::UserSocket;
use super::config::{HostForward, Transport, UserConfig};
use super::flow::Flows;
use super::schedule::Token;
use super::shared::Shared;
use super::tcp::Connections;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

/// Connections accepted, or datagrams read, before others have their turn.
const AT_ONCE: usize = 64;
/// How long to wait if the host has no file descriptors left.
const PAUSE: Duration = Duration::from_secs(1);

enum Listener {
    Tcp(TcpListener),
    Udp(Arc<UdpSocket>),
}

/// A socket of the host's, and who is behind it.
pub(super) struct Forward {
    listener: Listener,
    /// Where it was asked to listen.
    host: SocketAddr,
    guest: SocketAddr,
}

/// Listens at all addresses that are to be forwarded.
pub(super) fn listen(
    shared: &Shared,
    config: &UserConfig,
) -> Result<Vec<Option<Forward>>, UserError> {
    let forwards = config.host_forwards.iter().enumerate();
    forwards
        .map(|(n, forward)| listen_at(shared, config, forward, n).map(Some))
        .collect()
}

/// Listens at one of them, which has this place among them.
pub(super) fn listen_at(
    shared: &Shared,
    config: &UserConfig,
    forward: &HostForward,
    place: usize,
) -> Result<Forward, UserError> {
    let address = forward.host;
    let listener = open(shared, forward, Token::Forward(place as u64));
    let listener = listener.map_err(|source| UserError::Listen { address, source })?;
    Ok(Forward {
        listener,
        host: address,
        guest: config.guest_of(forward),
    })
}

fn open(shared: &Shared, forward: &HostForward, token: Token) -> io::Result<Listener> {
    match forward.transport {
        Transport::Tcp => {
            let socket = TcpListener::bind(forward.host)?;
            socket.set_nonblocking(true)?;
            shared.poller.add(&socket, token)?;
            Ok(Listener::Tcp(socket))
        }
        Transport::Udp => {
            let socket = UdpSocket::bind(forward.host)?;
            socket.set_nonblocking(true)?;
            shared.poller.add(&socket, token)?;
            Ok(Listener::Udp(Arc::new(socket)))
        }
    }
}

impl Forward {
    /// Was asked to listen there.
    pub(super) fn is(&self, transport: Transport, host: SocketAddr) -> bool {
        let ours = match &self.listener {
            Listener::Tcp(_) => Transport::Tcp,
            Listener::Udp(_) => Transport::Udp,
        };
        ours == transport && self.host == host
    }

    /// As QEMU shows it.
    pub(super) fn row(&self) -> Option<UserSocket> {
        let (protocol, fd) = match &self.listener {
            Listener::Tcp(socket) => ("TCP", socket.as_raw_fd()),
            Listener::Udp(socket) => ("UDP", socket.as_raw_fd()),
        };
        Some(UserSocket {
            protocol,
            state: "HOST_FORWARD".into(),
            fd,
            from: self.address().ok()?,
            to: self.guest,
            from_guest: 0,
            to_guest: 0,
        })
    }

    /// Where the host listens.
    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        match &self.listener {
            Listener::Tcp(socket) => socket.local_addr(),
            Listener::Udp(socket) => socket.local_addr(),
        }
    }

    pub(super) fn service(
        &self,
        shared: &mut Shared,
        connections: &mut Connections,
        flows: &mut Flows,
        token: Token,
    ) {
        for _ in 0..AT_ONCE {
            let result = match &self.listener {
                Listener::Tcp(socket) => socket
                    .accept()
                    .map(|(stream, _)| connections.accept(shared, stream, self.guest)),
                Listener::Udp(socket) if shared.link.has_room() => socket
                    .recv_from(&mut shared.scratch)
                    .map(|(len, peer)| flows.forward(shared, socket, peer, self.guest, len)),
                Listener::Udp(_) => break,
            };
            match result {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) => {
                    // Of one connection or one datagram, or of the whole process.
                    log::debug!("forward to {}: {e}", self.guest);
                    let later = shared.now() + PAUSE;
                    return shared.schedule.set_timer(token, Some(later));
                }
            }
        }
        shared.schedule.add(token);
    }
}
