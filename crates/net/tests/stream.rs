//! Two ends of a stream, as two machines have them.

use net::{Frame, Guest, Network, Stream, StreamAddress, StreamConfig};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A path that nobody else uses.
fn path(name: &str) -> PathBuf {
    let file = format!("stream-{}-{name}", std::process::id());
    std::env::temp_dir().join(file)
}

fn open(path: &Path, server: bool, reconnect: Option<Duration>) -> Stream {
    let config = StreamConfig {
        address: StreamAddress::Unix(path.into()),
        server,
        reconnect,
    };
    Stream::open(config).expect("an end")
}

#[derive(Default)]
struct Collector {
    frames: Vec<Frame>,
    full: bool,
}

impl Guest for Collector {
    fn has_room(&mut self) -> bool {
        !self.full
    }
    fn deliver(&mut self, frame: &Frame) {
        self.frames.push(frame.clone());
    }
}

fn frame(number: u32, length: usize) -> Frame {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(length.max(4), number as u8);
    Frame {
        bytes,
        ..Frame::default()
    }
}

/// Runs `end` until `guest` has `count` frames.
fn collect(end: &mut Stream, guest: &mut Collector, count: usize, mut meanwhile: impl FnMut()) {
    let limit = Instant::now() + Duration::from_secs(20);
    while guest.frames.len() < count {
        assert!(Instant::now() < limit, "{} frames", guest.frames.len());
        end.run(Instant::now(), guest).expect("it runs");
        meanwhile();
    }
}

#[test]
fn frames_arrive_whole_and_in_order() {
    const COUNT: u32 = 5000;
    let path = path("order");
    let (mut server, mut client) = (open(&path, true, None), open(&path, false, None));
    let (mut here, mut nobody) = (Collector::default(), Collector::default());
    let mut next = 0;
    let length = |n: u32| 60 + (n as usize * 7919) % 60_000;
    collect(&mut server, &mut here, COUNT as usize, || {
        while next < COUNT && client.send(&frame(next, length(next))) {
            next += 1;
        }
        client.run(Instant::now(), &mut nobody).expect("it runs");
    });
    for (n, got) in (0..).zip(&here.frames) {
        assert_eq!(*got, frame(n, length(n)), "frame {n}");
    }
    assert!(server.send(&frame(7, 100)));
    collect(&mut client, &mut nobody, 1, || {});
    assert_eq!(nobody.frames, [frame(7, 100)]);
}

#[test]
fn a_guest_without_room_slows_the_other_side() {
    let path = path("room");
    let (mut server, mut client) = (open(&path, true, None), open(&path, false, None));
    let mut full = Collector {
        full: true,
        ..Collector::default()
    };
    let mut sent = 0;
    for _ in 0..100 {
        server.run(Instant::now(), &mut full).expect("it runs");
        while sent < 10_000 && client.send(&frame(sent, 1500)) {
            sent += 1;
        }
        client.run(Instant::now(), &mut full).expect("it runs");
    }
    assert!(sent < 10_000, "nothing held it back");
    assert!(full.frames.is_empty());
    assert!(server.deadline().is_none(), "it would run for nothing");
}

#[test]
fn whoever_comes_after_is_welcome() {
    let path = path("again");
    let mut server = open(&path, true, None);
    let mut guest = Collector::default();
    for n in 0..3 {
        let mut client = UnixStream::connect(&path).expect("it listens");
        let frame = frame(n, 64);
        let length = 64u32.to_be_bytes();
        client.write_all(&length).expect("a length");
        client.write_all(&frame.bytes).expect("a frame");
        collect(&mut server, &mut guest, n as usize + 1, || {});
        assert_eq!(guest.frames.last(), Some(&frame));
    }
}

#[test]
fn nonsense_costs_the_connection_only() {
    let path = path("nonsense");
    let mut server = open(&path, true, None);
    let mut guest = Collector::default();
    let mut client = UnixStream::connect(&path).expect("it listens");
    client.write_all(&[0xff; 4096]).expect("nonsense");
    client
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a limit");
    let limit = Instant::now() + Duration::from_secs(10);
    client.set_nonblocking(true).expect("no waiting");
    while !matches!(client.read(&mut [0; 16]), Ok(0)) {
        assert!(Instant::now() < limit, "the connection is still there");
        server.run(Instant::now(), &mut guest).expect("it runs");
    }
    let mut client = open(&path, false, None);
    assert!(client.send(&frame(1, 64)));
    collect(&mut server, &mut guest, 1, || {});
}

#[test]
fn a_client_comes_back_if_it_may() {
    let path = path("back");
    let pause = Duration::from_millis(10);
    let refused = Stream::open(StreamConfig {
        address: StreamAddress::Unix(path.clone()),
        server: false,
        reconnect: None,
    });
    let why = refused.expect_err("nobody is there");
    assert!(
        why.contains("stream-") && why.contains("No such file"),
        "{why}"
    );
    let mut client = open(&path, false, Some(pause));
    let (mut here, mut there) = (Collector::default(), Collector::default());
    for n in 0..2 {
        let mut server = open(&path, true, None);
        // The first ones may go to a server that is no more.
        collect(&mut server, &mut there, n + 1, || {
            client.run(Instant::now(), &mut here).expect("it runs");
            client.send(&frame(n as u32, 64));
        });
        there.frames.truncate(n + 1);
        assert_eq!(there.frames[n], frame(n as u32, 64));
    }
}

#[test]
fn a_socket_that_is_in_use_is_left_alone() {
    let path = path("used");
    let _server = open(&path, true, None);
    let second = Stream::open(StreamConfig {
        address: StreamAddress::Unix(path.clone()),
        server: true,
        reconnect: None,
    });
    let why = second.expect_err("there is one");
    assert!(why.contains("in use"), "{why}");
    assert!(UnixStream::connect(&path).is_ok());
}
