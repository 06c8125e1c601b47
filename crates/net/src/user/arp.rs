//! Who has which IPv4 address (RFC 826).

use super::link::{BROADCAST, GATEWAY};
use super::packet::{EtherType, Mac};
use super::shared::Shared;
use crate::Offload;
use std::net::Ipv4Addr;

/// Bytes of a packet about Ethernet and IPv4.
const LEN: usize = 28;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;
/// Ethernet's number and address length with IPv4's.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// Learns from what the guest says, and answers it. True: somebody's address is news.
pub(super) fn packet(shared: &mut Shared, bytes: &[u8]) -> bool {
    let Some(packet) = bytes.first_chunk::<LEN>() else {
        return false;
    };
    if !shared.config.ipv4 || packet[..6] != ETHERNET_IPV4 {
        return false;
    }
    let ip = |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
    let Ok(mac) = Mac::try_from(&packet[8..14]) else {
        return false;
    };
    let (sender, target) = (ip(14), ip(24));
    let news = shared.learn(sender.into(), mac);
    if packet[6..8] == REQUEST.to_be_bytes() && is_ours(shared, sender, target) {
        write(shared, mac, REPLY, target, sender);
    }
    news
}

/// Everybody but guests is the host. Who probes an address before it takes it
/// (RFC 5227) has no address yet, and may have what nobody is known to have.
fn is_ours(shared: &Shared, sender: Ipv4Addr, target: Ipv4Addr) -> bool {
    let config = &shared.config;
    let named = target == config.host || target == config.dns;
    let server = |f: &super::GuestForward| f.server.ip() == target;
    if named || config.guest_forwards.iter().any(server) {
        return true;
    }
    let guest = config.is_leased(target) || shared.link.mac_of(target.into()).is_some();
    config.is_host4(target) && !guest && !sender.is_unspecified() && sender != target
}

/// Asks who has `target`.
pub(super) fn ask(shared: &mut Shared, target: Ipv4Addr) {
    write(shared, BROADCAST, REQUEST, shared.config.host, target);
}

fn write(shared: &mut Shared, to: Mac, operation: u16, sender: Ipv4Addr, target: Ipv4Addr) {
    let hardware = if to == BROADCAST { [0; 6] } else { to };
    shared.link.frame(to, EtherType::Arp, LEN, |bytes| {
        bytes[..6].copy_from_slice(&ETHERNET_IPV4);
        bytes[6..8].copy_from_slice(&operation.to_be_bytes());
        bytes[8..14].copy_from_slice(&GATEWAY);
        bytes[14..18].copy_from_slice(&sender.octets());
        bytes[18..24].copy_from_slice(&hardware);
        bytes[24..28].copy_from_slice(&target.octets());
        (Offload::default(), ())
    });
}
