//! Frames that nobody sends in earnest.

use super::*;
use crate::{Partial, Segments};
use smoltcp::wire::checksum;
use std::net::Ipv6Addr;

/// Frames of a guest that does all it can.
fn samples() -> Vec<Frame> {
    let port = servers::tcp(servers::local(), servers::echo);
    let mut frames = Vec::new();
    let mut collect = |world: &mut World, job: &mut dyn FnMut(&mut World)| {
        world.guest.record = true;
        job(world);
        frames.append(&mut world.guest.recorded);
    };
    for long in [false, true] {
        let mut world = World::with_address(UserConfig::default(), long);
        collect(&mut world, &mut |world| {
            let handle = world.connect((HOST, port).into(), 1000);
            let mut left = 20_000;
            world.until(|guest| {
                let socket = guest.sockets.get_mut::<TcpSocket>(handle);
                if socket.can_send() && left > 0 {
                    left -= socket.send_slice(&vec![1; left]).unwrap();
                }
                while socket.can_recv() {
                    socket.recv(|b| (b.len(), ())).unwrap();
                }
                if left == 0 {
                    socket.close();
                }
                !socket.is_open()
            });
        });
    }
    let mut world = World::new(UserConfig::default(), false);
    let dhcp = smoltcp::socket::dhcpv4::Socket::new();
    world.guest.sockets.add(dhcp);
    collect(&mut world, &mut |world| world.wait(Duration::from_secs(1)));
    let any = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    let host = UserConfig::default().ipv6_host;
    let solicitation = [&[0; 4][..], &host.octets()].concat();
    let plain = [
        names::who_has([10, 0, 2, 2], GUEST.octets()),
        names::dhcp(&[0x63, 0x82, 0x53, 0x63, 53, 1, 3, 50, 4, 10, 0, 2, 15, 255]),
        names::dhcp(&[0; 64]),
        six::message(any, 133, &[0; 4]),
        six::message(host, 128, &[1; 60]),
        six::message(host, 135, &solicitation),
    ];
    frames.extend(plain.into_iter().map(|bytes| Frame {
        bytes,
        offload: Offload::default(),
    }));
    frames
}

/// `frame` with a few bytes changed, cut off or repeated, and lies about the rest.
pub(super) fn mutate(random: &mut Random, frame: &Frame) -> Frame {
    let mut frame = frame.clone();
    for _ in 0..random.below(4) {
        let len = frame.bytes.len() as u32;
        if len == 0 {
            break;
        }
        // Mostly headers.
        let end = if random.below(4) == 0 {
            len
        } else {
            len.min(80)
        };
        let at = random.below(end) as usize;
        match random.below(6) {
            0 => frame.bytes[at] = random.next() as u8,
            1 => frame.bytes[at] ^= 1 << random.below(8),
            2 => frame.bytes[at] = [0, 0xff, 0x7f, 0x80][random.below(4) as usize],
            3 => frame.bytes.truncate(at),
            4 => frame.bytes.extend_from_within(at..),
            _ => frame.bytes[at] = frame.bytes[at].wrapping_add(1),
        }
        frame.bytes.truncate(70_000);
    }
    // Sums that are wrong get nobody far.
    if random.below(8) != 0 {
        sum_up(&mut frame.bytes);
    }
    frame.offload.verified = random.below(8) != 0;
    if random.below(8) == 0 {
        frame.offload.checksum = Some(Partial {
            start: random.next() as u16,
            offset: random.next() as u16,
        });
        frame.offload.segments = Some(Segments {
            kind: SegmentKind::TcpV6,
            ecn: true,
            header_len: random.next() as u16,
            size: random.next() as u16,
        });
    }
    frame
}

/// Corrects the checksum of an IPv4 header.
fn sum_up(bytes: &mut [u8]) {
    let len = bytes.get(14).map_or(0, |b| usize::from(b & 15) * 4);
    let Some(header) = bytes.get_mut(14..14 + len) else {
        return;
    };
    if len >= 20 {
        header[10..12].fill(0);
        let sum = !checksum::data(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// A guest that looks at nothing.
struct Sink(usize);

impl Guest for Sink {
    fn has_room(&mut self) -> bool {
        true
    }

    fn deliver(&mut self, frame: &Frame) {
        self.0 += frame.bytes.len();
    }
}

/// What the network keeps is no more than it may be.
fn look(net: &UserNet) {
    assert!(net.connections.len() <= 300);
    assert!(net.flows.len() <= 300);
    let (frames, neighbours) = net.shared.link.held();
    assert!(frames <= 200 && neighbours <= 256, "{frames} {neighbours}");
    assert!(net.shared.schedule.len() <= 600);
}

/// Sends `count` frames, most of which are wrong; connections lead to a server on the
/// loopback interface if they lead anywhere.
fn storm(config: UserConfig, count: u32, seed: u64) {
    let samples = samples();
    assert!(samples.len() > 25, "{}", samples.len());
    let mut world = World::new(config, true);
    let mut random = Random(seed);
    let mut sink = Sink(0);
    for n in 0..count {
        let at = random.below(samples.len() as u32) as usize;
        // Whole exchanges, now and then.
        let sample = &samples[(at + n as usize) % samples.len()];
        let frame = mutate(&mut random, sample);
        world.net.send(&frame);
        if random.below(4) == 0 {
            world.net.run(world.now(), &mut sink).unwrap();
        }
        world.pass(Duration::from_micros(500));
    }
    assert!(sink.0 > 0);
    look(&world.net);
}

#[test]
fn a_storm_of_frames_in_a_restricted_network() {
    let config = UserConfig {
        restrict: true,
        ..UserConfig::default()
    };
    storm(config, 100_000, 1);
}

/// Broken copies of what a guest sends on connections, most of which come to nothing.
/// A mutation may make up addresses outside, where nobody is to be bothered: so the
/// only way out is a forward.
#[test]
fn a_storm_of_segments() {
    let target = servers::tcp(servers::local(), servers::echo);
    let server = (Ipv4Addr::new(10, 0, 2, 100), 80).into();
    for long in [false, true] {
        let config = UserConfig {
            restrict: true,
            guest_forwards: vec![GuestForward {
                server,
                target: (Ipv4Addr::LOCALHOST, target).into(),
            }],
            ..UserConfig::default()
        };
        let mut world = World::with_address(config, long);
        world.weather.broken = 300;
        for port in 1000..1100 {
            let handle = world.connect(server, port);
            bother(&mut world, handle);
            world.guest.sockets.remove(handle);
        }
        look(&world.net);
    }
}

/// Uses a connection while it lasts, or for a while.
fn bother(world: &mut World, handle: SocketHandle) {
    let mut left = 100_000;
    for _ in 0..100 {
        let busy = world.step();
        let socket = world.guest.sockets.get_mut::<TcpSocket>(handle);
        if socket.can_send() && left > 0 {
            left -= socket.send_slice(&vec![1; left]).unwrap();
        }
        while socket.can_recv() {
            socket.recv(|b| (b.len(), ())).unwrap();
        }
        if left == 0 {
            socket.close();
        }
        if !socket.is_open() {
            return;
        }
        if !busy {
            world.pass(IDLE);
        }
    }
}
