//! IPv6.

use super::*;
use smoltcp::wire::IpProtocol;
use std::net::Ipv6Addr;

const HOST6: Ipv6Addr = Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 2);
const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0x15);
const LOCAL6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 0);

fn world(long: bool) -> World {
    let mut world = World::new(UserConfig::default(), long);
    world.guest.set_address(GUEST6.into(), 64, HOST6.into());
    world
}

/// Whether the host has IPv6 at all.
fn is_there() -> bool {
    std::net::UdpSocket::bind(LOCAL6).is_ok()
}

/// A message of ICMPv6's to all routers or to one address.
pub(super) fn message(to: Ipv6Addr, kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut link = link::Link::default();
    link.learn(to.into(), link::GATEWAY);
    link.icmp(GUEST6.into(), to.into(), kind, 0, rest);
    let mut world = World::new(UserConfig::default(), false);
    link.drain(&mut world.guest);
    let mut bytes = world.guest.delivered.remove(0).bytes;
    bytes[6..12].copy_from_slice(&guest::MAC);
    bytes
}

#[test]
fn the_router_says_what_the_network_is_like() {
    let mut world = World::new(UserConfig::default(), false);
    let routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    let answers = world.answers(message(routers, 133, &[0; 4]));
    assert_eq!(answers.len(), 1);
    let ip = Ip::parse(&answers[0][14..]).unwrap();
    assert!(ip.is_sound());
    assert_eq!(ip.protocol, IpProtocol::Icmpv6);
    assert_eq!(ip.src, IpAddr::V6(config::LINK_LOCAL));
    let body = ip.payload();
    assert_eq!((body[0], body.len()), (134, 16 + 8 + 32 + 24));
    // The prefix, good for addresses of the guest's making, and the name server.
    assert_eq!(body[24..28], [3, 4, 64, 0xc0]);
    assert_eq!(body[40..56], UserConfig::default().ipv6_prefix.octets());
    assert_eq!(body[56..58], [25, 3]);
    assert_eq!(body[64..80], UserConfig::default().ipv6_dns.octets());
}

#[test]
fn echoes_over_six() {
    let mut world = World::new(UserConfig::default(), false);
    let answers = world.answers(message(HOST6, 128, &[1, 2, 3, 4, b'x']));
    let ip = Ip::parse(&answers[0][14..]).unwrap();
    assert!(ip.is_sound());
    assert_eq!(ip.src, IpAddr::V6(HOST6));
    assert_eq!(ip.payload()[0], 129);
    assert_eq!(ip.payload()[4..], [1, 2, 3, 4, b'x']);
}

#[test]
fn streams_over_six() {
    if !is_there() {
        return;
    }
    for long in [false, true] {
        let port = servers::tcp(LOCAL6, servers::echo);
        let mut world = world(long);
        let handle = world.connect((HOST6, port).into(), 1000);
        let (mut sent, mut received) = (0, 0);
        const LEN: usize = 1 << 20;
        world.until(|guest| {
            let socket = guest.sockets.get_mut::<TcpSocket>(handle);
            if socket.can_send() && sent < LEN {
                sent += socket.send_slice(&vec![7; LEN - sent]).unwrap();
            }
            while socket.can_recv() {
                received += socket.recv(|b| (b.len(), b.len())).unwrap();
            }
            received == LEN
        });
        assert_eq!(world.guest.longs > 0, long);
    }
}

#[test]
fn datagrams_over_six() {
    if !is_there() {
        return;
    }
    let port = servers::udp(LOCAL6);
    let answer = names::ask(&mut world(false), (HOST6, port).into(), b"six");
    assert_eq!(answer.as_deref(), Some(&b"SIX"[..]));
}
