//! Two ends of datagrams, as two machines have them, and whatever else may come.

use net::{Dgram, DgramConfig, Frame, Guest, Network, SocketConfig};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(Default)]
struct Collector(Vec<Vec<u8>>);

impl Guest for Collector {
    fn has_room(&mut self) -> bool {
        true
    }
    fn deliver(&mut self, frame: &Frame) {
        self.0.push(frame.bytes.clone());
    }
}

fn frame(bytes: &[u8]) -> Frame {
    let bytes = bytes.to_vec();
    Frame {
        bytes,
        ..Frame::default()
    }
}

/// A port that is free, or was just now.
fn free() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.local_addr().expect("an address")
}

fn udp(local: SocketAddr, remote: SocketAddr) -> Dgram {
    Dgram::open(&DgramConfig::Udp { local, remote }).expect("a socket")
}

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("dgram-{}-{name}", std::process::id()))
}

/// Frames until there are `count`.
fn collect(end: &mut dyn Network, count: usize) -> Vec<Vec<u8>> {
    let mut guest = Collector::default();
    let limit = Instant::now() + Duration::from_secs(20);
    while guest.0.len() < count {
        assert!(Instant::now() < limit, "{} frames", guest.0.len());
        end.run(Instant::now(), &mut guest).expect("it runs");
    }
    guest.0
}

#[test]
fn frames_go_both_ways_over_udp() {
    let (a, b) = (free(), free());
    let (mut one, mut other) = (udp(a, b), udp(b, a));
    assert!(one.send(&frame(b"there")));
    assert_eq!(collect(&mut other, 1), [b"there"]);
    assert!(other.send(&frame(b"back")));
    assert_eq!(collect(&mut one, 1), [b"back"]);
}

#[test]
fn a_peer_may_go_and_come_and_say_nothing() {
    let (a, b) = (free(), free());
    let mut one = udp(a, b);
    for _ in 0..50 {
        // The host answers that nobody is there.
        assert!(one.send(&frame(b"lost")));
        let mut guest = Collector::default();
        one.run(Instant::now(), &mut guest).expect("it runs");
    }
    let peer = UdpSocket::bind(b).expect("the peer");
    peer.send_to(b"", a).expect("an empty one");
    peer.send_to(b"x", a).expect("a short one");
    let long = vec![7; 65_507];
    peer.send_to(&long, a).expect("the longest");
    assert_eq!(collect(&mut one, 2), [b"x".to_vec(), long]);
    // Longer than any datagram: lost, and the next one is not.
    assert!(one.send(&frame(&[0; 65_530])));
    assert!(one.send(&frame(b"next")));
    let mut buffer = [0; 16];
    assert_eq!(peer.recv(&mut buffer).ok(), Some(4));
}

#[test]
fn a_group_has_all_who_joined_but_not_oneself() {
    let group = format!("239.192.7.9:{}", free().port())
        .parse()
        .expect("one");
    let interface = Ipv4Addr::LOCALHOST;
    let open = || Dgram::open(&DgramConfig::Multicast { group, interface }).expect("a member");
    let (mut a, mut b, mut c) = (open(), open(), open());
    assert!(a.send(&frame(b"from a")));
    assert_eq!(collect(&mut b, 1), [b"from a"]);
    assert_eq!(collect(&mut c, 1), [b"from a"]);
    assert!(b.send(&frame(b"from b")));
    assert_eq!(collect(&mut a, 1), [b"from b"]);
}

#[test]
fn unix_sockets_hold_the_sender_back_until_it_is_hopeless() {
    let (a, b) = (path("a"), path("b"));
    let open = |local: &PathBuf, remote: &PathBuf| {
        Dgram::open(&DgramConfig::Unix {
            local: local.clone(),
            remote: remote.clone(),
        })
    };
    let mut one = open(&a, &b).expect("one");
    assert!(one.send(&frame(b"nobody is there")));
    let mut other = open(&b, &a).expect("the other");
    assert!(open(&a, &b).is_err(), "it is in use");
    let mut sent = 0;
    while one.send(&frame(&[1; 1500])) {
        sent += 1;
        assert!(sent < 100_000, "nothing holds it back");
    }
    assert!(one.deadline().is_some());
    // The other side takes nothing: in the end frames are lost.
    let limit = Instant::now() + Duration::from_secs(20);
    while !one.send(&frame(&[2; 1500])) {
        assert!(Instant::now() < limit, "it waits for ever");
    }
    assert_eq!(collect(&mut other, sent).len(), sent);
    // Longer than any frame.
    let stray = UnixDatagram::unbound().expect("a socket");
    stray.send_to(&[0; 70_000], &b).expect("it fits a socket");
    stray.send_to(b"short", &b).expect("it fits");
    assert_eq!(collect(&mut other, 1), [b"short"]);
    drop(other);
    assert!(!b.exists());
    drop(one);
}

/// As if whoever started this process had opened it.
fn inherited(file: impl Into<OwnedFd>) -> i32 {
    let file = file.into();
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).expect("its flags");
    file.into_raw_fd()
}

#[test]
fn descriptors_are_what_they_are() {
    let (ours, theirs) = UnixDatagram::pair().expect("a pair");
    let mut end = SocketConfig::Opened(inherited(ours)).open().expect("it");
    theirs.send(b"datagram").expect("sent");
    assert_eq!(collect(&mut *end, 1), [b"datagram"]);
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let mut end = SocketConfig::Opened(inherited(ours)).open().expect("it");
    assert!(end.has_carrier());
    drop(theirs);
    end.run(Instant::now(), &mut Collector::default())
        .expect("it runs");
    assert!(!end.has_carrier(), "the other side has gone");
    let file = std::fs::File::open("/dev/null").expect("it");
    let why = SocketConfig::Opened(inherited(file)).open().err();
    assert!(why.is_some_and(|why| why.ends_with("it is no socket")));
    let why = SocketConfig::Opened(4000).open().err();
    assert_eq!(why.as_deref(), Some("fd=4000: it is not open"));
}
