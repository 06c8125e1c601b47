//! Who has which IPv6 address, and what the network's prefix is (RFC 4861, RFC 8106).

use super::config::LINK_LOCAL;
use super::link::GATEWAY;
use super::packet::{Ip, Mac};
use super::shared::Shared;
use smoltcp::wire::{IPV6_LINK_LOCAL_ALL_NODES, IpProtocol};
use std::net::{IpAddr, Ipv6Addr};

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// Options' types, and their lengths in units of 8 bytes.
const SOURCE_ADDRESS: [u8; 2] = [1, 1];
const TARGET_ADDRESS: [u8; 2] = [2, 1];
const PREFIX: [u8; 2] = [3, 4];
const DNS: [u8; 2] = [25, 3];

/// An answer from a router to what it was asked, which is to be believed.
const ROUTER_SOLICITED_OVERRIDE: u8 = 0xe0;
/// On the link, and good for addresses that hosts make up (RFC 4862).
const ON_LINK_AUTONOMOUS: u8 = 0xc0;
const LIFETIME: u32 = 86_400;
const ROUTER_LIFETIME: u16 = 1800;
const HOP_LIMIT: u8 = 64;

/// Learns from what the guest says, and answers it. True: it was for us.
pub(super) fn message(shared: &mut Shared, ip: &Ip, mac: Mac) -> bool {
    let IpAddr::V6(src) = ip.src else {
        return false;
    };
    let (body, code) = match ip.payload() {
        [kind, code, _, _, rest @ ..] => ((*kind, rest), *code),
        _ => return false,
    };
    match body {
        (ROUTER_SOLICITATION, _) if code == 0 => advertise(shared),
        (NEIGHBOUR_SOLICITATION, rest) if code == 0 => solicited(shared, src, mac, rest),
        // Whoever sends one has been learnt from the packet.
        (NEIGHBOUR_ADVERTISEMENT, _) => {}
        _ => return false,
    }
    true
}

/// Says where the host is, if that is what was asked: `rest` follows the checksum.
fn solicited(shared: &mut Shared, src: Ipv6Addr, mac: Mac, rest: &[u8]) {
    let Some(target) = rest.get(4..20).and_then(|t| <[u8; 16]>::try_from(t).ok()) else {
        return;
    };
    let target = IpAddr::from(target);
    if !shared.config.is_host(target) && !shared.config.is_dns(target) {
        return;
    }
    // Who has no address yet hears what all hear (RFC 4861, 7.2.4).
    let to = match src.is_unspecified() {
        true => IPV6_LINK_LOCAL_ALL_NODES,
        false => src,
    };
    shared.learn(src.into(), mac);
    let IpAddr::V6(own) = target else {
        return;
    };
    let mut body = vec![ROUTER_SOLICITED_OVERRIDE, 0, 0, 0];
    body.extend_from_slice(&own.octets());
    option(&mut body, TARGET_ADDRESS, &GATEWAY);
    let (from, to) = (own.into(), to.into());
    shared
        .link
        .icmp(from, to, NEIGHBOUR_ADVERTISEMENT, 0, &body);
}

/// Asks who has `target`.
pub(super) fn ask(shared: &mut Shared, target: Ipv6Addr) {
    let mut body = vec![0; 4];
    body.extend_from_slice(&target.octets());
    option(&mut body, SOURCE_ADDRESS, &GATEWAY);
    // The solicited-node address (RFC 4291, 2.7.1).
    let group = 0xff02_0000_0000_0000_0000_0001_ff00_0000 | (u128::from(target) & 0xff_ffff);
    let (from, to) = (LINK_LOCAL.into(), Ipv6Addr::from(group).into());
    shared.link.icmp(from, to, NEIGHBOUR_SOLICITATION, 0, &body);
}

/// Says to all what the network is like. In a restricted one there is no router.
fn advertise(shared: &mut Shared) {
    let config = &shared.config;
    let lifetime = if config.restrict { 0 } else { ROUTER_LIFETIME };
    let mut body = vec![HOP_LIMIT, 0];
    body.extend_from_slice(&lifetime.to_be_bytes());
    // Reachability and retransmission are left to the guest.
    body.extend_from_slice(&[0; 8]);
    option(&mut body, SOURCE_ADDRESS, &GATEWAY);
    let mut prefix = vec![config.ipv6_prefix_len, ON_LINK_AUTONOMOUS];
    prefix.extend_from_slice(&LIFETIME.to_be_bytes());
    prefix.extend_from_slice(&LIFETIME.to_be_bytes());
    prefix.extend_from_slice(&[0; 4]);
    prefix.extend_from_slice(&config.ipv6_prefix.octets());
    option(&mut body, PREFIX, &prefix);
    if !config.restrict {
        let mut dns = vec![0; 2];
        dns.extend_from_slice(&LIFETIME.to_be_bytes());
        dns.extend_from_slice(&config.ipv6_dns.octets());
        option(&mut body, DNS, &dns);
    }
    let (from, to) = (LINK_LOCAL.into(), IPV6_LINK_LOCAL_ALL_NODES.into());
    shared.link.icmp(from, to, ROUTER_ADVERTISEMENT, 0, &body);
}

fn option(body: &mut Vec<u8>, head: [u8; 2], value: &[u8]) {
    body.extend_from_slice(&head);
    body.extend_from_slice(value);
}

/// What IPv6's own messages are carried in.
pub(super) const PROTOCOL: IpProtocol = IpProtocol::Icmpv6;
