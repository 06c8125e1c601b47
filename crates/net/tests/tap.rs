//! A tap device in a network namespace of its own, with the host's kernel as the
//! other side.

use net::{Accepts, Frame, Guest, Network, Tap, TapConfig};
use std::process::Command;
use std::time::{Duration, Instant};

const INSIDE: &str = "TAP_TEST_INSIDE";
const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

/// Runs the test `name` of this program once more, in a network namespace where it
/// is root; true if this is that run.
fn inside(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let this = std::env::current_exe().expect("this program's path");
    let status = Command::new("unshare")
        .args(["--map-root-user", "--net"])
        .arg(this)
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .status();
    assert!(
        status.expect("unshare").success(),
        "{name} in its namespace"
    );
    false
}

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status();
    assert!(status.expect("ip").success(), "ip {words}");
}

fn one(config: &TapConfig) -> Tap {
    let mut taps = Tap::open(config).expect("a tap device");
    taps.pop().expect("it has a queue")
}

fn open(name: &str) -> Tap {
    let config = TapConfig {
        name: Some(name.into()),
        ..TapConfig::default()
    };
    one(&config)
}

/// Keeps what it gets.
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

/// Runs the network until it has given a frame of which `wanted` holds.
fn expect(tap: &mut Tap, wanted: impl Fn(&[u8]) -> bool) -> Frame {
    let end = Instant::now() + Duration::from_secs(10);
    let mut guest = Collector::default();
    while Instant::now() < end {
        tap.run(Instant::now(), &mut guest).expect("it runs");
        if let Some(frame) = guest.frames.drain(..).find(|f| wanted(&f.bytes)) {
            return frame;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("no such frame");
}

/// Who has 10.9.0.1? Tell 10.9.0.2.
fn question() -> Frame {
    let mut bytes = [[0xff; 6], MAC].concat();
    bytes.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    bytes.extend(MAC);
    bytes.extend([10, 9, 0, 2, 0, 0, 0, 0, 0, 0, 10, 9, 0, 1]);
    Frame {
        bytes,
        ..Frame::default()
    }
}

fn is_answer(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAC) && bytes.get(12..14) == Some(&[8, 6]) && bytes.get(21) == Some(&2)
}

#[test]
fn the_hosts_kernel_answers() {
    if !inside("the_hosts_kernel_answers") {
        return;
    }
    let mut tap = open("guest0");
    assert_eq!(tap.name(), "guest0");
    tap.accepts(Accepts::ALL);
    ip("addr add 10.9.0.1/24 dev guest0");
    ip("link set guest0 up");
    assert!(tap.send(&question()));
    let answer = expect(&mut tap, is_answer);
    assert_eq!(answer.bytes[28..32], [10, 9, 0, 1]);
}

#[test]
fn a_guest_without_room_is_left_alone() {
    if !inside("a_guest_without_room_is_left_alone") {
        return;
    }
    let mut tap = open("guest0");
    ip("addr add 10.9.0.1/24 dev guest0");
    ip("link set guest0 up");
    assert!(tap.send(&question()));
    let mut full = Collector {
        full: true,
        ..Collector::default()
    };
    let mut readable = || {
        let fd = rustix::event::PollFd::from_borrowed_fd(tap.fd(), rustix::event::PollFlags::IN);
        let wait = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        };
        let found = rustix::event::poll(&mut [fd], Some(&wait)).expect("poll") > 0;
        tap.run(Instant::now(), &mut full).expect("it runs");
        found
    };
    assert!(readable(), "there is an answer");
    assert!(!readable(), "nobody is woken for what there is no room for");
    assert!(full.frames.is_empty());
    expect(&mut tap, is_answer);
}

#[test]
fn names_and_owners_are_looked_at() {
    if !inside("names_and_owners_are_looked_at") {
        return;
    }
    let refused = |name: &str| {
        let config = TapConfig {
            name: Some(name.into()),
            ..TapConfig::default()
        };
        Tap::open(&config).expect_err("it is refused")
    };
    assert!(refused("a-name-that-is-too-long").contains("1 to 15 characters"));
    assert!(refused("").contains("1 to 15 characters"));
    assert!(refused("lo").contains("no tap device"), "{}", refused("lo"));
    let _held = open("guest0");
    assert!(
        refused("guest0").contains("in use"),
        "{}",
        refused("guest0")
    );
    let chosen = one(&TapConfig::default());
    assert!(chosen.name().starts_with("tap"), "{}", chosen.name());
}

#[test]
fn scripts_run_before_and_after() {
    if !inside("scripts_run_before_and_after") {
        return;
    }
    let folder = std::env::temp_dir().join(format!("tap-scripts-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let script = folder.join("up");
    let text = format!("#!/bin/sh\necho \"$1\" >> {}/log\n", folder.display());
    std::fs::write(&script, text).expect("a script");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).expect("its mode");
    let config = TapConfig {
        name: Some("guest7".into()),
        up: Some(script.clone()),
        down: Some(script),
        ..TapConfig::default()
    };
    drop(one(&config));
    let log = std::fs::read_to_string(folder.join("log")).expect("what the scripts said");
    assert_eq!(log, "guest7\nguest7\n");
    std::fs::remove_dir_all(&folder).expect("the folder");
}

/// Runs a queue once: how many frames of UDP to port 9 it gave.
fn came(tap: &mut Tap) -> usize {
    let mut guest = Collector::default();
    tap.run(Instant::now(), &mut guest).expect("it runs");
    let ours = |f: &&Frame| f.bytes.get(36..38) == Some(&[0, 9]);
    guest.frames.iter().filter(ours).count()
}

/// Sends a datagram from a port of the host's to the guest that is not there.
fn host_sends(port: u16) {
    let socket = std::net::UdpSocket::bind(("10.9.0.1", port)).expect("a socket");
    socket.send_to(b"hello", "10.9.0.2:9").expect("it is sent");
}

#[test]
fn a_queue_that_is_off_leaves_the_frames_to_others() {
    if !inside("a_queue_that_is_off_leaves_the_frames_to_others") {
        return;
    }
    let config = TapConfig {
        name: Some("guest0".into()),
        queues: 3,
        ..TapConfig::default()
    };
    let mut taps = Tap::open(&config).expect("three queues");
    ip("addr add 10.9.0.1/24 dev guest0");
    ip("link set guest0 up");
    ip("neigh add 10.9.0.2 lladdr 52:54:00:12:34:56 dev guest0");
    let round = |taps: &mut [Tap]| -> Vec<usize> {
        (7000..7064).for_each(host_sends);
        taps.iter_mut().map(came).collect()
    };
    let all = round(&mut taps);
    assert_eq!(all.iter().sum::<usize>(), 64, "{all:?}");
    assert!(all.iter().filter(|n| **n > 0).count() > 1, "{all:?}");
    for tap in &mut taps[1..] {
        tap.enable(false).expect("off");
        tap.enable(false).expect("still off");
        // It is the interface's matter and not this queue's.
        tap.accepts(Accepts::ALL);
    }
    (7000..7064).for_each(host_sends);
    assert_eq!(came(&mut taps[0]), 64);
    taps[1].enable(true).expect("on");
    let some = round(&mut taps[..2]);
    assert_eq!(some.iter().sum::<usize>(), 64, "{some:?}");
    assert!(some.iter().all(|n| *n > 0), "{some:?}");
}

#[test]
fn queues_that_are_none_are_refused() {
    if !inside("queues_that_are_none_are_refused") {
        return;
    }
    let refused = |config: TapConfig| Tap::open(&config).expect_err("it is refused");
    ip("tuntap add dev single mode tap");
    ip("tuntap add dev several mode tap multi_queue");
    let named = |name: &str, queues| TapConfig {
        name: Some(name.into()),
        queues,
        ..TapConfig::default()
    };
    let why = refused(named("single", 2));
    assert!(why.contains("multi_queue"), "{why}");
    let why = refused(named("several", 1));
    assert!(why.contains("queues="), "{why}");
    assert_eq!(Tap::open(&named("several", 2)).map(|t| t.len()), Ok(2));
    let why = refused(named("several", 257));
    assert!(why.contains("no more queues"), "{why}");
    let adopted = |opened: &[i32]| TapConfig {
        opened: opened.to_vec(),
        queues: opened.len() as u16,
        ..TapConfig::default()
    };
    let why = refused(adopted(&[99]));
    assert!(why.contains("fd=99: it is not open"), "{why}");
}
