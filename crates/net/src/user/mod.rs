//! A network that needs nothing of the host but sockets: what the guest sends to the
//! outside goes through sockets of this process, and the rest, from addresses to
//! names, is made up here. QEMU calls it "user".

mod arp;
mod config;
mod control;
mod dhcp;
mod flow;
mod forward;
mod fragments;
mod icmp;
mod link;
mod ndp;
mod packet;
mod poller;
mod resolver;
mod schedule;
mod shared;
mod socket;
mod tcp;
#[cfg(test)]
mod tests;

pub use config::{GuestForward, HostForward, Transport, UserConfig};
pub use control::{UserControl, UserSocket};

use crate::{Accepts, Frame, Guest, Network};
use dhcp::Leases;
use flow::Flows;
use forward::Forward;
use fragments::Fragments;
use packet::{EtherType, Ethernet, Ip, Mac};
use schedule::Token;
use shared::{Clock, Shared};
use smoltcp::wire::IpProtocol;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Instant;
use tcp::Connections;

/// What is done in one [`Network::run`] at most.
const AT_ONCE: usize = 256;

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The configuration contradicts itself.
    #[error("user network: {0}")]
    Config(String),
    /// A forward's address cannot be listened at.
    #[error("user network: cannot listen at {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The host lacks something.
    #[error("user network: {0}")]
    Host(#[from] io::Error),
}

/// A user-mode network.
///
/// While the guest has no room, [`Network::deadline`] says nothing: call
/// [`Network::run`] when there is room again.
pub struct UserNet {
    shared: Shared,
    connections: Connections,
    flows: Flows,
    leases: Leases,
    fragments: Fragments,
    /// By the numbers in their tokens; a free place is where one was.
    forwards: Vec<Option<Forward>>,
    control: UserControl,
    /// The guest had no room for all there was.
    full: bool,
}

impl UserNet {
    /// A network, which listens at the addresses that are forwarded.
    ///
    /// # Errors
    /// Of the configuration or the host's.
    pub fn new(config: UserConfig) -> Result<Self, UserError> {
        Self::with_clock(config, Box::new(Instant::now))
    }

    fn with_clock(config: UserConfig, clock: Clock) -> Result<Self, UserError> {
        config.check().map_err(UserError::Config)?;
        let shared = Shared::new(config.clone(), clock)?;
        let control = UserControl::new()?;
        shared.poller.add(control.bell(), Token::Control)?;
        Ok(Self {
            forwards: forward::listen(&shared, &config)?,
            control,
            shared,
            connections: Connections::default(),
            flows: Flows::default(),
            leases: Leases::default(),
            fragments: Fragments::default(),
            full: false,
        })
    }

    /// Where the host listens for each forward, in the configuration's order: who asks
    /// for port 0 gets some port.
    ///
    /// # Errors
    /// The host's.
    pub fn listening(&self) -> io::Result<Vec<SocketAddr>> {
        let forwards = self.forwards.iter().flatten();
        forwards.map(Forward::address).collect()
    }

    /// `trusted`: the payload's checksum needs no look.
    fn packet(&mut self, bytes: &[u8], mac: Mac, trusted: bool) {
        let Some(ip) = Ip::parse(bytes) else {
            return;
        };
        if ip.fragment.is_some() {
            let whole = self.fragments.add(&ip, self.shared.now());
            if let Some(whole) = whole {
                self.packet(&whole, mac, false);
            }
            return;
        }
        if !(trusted || ip.is_sound()) {
            return;
        }
        if ip.protocol == ndp::PROTOCOL && self.shared.config.ipv6 {
            self.learn(ip.src, mac);
            if ndp::message(&mut self.shared, &ip, mac) {
                return;
            }
        }
        if ip.protocol == IpProtocol::Udp && self.dhcp(&ip) {
            return;
        }
        // Who is not of this network gets no answers.
        if !self.shared.config.contains(ip.src) || self.is_impostor(&ip) {
            return;
        }
        self.learn(ip.src, mac);
        match ip.protocol {
            IpProtocol::Tcp => self.connections.segment(&mut self.shared, &ip),
            IpProtocol::Udp => self.flows.datagram(&mut self.shared, &ip),
            IpProtocol::Icmp | IpProtocol::Icmpv6 => {
                if let Some(echo) = icmp::message(&mut self.shared, &ip) {
                    self.flows.echo(&mut self.shared, &ip, &echo);
                }
            }
            _ => {}
        }
    }

    /// The host's addresses are nobody else's.
    fn is_impostor(&self, ip: &Ip) -> bool {
        let config = &self.shared.config;
        config.is_host(ip.src) || config.is_dns(ip.src)
    }

    fn learn(&mut self, ip: std::net::IpAddr, mac: Mac) {
        if self.shared.learn(ip, mac) {
            self.connections.wake(&mut self.shared);
        }
    }

    /// Whether the datagram was for DHCP's server.
    fn dhcp(&mut self, ip: &Ip) -> bool {
        let Ok(udp) = smoltcp::wire::UdpPacket::new_checked(ip.payload()) else {
            return false;
        };
        let to = SocketAddr::new(ip.dst, udp.dst_port());
        if !dhcp::is_for_server(&self.shared, ip.protocol, to) {
            return false;
        }
        if dhcp::datagram(&mut self.shared, &mut self.leases, udp.payload()) {
            self.connections.wake(&mut self.shared);
        }
        true
    }

    fn service(&mut self, token: Token) {
        let shared = &mut self.shared;
        match token {
            Token::Tcp(id) => self.connections.service(shared, id),
            Token::Flow(id) => self.flows.service(shared, id),
            Token::Control => self.attend(),
            Token::Forward(n) => {
                let forward = usize::try_from(n).ok().and_then(|n| self.forwards.get(n));
                if let Some(Some(forward)) = forward {
                    forward.service(shared, &mut self.connections, &mut self.flows, token);
                }
            }
        }
    }
}

impl Network for UserNet {
    fn fd(&self) -> BorrowedFd<'_> {
        self.shared.poller.fd()
    }

    fn deadline(&self) -> Option<Instant> {
        let schedule = &self.shared.schedule;
        if self.full {
            None
        } else if schedule.is_idle() && self.shared.link.is_empty() {
            schedule.first_timer()
        } else {
            Some(self.shared.now())
        }
    }

    fn takes(&self) -> Accepts {
        Accepts::ALL
    }

    fn attend(&mut self) {
        for request in self.control.take() {
            request(self);
        }
    }

    fn accepts(&mut self, accepts: Accepts) {
        let before = std::mem::replace(&mut self.shared.link.accepts, accepts);
        let less = |before: bool, after: bool| before && !after;
        if less(before.tcp4, accepts.tcp4)
            || less(before.tcp6, accepts.tcp6)
            || less(before.checksum, accepts.checksum)
        {
            self.shared.link.clear();
            self.connections.end_long(&mut self.shared);
        }
    }

    fn send(&mut self, frame: &Frame) -> bool {
        if let Some(ethernet) = Ethernet::parse(&frame.bytes, link::GATEWAY) {
            match ethernet.kind {
                EtherType::Arp => {
                    if arp::packet(&mut self.shared, ethernet.payload) {
                        self.connections.wake(&mut self.shared);
                    }
                }
                EtherType::Ipv4 | EtherType::Ipv6 => {
                    let trusted = frame.offload.verified || frame.offload.checksum.is_some();
                    self.packet(ethernet.payload, ethernet.from, trusted);
                }
            }
        }
        true
    }

    fn run(&mut self, now: Instant, guest: &mut dyn Guest) -> io::Result<()> {
        for (token, ready) in self.shared.poller.take()? {
            match token {
                Token::Tcp(id) => self.connections.ready(&mut self.shared, id, ready),
                _ => self.shared.schedule.add(token),
            }
        }
        self.shared.schedule.fire(now);
        for _ in 0..AT_ONCE {
            self.full = !self.shared.link.drain(guest);
            if self.full {
                return Ok(());
            }
            match self.shared.schedule.next() {
                Some(token) => self.service(token),
                None => return Ok(()),
            }
        }
        self.full = !self.shared.link.drain(guest);
        Ok(())
    }
}
