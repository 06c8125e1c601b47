//! A connection: a socket of the host's, and the guest's end.

use super::endpoint::{Broken, Endpoint};
use super::segment::First;
use crate::user::UserSocket;
use crate::user::packet::{Ip, Mac};
use crate::user::poller::Ready;
use crate::user::shared::Shared;
use crate::user::socket;
use smoltcp::socket::tcp::State;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// How long to wait for an answer about where the guest is.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Whatever can be done at once has been done.
const SOONEST: Duration = Duration::from_millis(1);
/// How often to ask.
const QUESTIONS: u32 = 60;

/// Both ends' addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) guest: SocketAddr,
    /// As the guest sees it.
    pub(super) remote: SocketAddr,
}

/// QEMU's names.
fn name(state: State) -> &'static str {
    match state {
        State::Closed => "CLOSED",
        State::Listen => "LISTEN",
        State::SynSent => "SYN_SENT",
        State::SynReceived => "SYN_RCVD",
        State::Established => "ESTABLISHED",
        State::FinWait1 => "FIN_WAIT_1",
        State::FinWait2 => "FIN_WAIT_2",
        State::CloseWait => "CLOSE_WAIT",
        State::Closing => "CLOSING",
        State::LastAck => "LAST_ACK",
        State::TimeWait => "TIME_WAIT",
    }
}

/// How far the connection is.
enum Stage {
    /// The host's socket is being connected; the guest waits for an answer.
    Connecting(First),
    Open(Box<Endpoint>),
}

/// What is to become of a connection.
#[derive(Debug)]
pub(super) enum Fate {
    Stays,
    /// There is more to do.
    Again,
    /// When it is to be looked at again.
    StaysUntil(Instant),
    Ends,
    /// The host's end could not be connected. With the guest's first packet.
    Refused(Vec<u8>, io::Error),
}

pub(super) struct Connection {
    pub(super) key: Key,
    stream: TcpStream,
    stage: Stage,
    ready: Ready,
    /// The host's end sends nothing more.
    host_done: bool,
    /// The guest has said that it sends nothing more.
    guest_closed: bool,
    /// All that it has sent is at the host's end.
    guest_done: bool,
    /// The host's end is of no use any more.
    failed: bool,
    /// The guest has taken part.
    established: bool,
    questions: u32,
}

impl Connection {
    fn new(key: Key, stream: TcpStream, stage: Stage) -> Self {
        Self {
            key,
            stream,
            stage,
            ready: Ready {
                readable: false,
                writable: false,
            },
            host_done: false,
            guest_closed: false,
            guest_done: false,
            failed: false,
            established: false,
            questions: 0,
        }
    }

    /// The guest wants one, and the host's end is being connected.
    pub(super) fn from_guest(key: Key, stream: TcpStream, first: First) -> Self {
        Self::new(key, stream, Stage::Connecting(first))
    }

    /// The host has accepted one.
    pub(super) fn from_host(shared: &mut Shared, key: Key, stream: TcpStream) -> Option<Self> {
        let endpoint = Endpoint::connect(shared, key.remote, key.guest)?;
        Some(Self::new(key, stream, Stage::Open(Box::new(endpoint))))
    }

    /// As QEMU shows it.
    pub(super) fn row(&mut self) -> UserSocket {
        let (state, from_guest, to_guest) = match &mut self.stage {
            Stage::Connecting(_) => ("SYN_SENT", 0, 0),
            Stage::Open(endpoint) => {
                let socket = endpoint.socket();
                let queues = (socket.recv_queue(), socket.send_queue());
                (name(socket.state()), queues.0, queues.1)
            }
        };
        UserSocket {
            protocol: "TCP",
            state: state.into(),
            fd: self.stream.as_raw_fd(),
            from: self.key.guest,
            to: self.key.remote,
            from_guest,
            to_guest,
        }
    }

    /// Makes segments that a guest that does not take long ones cannot use.
    pub(super) fn is_long(&self) -> bool {
        matches!(&self.stage, Stage::Open(endpoint) if endpoint.long)
    }

    /// Waits to be told where the guest is.
    pub(super) fn is_asking(&self) -> bool {
        self.questions > 0
    }

    /// Both ends are done, and only stragglers are waited for.
    pub(super) fn is_over(&mut self) -> bool {
        match &mut self.stage {
            Stage::Connecting(_) => false,
            Stage::Open(endpoint) => {
                matches!(endpoint.socket().state(), State::TimeWait | State::Closed)
            }
        }
    }

    pub(super) fn ready(&mut self, ready: Ready) {
        self.ready.readable |= ready.readable;
        self.ready.writable |= ready.writable;
    }

    /// A packet of the guest's.
    pub(super) fn ingress(
        &mut self,
        shared: &mut Shared,
        ip: &Ip,
        first: Option<First>,
        reset: bool,
    ) -> Fate {
        let endpoint = match &mut self.stage {
            Stage::Connecting(_) if reset => return Fate::Ends,
            // Told again what is known, or too early.
            Stage::Connecting(_) => return Fate::Stays,
            Stage::Open(endpoint) => endpoint,
        };
        let Some(mac) = shared.link.mac_of(self.key.guest.ip()) else {
            return Fate::Stays;
        };
        let result = match first {
            Some(first) => {
                endpoint.mss = first.mss;
                endpoint.ingress(shared, &first.packet, mac)
            }
            None => endpoint.ingress(shared, ip.bytes, mac),
        };
        self.look();
        match result {
            Ok(()) => Fate::Stays,
            Err(Broken) => self.end(),
        }
    }

    /// Notes what the guest's end has got to: it may be somewhere else the next time.
    fn look(&mut self) {
        let Stage::Open(endpoint) = &mut self.stage else {
            return;
        };
        let state = endpoint.socket().state();
        let begun = !matches!(state, State::Listen | State::SynSent | State::SynReceived);
        if begun && !self.established {
            self.established = true;
            endpoint.established();
        }
        let closed = [
            State::CloseWait,
            State::LastAck,
            State::Closing,
            State::TimeWait,
        ];
        self.guest_closed |= closed.contains(&state);
    }

    /// Does what can be done now.
    pub(super) fn service(&mut self, shared: &mut Shared) -> Fate {
        if let Stage::Connecting(first) = &mut self.stage {
            if !self.ready.writable {
                return Fate::Stays;
            }
            match socket::outcome(&self.stream) {
                None => {
                    self.ready.writable = false;
                    return Fate::Stays;
                }
                Some(Err(e)) => return Fate::Refused(std::mem::take(&mut first.packet), e),
                Some(Ok(())) => {}
            }
            // What the host's end has to say is said at once, as it would be directly.
            let _ = self.stream.set_nodelay(true);
            let (packet, mss) = (std::mem::take(&mut first.packet), first.mss);
            let Some(endpoint) = Endpoint::listen(shared, self.key.remote, mss) else {
                return Fate::Ends;
            };
            self.stage = Stage::Open(Box::new(endpoint));
            return self.step(shared, Some(&packet));
        }
        self.step(shared, None)
    }

    /// Moves bytes both ways, and segments.
    fn step(&mut self, shared: &mut Shared, first: Option<&[u8]>) -> Fate {
        let guest = self.key.guest.ip();
        let Some(mac) = shared.link.mac_of(guest) else {
            self.questions += 1;
            shared.ask_for(guest);
            let when = shared.now() + ASK_AGAIN;
            return match self.questions > QUESTIONS {
                true => self.end(),
                false => Fate::StaysUntil(when),
            };
        };
        self.questions = 0;
        let Stage::Open(endpoint) = &mut self.stage else {
            return Fate::Stays;
        };
        let taken = match first {
            Some(packet) => endpoint.ingress(shared, packet, mac),
            None => Ok(()),
        };
        if taken.is_err() {
            return self.end();
        }
        self.look();
        self.pump();
        self.egress(shared, mac)
    }

    fn egress(&mut self, shared: &mut Shared, mac: Mac) -> Fate {
        let Stage::Open(endpoint) = &mut self.stage else {
            return Fate::Stays;
        };
        if endpoint.egress(shared, mac).is_err() {
            return self.end();
        }
        let socket = endpoint.socket();
        // Closed with an address left: a reset is still to be sent.
        let closed = socket.state() == State::Closed && socket.remote_endpoint().is_none();
        let rest = self.guest_closed && !self.failed && socket.can_recv();
        // Listening again: the guest has thought better of it.
        if (closed && !rest) || socket.state() == State::Listen {
            return self.end();
        }
        if !shared.link.has_room() {
            return Fate::Again;
        }
        let soonest = shared.now() + SOONEST;
        match endpoint.deadline(shared.ticks()) {
            Some(when) => Fate::StaysUntil(shared.instant(when).max(soonest)),
            None => Fate::Stays,
        }
    }

    /// Ends the host's end as the guest's ended.
    fn end(&mut self) -> Fate {
        if !(self.host_done && self.guest_done) {
            socket::reset_when_closed(&self.stream);
        }
        Fate::Ends
    }

    /// Ends both ends without further ado.
    pub(super) fn abort(&mut self, shared: &mut Shared) {
        let mac = shared.link.mac_of(self.key.guest.ip());
        if let (Stage::Open(endpoint), Some(mac)) = (&mut self.stage, mac) {
            endpoint.socket().abort();
            // The endpoint is not looked at again.
            let _ = endpoint.egress(shared, mac);
        }
        self.end();
    }

    fn pump(&mut self) {
        let result = self.feed_host().and_then(|()| self.feed_guest());
        if let (Err(e), Stage::Open(endpoint)) = (result, &mut self.stage) {
            log::debug!("connection to {}: {e}", self.key.remote);
            endpoint.socket().abort();
            self.failed = true;
        }
    }

    fn feed_host(&mut self) -> io::Result<()> {
        let Stage::Open(endpoint) = &mut self.stage else {
            return Ok(());
        };
        let socket = endpoint.socket();
        while self.ready.writable && socket.can_recv() {
            let result = socket.recv(|bytes| match self.stream.write(bytes) {
                Ok(len) => (len, Ok(())),
                Err(e) => (0, Err(e)),
            });
            // It can receive.
            let Ok(result) = result else {
                break;
            };
            would_block(result, &mut self.ready.writable)?;
        }
        if self.guest_closed && !self.guest_done && !socket.can_recv() {
            self.guest_done = true;
            match self.stream.shutdown(Shutdown::Write) {
                Err(e) if e.kind() != ErrorKind::NotConnected => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    fn feed_guest(&mut self) -> io::Result<()> {
        let Stage::Open(endpoint) = &mut self.stage else {
            return Ok(());
        };
        let socket = endpoint.socket();
        while self.ready.readable && !self.host_done && socket.can_send() {
            let result = socket.send(|bytes| match self.stream.read(bytes) {
                Ok(len) => (len, Ok(len)),
                Err(e) => (0, Err(e)),
            });
            // It can send.
            let Ok(result) = result else {
                break;
            };
            if matches!(result, Ok(0)) {
                self.host_done = true;
                socket.close();
            }
            would_block(result.map(|_| ()), &mut self.ready.readable)?;
        }
        Ok(())
    }
}

/// Notes that a socket is not ready; other errors are errors.
fn would_block(result: io::Result<()>, ready: &mut bool) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == ErrorKind::WouldBlock => {
            *ready = false;
            Ok(())
        }
        Err(e) if e.kind() == ErrorKind::Interrupted => Ok(()),
        result => result,
    }
}
