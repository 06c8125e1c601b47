//! What all parts of the network use.

use super::config::UserConfig;
use super::link::Link;
use super::packet::Mac;
use super::poller::Poller;
use super::resolver::Resolver;
use super::schedule::Schedule;
use super::{arp, ndp};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

/// The name server's port, which is the only one it has.
pub(super) const DNS_PORT: u16 = 53;

/// Tells the time.
pub(super) type Clock = Box<dyn Fn() -> Instant + Send>;

pub(super) struct Shared {
    pub(super) config: UserConfig,
    pub(super) link: Link,
    pub(super) poller: Poller,
    pub(super) schedule: Schedule,
    resolver: Resolver,
    clock: Clock,
    /// When the network began.
    epoch: Instant,
    /// What is read from a socket before it goes elsewhere.
    pub(super) scratch: Vec<u8>,
}

impl Shared {
    pub(super) fn new(config: UserConfig, clock: Clock) -> io::Result<Self> {
        Ok(Self {
            resolver: Resolver::new(config.resolver),
            link: Link::default(),
            poller: Poller::new()?,
            schedule: Schedule::default(),
            epoch: clock(),
            clock,
            scratch: vec![0; usize::from(u16::MAX)],
            config,
        })
    }

    pub(super) fn now(&self) -> Instant {
        (self.clock)()
    }

    /// The time as smoltcp wants it.
    pub(super) fn ticks(&self) -> smoltcp::time::Instant {
        let passed = self.now().saturating_duration_since(self.epoch);
        smoltcp::time::Instant::from_micros(passed.as_micros() as i64)
    }

    /// The time as others want it.
    pub(super) fn instant(&self, ticks: smoltcp::time::Instant) -> Instant {
        let micros = u64::try_from(ticks.total_micros()).unwrap_or(0);
        self.epoch + std::time::Duration::from_micros(micros)
    }

    /// Somebody said that `ip` is at `mac`. True: that is news.
    pub(super) fn learn(&mut self, ip: IpAddr, mac: Mac) -> bool {
        let config = &self.config;
        let guest = config.contains(ip) && !config.is_host(ip) && !config.is_dns(ip);
        guest && self.link.learn(ip, mac)
    }

    /// Asks who has `ip`.
    pub(super) fn ask_for(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => arp::ask(self, ip),
            IpAddr::V6(ip) => ndp::ask(self, ip),
        }
    }

    /// Where on the host something for `remote` goes, if anywhere.
    pub(super) fn target(&mut self, remote: SocketAddr) -> Option<SocketAddr> {
        let (ip, port) = (remote.ip(), remote.port());
        let config = &self.config;
        if config.restrict || port == 0 {
            return None;
        }
        if config.is_host(ip) {
            return Some(SocketAddr::new(loopback(ip), port));
        }
        if config.is_dns(ip) {
            return (port == DNS_PORT).then(|| self.resolver.address());
        }
        self.is_outside(ip).then_some(remote)
    }

    /// Beyond this network, and nothing that is special on the host: a guest's
    /// 127.0.0.1 is its own.
    pub(super) fn is_outside(&self, ip: IpAddr) -> bool {
        let special = match ip {
            IpAddr::V4(ip) => self.is_special4(ip),
            IpAddr::V6(ip) => self.is_special6(ip),
        };
        !special && !self.config.contains(ip)
    }

    fn is_special4(&self, ip: Ipv4Addr) -> bool {
        let first = ip.octets()[0];
        let local = ip.is_loopback() || ip.is_multicast() || first == 0;
        local || self.config.is_broadcast(ip) || !self.config.ipv4
    }

    fn is_special6(&self, ip: Ipv6Addr) -> bool {
        let local = ip.is_loopback() || ip.is_unspecified() || ip.is_multicast();
        // ::a.b.c.d and ::ffff:a.b.c.d are IPv4's addresses to some systems.
        let mapped = ip.to_ipv4().is_some();
        local || mapped || ip.is_unicast_link_local() || !self.config.ipv6
    }

    /// What the guest is to see of `peer`, who sends something to `guest`.
    pub(super) fn seen(&self, peer: SocketAddr, guest: SocketAddr) -> SocketAddr {
        let outside = peer.is_ipv4() == guest.is_ipv4() && self.is_outside(peer.ip());
        let ip = if outside {
            peer.ip()
        } else {
            self.config.host_for(guest.ip())
        };
        SocketAddr::new(ip, peer.port())
    }
}

fn loopback(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}
