//! Addresses for guests: DHCP (RFC 2131, options in RFC 2132) and what it grew from,
//! BOOTP.

use super::config::LEASES;
use super::link::BROADCAST;
use super::packet::Mac;
use super::shared::Shared;
use smoltcp::wire::IpProtocol;
use std::net::{Ipv4Addr, SocketAddr};

/// Where servers listen.
pub(super) const SERVER: u16 = 67;
const CLIENT: u16 = 68;

/// Bytes of a message without options.
const FIXED: usize = 236;
/// Least that a BOOTP client takes.
const SHORTEST: usize = 300;
const COOKIE: [u8; 4] = [0x63, 0x82, 0x53, 0x63];
const LEASE_SECONDS: u32 = 86_400;

const BOOT_REQUEST: u8 = 1;
const BOOT_REPLY: u8 = 2;
/// The flag of clients that hear nothing but broadcasts.
const HEARS_BROADCAST: u8 = 0x80;

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const DECLINE: u8 = 4;
const ACK: u8 = 5;
const NAK: u8 = 6;
const RELEASE: u8 = 7;
const INFORM: u8 = 8;

mod option {
    pub(super) const PAD: u8 = 0;
    pub(super) const MASK: u8 = 1;
    pub(super) const ROUTER: u8 = 3;
    pub(super) const DNS: u8 = 6;
    pub(super) const HOSTNAME: u8 = 12;
    pub(super) const DOMAIN: u8 = 15;
    pub(super) const REQUESTED: u8 = 50;
    pub(super) const LEASE: u8 = 51;
    pub(super) const MESSAGE: u8 = 53;
    pub(super) const SERVER: u8 = 54;
    pub(super) const SEARCH: u8 = 119;
    pub(super) const END: u8 = 255;
}

/// Whose each address is.
#[derive(Default)]
pub(super) struct Leases {
    owners: [Option<Mac>; LEASES as usize],
    /// Which is taken away next, should there be no other.
    next: usize,
}

impl Leases {
    fn of(&self, mac: Mac) -> Option<usize> {
        self.owners.iter().position(|o| *o == Some(mac))
    }

    /// An address for `mac`: its own, the one it asks for, a free one, or the one of
    /// whoever's turn it is to lose it.
    fn find(&mut self, mac: Mac, wanted: Option<usize>) -> usize {
        let free = |n: &usize| self.owners.get(*n).is_some_and(Option::is_none);
        let found = self.of(mac).or(wanted.filter(free));
        let found = found.or_else(|| self.owners.iter().position(Option::is_none));
        let n = found.unwrap_or_else(|| {
            let n = self.next;
            self.next = (n + 1) % self.owners.len();
            n
        });
        self.owners[n] = Some(mac);
        n
    }

    fn give_back(&mut self, mac: Mac) {
        if let Some(n) = self.of(mac) {
            self.owners[n] = None;
        }
    }
}

/// A client's message.
struct Message<'a> {
    fixed: &'a [u8; FIXED],
    mac: Mac,
    client: Ipv4Addr,
    /// None: BOOTP.
    kind: Option<u8>,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
}

impl<'a> Message<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (fixed, rest) = bytes.split_first_chunk::<FIXED>()?;
        // For Ethernet, whose addresses have 6 bytes.
        (fixed[..3] == [BOOT_REQUEST, 1, 6]).then_some(())?;
        let options = rest.strip_prefix(&COOKIE[..]).unwrap_or_default();
        let address = |code| {
            Some(Ipv4Addr::from(
                <[u8; 4]>::try_from(find(options, code)?).ok()?,
            ))
        };
        Some(Self {
            fixed,
            mac: fixed[28..34].try_into().ok()?,
            client: Ipv4Addr::from(<[u8; 4]>::try_from(&fixed[12..16]).ok()?),
            kind: find(options, option::MESSAGE).and_then(|v| v.first().copied()),
            requested: address(option::REQUESTED),
            server: address(option::SERVER),
        })
    }
}

/// The value of an option.
fn find(mut options: &[u8], code: u8) -> Option<&[u8]> {
    loop {
        let (&found, rest) = options.split_first()?;
        match found {
            option::END => return None,
            option::PAD => options = rest,
            _ => {
                let (&len, rest) = rest.split_first()?;
                let (value, rest) = rest.split_at_checked(len.into())?;
                if found == code {
                    return Some(value);
                }
                options = rest;
            }
        }
    }
}

/// Answers a datagram to the server's port. True: somebody's address is news.
pub(super) fn datagram(shared: &mut Shared, leases: &mut Leases, bytes: &[u8]) -> bool {
    let Some(message) = Message::parse(bytes) else {
        return false;
    };
    let Some((kind, ip)) = decide(shared, leases, &message) else {
        return false;
    };
    let answer = answer(shared, &message, kind, ip);
    send(shared, &message, kind, &answer);
    let given = matches!(kind, None | Some(ACK));
    given && ip.is_some_and(|ip| shared.learn(ip.into(), message.mac))
}

/// The answer's kind, and the address it gives.
fn decide(
    shared: &Shared,
    leases: &mut Leases,
    message: &Message,
) -> Option<(Option<u8>, Option<Ipv4Addr>)> {
    let first = u32::from(shared.config.dhcp_start);
    let index = |ip: Ipv4Addr| u32::from(ip).checked_sub(first).map(|n| n as usize);
    let ip = |n: usize| Ipv4Addr::from(first.saturating_add(n as u32));
    let wanted = message.requested.and_then(index);
    let Some(kind) = message.kind else {
        return Some((None, Some(ip(leases.find(message.mac, None)))));
    };
    match kind {
        DISCOVER => Some((Some(OFFER), Some(ip(leases.find(message.mac, wanted))))),
        REQUEST => {
            if message.server.is_some_and(|s| s != shared.config.host) {
                leases.give_back(message.mac);
                return None;
            }
            let asked = message.requested.unwrap_or(message.client);
            let given = ip(leases.find(message.mac, index(asked)));
            match given == asked {
                true => Some((Some(ACK), Some(given))),
                false => Some((Some(NAK), None)),
            }
        }
        INFORM => Some((Some(ACK), None)),
        RELEASE | DECLINE => {
            leases.give_back(message.mac);
            None
        }
        _ => None,
    }
}

fn answer(shared: &Shared, message: &Message, kind: Option<u8>, ip: Option<Ipv4Addr>) -> Vec<u8> {
    let mut bytes = message.fixed.to_vec();
    bytes[0] = BOOT_REPLY;
    // Hops, and seconds since the client began.
    bytes[3] = 0;
    bytes[8..10].fill(0);
    if kind == Some(NAK) {
        bytes[12..16].fill(0);
    }
    bytes[16..20].copy_from_slice(&ip.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
    bytes[20..24].copy_from_slice(&shared.config.host.octets());
    // The server's name and a file to boot.
    bytes[44..].fill(0);
    bytes.extend_from_slice(&COOKIE);
    if let Some(kind) = kind {
        put(&mut bytes, option::MESSAGE, &[kind]);
        put(&mut bytes, option::SERVER, &shared.config.host.octets());
    }
    if kind != Some(NAK) {
        // Who asks for no address gets no lease (RFC 2131, 4.3.5).
        if kind.is_some() && ip.is_some() {
            put(&mut bytes, option::LEASE, &LEASE_SECONDS.to_be_bytes());
        }
        describe(shared, &mut bytes);
    }
    bytes.push(option::END);
    bytes.resize(bytes.len().max(SHORTEST), option::PAD);
    bytes
}

/// What the network is like. In a restricted one nobody else can be reached.
fn describe(shared: &Shared, bytes: &mut Vec<u8>) {
    let config = &shared.config;
    put(bytes, option::MASK, &config.mask().octets());
    if !config.restrict {
        put(bytes, option::ROUTER, &config.host.octets());
        put(bytes, option::DNS, &config.dns.octets());
    }
    if let Some(name) = &config.hostname {
        put(bytes, option::HOSTNAME, name.as_bytes());
    }
    if let Some(name) = &config.domain {
        put(bytes, option::DOMAIN, name.as_bytes());
    }
    put(bytes, option::SEARCH, &search_list(&config.dns_search));
}

/// An option; a long one in several parts (RFC 3396).
fn put(bytes: &mut Vec<u8>, code: u8, value: &[u8]) {
    for part in value.chunks(255) {
        bytes.extend_from_slice(&[code, part.len() as u8]);
        bytes.extend_from_slice(part);
    }
}

/// Names as DNS writes them (RFC 3397), as far as a frame has room for them.
fn search_list(names: &[String]) -> Vec<u8> {
    const LONGEST: usize = 400;
    let mut list = Vec::new();
    for name in names {
        let labels = name.split('.').filter(|l| !l.is_empty());
        let mut encoded: Vec<u8> = Vec::new();
        for label in labels {
            let label = &label.as_bytes()[..label.len().min(63)];
            encoded.push(label.len() as u8);
            encoded.extend_from_slice(label);
        }
        encoded.push(0);
        if list.len() + encoded.len() <= LONGEST {
            list.extend(encoded);
        }
    }
    list
}

fn send(shared: &mut Shared, message: &Message, kind: Option<u8>, answer: &[u8]) {
    let from = SocketAddr::from((shared.config.host, SERVER));
    if kind != Some(NAK) && shared.config.is_host4(message.client) {
        shared.learn(message.client.into(), message.mac);
        let to = SocketAddr::from((message.client, CLIENT));
        return shared.link.udp(from, to, answer);
    }
    // The client has no address yet: all hear it, or the frame finds the way.
    let to = SocketAddr::from((Ipv4Addr::BROADCAST, CLIENT));
    let deaf = message.fixed[10] & HEARS_BROADCAST != 0 || kind == Some(NAK);
    let mac = if deaf { BROADCAST } else { message.mac };
    shared.link.udp_at(mac, from, to, answer);
}

/// Whether a packet of the guest's is for the server: also from no address at all.
pub(super) fn is_for_server(shared: &Shared, protocol: IpProtocol, to: SocketAddr) -> bool {
    let host = match to.ip() {
        std::net::IpAddr::V4(ip) => ip == shared.config.host || shared.config.is_broadcast(ip),
        std::net::IpAddr::V6(_) => false,
    };
    shared.config.ipv4 && protocol == IpProtocol::Udp && to.port() == SERVER && host
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_lie_are_not_read() {
        assert_eq!(find(&[0, 53, 1, 7, 255], 53), Some(&[7][..]));
        assert_eq!(find(&[53, 9, 7], 53), None);
        assert_eq!(find(&[53], 53), None);
        assert_eq!(find(&[255, 53, 1, 7], 53), None);
    }

    #[test]
    fn search_lists_are_written_as_names() {
        let names = ["a.bc".to_string(), "d.".to_string()];
        assert_eq!(search_list(&names), b"\x01a\x02bc\0\x01d\0");
    }

    #[test]
    fn the_seventeenth_client_gets_the_first_ones_lease() {
        let mut leases = Leases::default();
        let mac = |n| [2, 0, 0, 0, 0, n];
        for n in 0..16 {
            assert_eq!(leases.find(mac(n), None), usize::from(n));
        }
        assert_eq!(leases.find(mac(3), Some(5)), 3);
        assert_eq!(leases.find(mac(99), None), 0);
        assert_eq!((leases.of(mac(0)), leases.of(mac(99))), (None, Some(0)));
    }
}
