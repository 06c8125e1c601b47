//! Addresses, names, echoes and datagrams.

use super::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::{dhcpv4, icmp, udp};
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, IpEndpoint};

const ETHERNET_ARP: [u8; 2] = [0x08, 0x06];

/// An ARP request.
pub(super) fn who_has(target: [u8; 4], sender: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![0xff; 6];
    bytes.extend(guest::MAC);
    bytes.extend(ETHERNET_ARP);
    bytes.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    bytes.extend(guest::MAC);
    bytes.extend(sender);
    bytes.extend([0; 6]);
    bytes.extend(target);
    bytes
}

#[test]
fn who_is_no_guest_is_the_host() {
    let mut world = World::new(UserConfig::default(), false);
    let own = GUEST.octets();
    for target in [[10, 0, 2, 2], [10, 0, 2, 3], [10, 0, 2, 99]] {
        let answers = world.answers(who_has(target, own));
        assert_eq!(answers.len(), 1, "{target:?}");
        let mut expected = guest::MAC.to_vec();
        expected.extend(link::GATEWAY);
        expected.extend(ETHERNET_ARP);
        expected.extend([0, 1, 8, 0, 6, 4, 0, 2]);
        expected.extend(link::GATEWAY);
        expected.extend(target);
        expected.extend(guest::MAC);
        expected.extend(own);
        assert_eq!(answers[0], expected);
    }
    // The guest's own, others' networks, and whoever probes before he takes one.
    let others = [own, [10, 0, 2, 16], [10, 0, 2, 255], [192, 168, 0, 1]];
    for target in others {
        assert!(world.answers(who_has(target, own)).is_empty());
    }
    assert!(world.answers(who_has([10, 0, 2, 99], [0; 4])).is_empty());
    assert_eq!(world.answers(who_has([10, 0, 2, 2], [0; 4])).len(), 1);
}

fn lease(config: UserConfig) -> dhcpv4::Config<'static> {
    let mut world = World::new(config, false);
    let socket = world.guest.sockets.add(dhcpv4::Socket::new());
    let mut found = None;
    world.until(|guest| {
        let socket = guest.sockets.get_mut::<dhcpv4::Socket>(socket);
        if let Some(dhcpv4::Event::Configured(config)) = socket.poll() {
            found = Some(dhcpv4::Config {
                packet: None,
                ..config
            });
        }
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn dhcp_gives_an_address() {
    let found = lease(UserConfig::default());
    assert_eq!(found.address.to_string(), "10.0.2.15/24");
    assert_eq!(found.router, Some(Ipv4Addr::new(10, 0, 2, 2)));
    assert_eq!(found.dns_servers[..], [Ipv4Addr::new(10, 0, 2, 3)]);
    let found = lease(UserConfig {
        restrict: true,
        ..UserConfig::default()
    });
    assert_eq!(found.address.to_string(), "10.0.2.15/24");
    assert_eq!(found.router, None);
}

/// A DHCP message in a frame, with options.
pub(super) fn dhcp(options: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 236];
    message[..3].copy_from_slice(&[1, 1, 6]);
    message[28..34].copy_from_slice(&guest::MAC);
    message.extend(options);
    let mut link = link::Link::default();
    let from = (Ipv4Addr::new(10, 0, 2, 16), 68).into();
    link.udp_at(link::GATEWAY, from, (HOST, 67).into(), &message);
    let mut world = World::new(UserConfig::default(), false);
    link.drain(&mut world.guest);
    let mut bytes = world.guest.delivered.remove(0).bytes;
    bytes[6..12].copy_from_slice(&guest::MAC);
    bytes
}

/// The value of an option of an answer's.
fn option(answer: &[u8], code: u8) -> Option<&[u8]> {
    let mut rest = answer.get(14 + 20 + 8 + 240..)?;
    loop {
        match *rest {
            [0, ..] => rest = &rest[1..],
            [255, ..] | [] | [_] => return None,
            [found, len, ..] => {
                let value = rest.get(2..2 + usize::from(len))?;
                if found == code {
                    return Some(value);
                }
                rest = &rest[2 + usize::from(len)..];
            }
        }
    }
}

#[test]
fn dhcp_says_what_it_was_told_to_say() {
    let mut world = World::new(
        UserConfig {
            hostname: Some("box".into()),
            domain: Some("example.org".into()),
            dns_search: vec!["a.b".into()],
            ..UserConfig::default()
        },
        false,
    );
    const COOKIE: [u8; 4] = [0x63, 0x82, 0x53, 0x63];
    let mut ask = |options: &[u8]| {
        let answers = world.answers(dhcp(&[&COOKIE[..], options].concat()));
        assert!(answers.len() <= 1);
        answers.into_iter().next()
    };
    let offer = ask(&[53, 1, 1, 255]).unwrap();
    assert_eq!(option(&offer, 53), Some(&[2][..]));
    assert_eq!(option(&offer, 12), Some(&b"box"[..]));
    assert_eq!(option(&offer, 15), Some(&b"example.org"[..]));
    assert_eq!(option(&offer, 119), Some(&b"\x01a\x01b\0"[..]));
    assert_eq!(option(&offer, 51), Some(&86_400u32.to_be_bytes()[..]));
    // What was not offered is refused, another server's offer is left alone.
    let refused = ask(&[53, 1, 3, 50, 4, 10, 0, 2, 99, 255]).unwrap();
    assert_eq!(option(&refused, 53), Some(&[6][..]));
    assert!(ask(&[53, 1, 3, 54, 4, 10, 0, 2, 7, 255]).is_none());
    let told = ask(&[53, 1, 8, 255]).unwrap();
    assert_eq!(option(&told, 53), Some(&[5][..]));
    assert_eq!(option(&told, 51), None);
    assert!(ask(&[53, 1, 7, 255]).is_none());
    // BOOTP.
    let answer = world.answers(dhcp(&[0; 64])).remove(0);
    assert_eq!(answer[14 + 28 + 16..14 + 28 + 20], GUEST.octets());
}

/// The data of an echo of `data` from `to`, within a second.
fn ping(world: &mut World, to: IpAddr, data: &[u8]) -> Option<Vec<u8>> {
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 2048]);
    let mut socket = icmp::Socket::new(buffer(), buffer());
    socket.bind(icmp::Endpoint::Ident(0x1234)).unwrap();
    let request = Icmpv4Repr::EchoRequest {
        ident: 0x1234,
        seq_no: 7,
        data,
    };
    let bytes = socket.send(request.buffer_len(), to.into()).unwrap();
    let mut packet = Icmpv4Packet::new_unchecked(bytes);
    request.emit(&mut packet, &ChecksumCapabilities::default());
    let handle = world.guest.sockets.add(socket);
    let mut answer = None;
    let end = world.now() + Duration::from_secs(3);
    let clock = world.passed.clone();
    let start = world.start;
    world.until(|guest| {
        let socket = guest.sockets.get_mut::<icmp::Socket>(handle);
        if let Ok((bytes, from)) = socket.recv() {
            assert_eq!(from, to.into());
            answer = Some(bytes[8..].to_vec());
        }
        let now = start + Duration::from_micros(clock.load(Ordering::Relaxed));
        answer.is_some() || now > end
    });
    world.guest.sockets.remove(handle);
    answer
}

#[test]
fn the_host_echoes() {
    let mut world = World::with_address(UserConfig::default(), false);
    for to in [HOST, DNS] {
        assert_eq!(
            ping(&mut world, to, b"hello").as_deref(),
            Some(&b"hello"[..])
        );
    }
}

/// What comes back for a datagram, within 3 seconds.
pub(super) fn ask(world: &mut World, to: SocketAddr, data: &[u8]) -> Option<Vec<u8>> {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 4], vec![0; 8192]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(4000).unwrap();
    socket.send_slice(data, IpEndpoint::from(to)).unwrap();
    let handle = world.guest.sockets.add(socket);
    let mut answer = None;
    let end = world.now() + Duration::from_secs(3);
    let (clock, start) = (world.passed.clone(), world.start);
    world.until(|guest| {
        let socket = guest.sockets.get_mut::<udp::Socket>(handle);
        if let Ok((bytes, from)) = socket.recv() {
            assert_eq!(SocketAddr::from(from.endpoint), to);
            answer = Some(bytes.to_vec());
        }
        let now = start + Duration::from_micros(clock.load(Ordering::Relaxed));
        answer.is_some() || now > end
    });
    world.guest.sockets.remove(handle);
    answer
}

#[test]
fn datagrams_there_and_back() {
    let port = servers::udp(servers::local());
    let mut world = World::with_address(UserConfig::default(), false);
    let answer = ask(&mut world, (HOST, port).into(), b"hello");
    assert_eq!(answer.as_deref(), Some(&b"HELLO"[..]));
    assert_eq!(world.net.flows.len(), 1);
    // The flow ends when nobody has used it for a while.
    world.pass(Duration::from_secs(239));
    world.step();
    assert_eq!(world.net.flows.len(), 1);
    world.pass(Duration::from_secs(2));
    world.step();
    assert_eq!(world.net.flows.len(), 0);
}

#[test]
fn long_datagrams_there_and_back() {
    const LEN: usize = 5000;
    let port = servers::udp(servers::local());
    let mut world = World::with_address(UserConfig::default(), false);
    let mut link = link::Link::default();
    let from = (GUEST, 4000).into();
    link.udp_at(link::GATEWAY, from, (HOST, port).into(), &[b'a'; LEN]);
    link.drain(&mut world.guest);
    let mut parts = std::mem::take(&mut world.guest.delivered);
    assert_eq!(parts.len(), 4);
    parts.reverse();
    let mut got = Vec::new();
    for mut part in parts {
        part.bytes[6..12].copy_from_slice(&guest::MAC);
        got.extend(world.answers(part.bytes));
    }
    let (mut fragments, mut whole) = (Fragments::default(), None);
    let begin = Instant::now();
    while whole.is_none() && begin.elapsed() < Duration::from_secs(5) {
        world.net.run(world.now(), &mut world.guest).unwrap();
        got.extend(world.guest.delivered.drain(..).map(|f| f.bytes));
        for bytes in got.drain(..) {
            let part = Ip::parse(&bytes[14..]).unwrap();
            whole = whole.or(fragments.add(&part, world.now()));
        }
    }
    let whole = whole.unwrap();
    let ip = Ip::parse(&whole).unwrap();
    assert!(ip.is_sound());
    assert_eq!(ip.payload()[8..], [b'A'; LEN]);
}

#[test]
fn nobody_at_a_port_is_said() {
    let socket = std::net::UdpSocket::bind(servers::local()).unwrap();
    let port = socket.local_addr().unwrap().port();
    drop(socket);
    let mut world = World::with_address(UserConfig::default(), false);
    assert_eq!(ask(&mut world, (HOST, port).into(), b"x"), None);
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 2048]);
    let mut listener = icmp::Socket::new(buffer(), buffer());
    listener.bind(icmp::Endpoint::Udp(4000.into())).unwrap();
    let handle = world.guest.sockets.add(listener);
    ask(&mut world, (HOST, port).into(), b"x");
    let listener = world.guest.sockets.get_mut::<icmp::Socket>(handle);
    let (bytes, _) = listener.recv().unwrap();
    // Destination unreachable: port.
    assert_eq!(bytes[..2], [3, 3]);
}

#[test]
fn names_are_asked_of_the_hosts_server() {
    let udp = servers::udp(servers::local());
    let resolver = (Ipv4Addr::LOCALHOST, udp).into();
    let config = UserConfig {
        resolver: Some(resolver),
        ..UserConfig::default()
    };
    let mut world = World::with_address(config, false);
    let answer = ask(&mut world, (DNS, 53).into(), b"who?");
    assert_eq!(answer.as_deref(), Some(&b"WHO?"[..]));
    // A question is forgotten sooner than others' datagrams.
    world.pass(Duration::from_secs(16));
    world.step();
    assert_eq!(world.net.flows.len(), 0);
    assert_eq!(ask(&mut world, (DNS, 54).into(), b"who?"), None);
}

#[test]
fn names_are_asked_through_connections_too() {
    let port = servers::tcp(servers::local(), servers::echo);
    let config = UserConfig {
        resolver: Some((Ipv4Addr::LOCALHOST, port).into()),
        ..UserConfig::default()
    };
    let mut world = World::with_address(config, false);
    let handle = world.connect((DNS, 53).into(), 2000);
    world.until(|g| g.sockets.get_mut::<TcpSocket>(handle).may_send());
}

#[test]
fn a_restricted_guest_reaches_nobody() {
    let (tcp, udp) = (
        servers::tcp(servers::local(), servers::echo),
        servers::udp(servers::local()),
    );
    let server = (Ipv4Addr::new(10, 0, 2, 100), 80).into();
    let config = UserConfig {
        restrict: true,
        guest_forwards: vec![GuestForward {
            server,
            target: (Ipv4Addr::LOCALHOST, tcp).into(),
        }],
        ..UserConfig::default()
    };
    let mut world = World::with_address(config, false);
    assert_eq!(ask(&mut world, (HOST, udp).into(), b"x"), None);
    assert_eq!(ping(&mut world, HOST, b"x"), None);
    let handle = world.connect((HOST, tcp).into(), 2000);
    world.until(|g| !g.sockets.get_mut::<TcpSocket>(handle).is_open());
    // But whoever has been named.
    let handle = world.connect(server, 2001);
    world.until(|g| g.sockets.get_mut::<TcpSocket>(handle).may_send());
}

#[test]
fn an_echo_of_somebody_outside() {
    let mut world = World::with_address(UserConfig::default(), false);
    let socket = socket::echo((Ipv4Addr::LOCALHOST, 0).into());
    // 127.0.0.1 is not to be reached, whatever the host lets us have.
    assert_eq!(ping(&mut world, Ipv4Addr::LOCALHOST.into(), b"x"), None);
    if let Ok(socket) = socket {
        // The kernel chooses the identifier, and sends the answer to us.
        socket.send(&[8, 0, 0, 0, 0, 0, 0, 1, b'x']).unwrap();
        let mut answer = [0; 64];
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(1) {
            if let Ok(len) = socket.recv(&mut answer) {
                assert_eq!((answer[0], &answer[6..len]), (0, &[0, 1, b'x'][..]));
                return;
            }
        }
        panic!("no answer from the host");
    }
}
