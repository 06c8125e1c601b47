//! What a user-mode network is to be like.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// How many addresses DHCP gives out.
pub(super) const LEASES: u32 = 16;

/// What is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// What arrives at an address of the host's goes to the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostForward {
    /// What.
    pub transport: Transport,
    /// Where the host listens.
    pub host: SocketAddr,
    /// Where it goes; without one, the first address that DHCP gives out.
    pub guest: Option<IpAddr>,
    /// The guest's port.
    pub guest_port: u16,
}

/// Connections of the guest's to an address of the network go to one of the host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestForward {
    /// Where the guest connects to.
    pub server: SocketAddr,
    /// Where the connection leads.
    pub target: SocketAddr,
}

/// A user-mode network. The default is QEMU's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserConfig {
    /// IPv4 exists.
    pub ipv4: bool,
    /// The network's address.
    pub net: Ipv4Addr,
    /// Bits of it that all its addresses share.
    pub prefix: u8,
    /// The host's address, which is the router's.
    pub host: Ipv4Addr,
    /// The name server's.
    pub dns: Ipv4Addr,
    /// The first of 16 that DHCP gives out.
    pub dhcp_start: Ipv4Addr,
    /// IPv6 exists.
    pub ipv6: bool,
    /// The network's prefix.
    pub ipv6_prefix: Ipv6Addr,
    /// Its length.
    pub ipv6_prefix_len: u8,
    /// The host's address.
    pub ipv6_host: Ipv6Addr,
    /// The name server's.
    pub ipv6_dns: Ipv6Addr,
    /// What DHCP says the guest's name is.
    pub hostname: Option<String>,
    /// What it says the domain is.
    pub domain: Option<String>,
    /// Where the guest is to look for names.
    pub dns_search: Vec<String>,
    /// Nothing but forwards and DHCP.
    pub restrict: bool,
    /// From the host to the guest.
    pub host_forwards: Vec<HostForward>,
    /// From the guest to the host.
    pub guest_forwards: Vec<GuestForward>,
    /// Who answers what is asked of `dns`; without one, the first name server in
    /// `/etc/resolv.conf`.
    pub resolver: Option<SocketAddr>,
}

impl Default for UserConfig {
    fn default() -> Self {
        let v6 = |last| Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, last);
        Self {
            ipv4: true,
            net: Ipv4Addr::new(10, 0, 2, 0),
            prefix: 24,
            host: Ipv4Addr::new(10, 0, 2, 2),
            dns: Ipv4Addr::new(10, 0, 2, 3),
            dhcp_start: Ipv4Addr::new(10, 0, 2, 15),
            ipv6: true,
            ipv6_prefix: v6(0),
            ipv6_prefix_len: 64,
            ipv6_host: v6(2),
            ipv6_dns: v6(3),
            hostname: None,
            domain: None,
            dns_search: Vec::new(),
            restrict: false,
            host_forwards: Vec::new(),
            guest_forwards: Vec::new(),
            resolver: None,
        }
    }
}

/// The host's link-local address.
pub(super) const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

impl UserConfig {
    /// What is wrong, if anything is.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.ipv4 {
            self.check_ipv4()?;
        }
        if self.ipv6 {
            self.check_ipv6()?;
        }
        let long = |name: &&String| name.is_empty() || name.len() > 255;
        let names = self.hostname.iter().chain(&self.domain);
        if let Some(name) = names.chain(&self.dns_search).find(long) {
            return Err(format!("'{name}': a name has 1 to 255 bytes"));
        }
        for forward in &self.host_forwards {
            let guest = self.guest_of(forward);
            if guest.port() == 0 {
                return Err("a forward to the guest needs a port other than 0".into());
            }
            if !self.contains(guest.ip()) {
                return Err(format!("{guest} is not in the network"));
            }
        }
        Ok(())
    }

    fn check_ipv4(&self) -> Result<(), String> {
        if !(4..=27).contains(&self.prefix) {
            return Err(format!(
                "/{}: a network's prefix has 4 to 27 bits",
                self.prefix
            ));
        }
        let last = u32::from(self.dhcp_start).saturating_add(LEASES - 1);
        let inside = [self.host, self.dns, self.dhcp_start, last.into()];
        if let Some(ip) = inside.iter().find(|ip| !self.is_host4(**ip)) {
            return Err(format!("{ip} is no host's address in the network"));
        }
        if self.host == self.dns || self.is_leased(self.host) || self.is_leased(self.dns) {
            return Err("the host, the name server and DHCP need addresses of their own".into());
        }
        Ok(())
    }

    fn check_ipv6(&self) -> Result<(), String> {
        if !(8..=126).contains(&self.ipv6_prefix_len) {
            return Err(format!(
                "/{}: an IPv6 prefix has 8 to 126 bits",
                self.ipv6_prefix_len
            ));
        }
        if self.ipv6_host == self.ipv6_dns {
            return Err("the host and the name server need addresses of their own".into());
        }
        for ip in [self.ipv6_host, self.ipv6_dns] {
            if !self.contains6(ip) || ip.is_multicast() || ip.is_unspecified() {
                return Err(format!("{ip} is no host's address in the network"));
            }
        }
        Ok(())
    }

    /// Where a forward leads.
    pub(super) fn guest_of(&self, forward: &HostForward) -> SocketAddr {
        let ip = forward.guest.unwrap_or(self.dhcp_start.into());
        SocketAddr::new(ip, forward.guest_port)
    }

    pub(super) fn mask(&self) -> Ipv4Addr {
        let bits = u32::from(self.prefix.min(32));
        u32::MAX.checked_shl(32 - bits).unwrap_or(0).into()
    }

    fn contains4(&self, ip: Ipv4Addr) -> bool {
        ip & self.mask() == self.net & self.mask()
    }

    /// In the network, and neither its own address nor that of all its hosts.
    pub(super) fn is_host4(&self, ip: Ipv4Addr) -> bool {
        let rest = ip & !self.mask();
        self.contains4(ip) && !rest.is_unspecified() && rest != !self.mask()
    }

    /// The address all hosts of the network listen to.
    pub(super) fn is_broadcast(&self, ip: Ipv4Addr) -> bool {
        ip.is_broadcast() || (self.contains4(ip) && !self.is_host4(ip))
    }

    pub(super) fn is_leased(&self, ip: Ipv4Addr) -> bool {
        let first = u32::from(self.dhcp_start);
        u32::from(ip).checked_sub(first).is_some_and(|n| n < LEASES)
    }

    fn contains6(&self, ip: Ipv6Addr) -> bool {
        let bits = u32::from(self.ipv6_prefix_len.min(128));
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        u128::from(ip) & mask == u128::from(self.ipv6_prefix) & mask
    }

    /// An address that a guest may have.
    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.ipv4 && self.is_host4(ip),
            IpAddr::V6(ip) => {
                let unicast = !ip.is_multicast() && !ip.is_unspecified();
                self.ipv6 && unicast && (self.contains6(ip) || ip.is_unicast_link_local())
            }
        }
    }

    pub(super) fn is_host(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => ip == self.host,
            IpAddr::V6(ip) => ip == self.ipv6_host || ip == LINK_LOCAL,
        }
    }

    pub(super) fn is_dns(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => ip == self.dns,
            IpAddr::V6(ip) => ip == self.ipv6_dns,
        }
    }

    /// The host's address as somebody with the address `guest` sees it.
    pub(super) fn host_for(&self, guest: IpAddr) -> IpAddr {
        match guest {
            IpAddr::V4(_) => self.host.into(),
            IpAddr::V6(_) => self.ipv6_host.into(),
        }
    }
}
