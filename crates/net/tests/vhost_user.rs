//! The front end in front of a back end that is not ours.

#[path = "../examples/vhost_user.rs"]
mod back_end;

use net::{Accepts, Frame, Guest, Network, VhostUser, VhostUserConfig};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

fn path(name: &str) -> PathBuf {
    let file = format!("vhost-user-{}-{name}", std::process::id());
    std::env::temp_dir().join(file)
}

/// A back end on a thread of its own, which listens already.
fn start(path: &Path, pairs: usize) -> std::thread::JoinHandle<()> {
    let at = path.to_path_buf();
    let thread = std::thread::spawn(move || back_end::serve(&at, pairs).expect("it serves"));
    let end = Instant::now() + PATIENCE;
    while !path.exists() {
        assert!(Instant::now() < end, "it does not listen");
        std::thread::sleep(Duration::from_millis(1));
    }
    thread
}

fn open(path: &Path, queues: u16) -> Result<Vec<VhostUser>, String> {
    VhostUser::open(&VhostUserConfig {
        chardev: "c".into(),
        path: path.into(),
        queues,
    })
}

#[derive(Default)]
struct Collector(Vec<Frame>);

impl Guest for Collector {
    fn has_room(&mut self) -> bool {
        true
    }
    fn deliver(&mut self, frame: &Frame) {
        self.0.push(frame.clone());
    }
}

/// Runs the pair as an adapter does until so many frames have come.
fn expect(pair: &mut VhostUser, count: usize) -> Vec<Frame> {
    let end = Instant::now() + PATIENCE;
    let mut guest = Collector::default();
    while guest.0.len() < count {
        assert!(
            Instant::now() < end,
            "{} of {count} frames came",
            guest.0.len()
        );
        wait(pair);
        pair.run(Instant::now(), &mut guest).expect("it runs");
    }
    guest.0
}

fn wait(pair: &VhostUser) {
    let fd = rustix::event::PollFd::from_borrowed_fd(pair.fd(), rustix::event::PollFlags::IN);
    let some = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 100_000_000,
    };
    rustix::event::poll(&mut [fd], Some(&some)).expect("poll");
}

/// Who has 10.0.0.`last`?
fn question(last: u8) -> Frame {
    let mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
    let mut bytes = [[0xff; 6], mac].concat();
    bytes.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    bytes.extend(mac);
    bytes.extend([10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0, 0, last]);
    Frame {
        bytes,
        ..Frame::default()
    }
}

/// Asks `count` times and looks at the answers.
fn ask(pair: &mut VhostUser, count: usize) {
    let mut asked = 0;
    let mut answers = Vec::new();
    while answers.len() < count {
        while asked < count && pair.send(&question(asked as u8)) {
            asked += 1;
        }
        answers.extend(expect(pair, 1));
    }
    for (i, answer) in answers.iter().enumerate() {
        assert_eq!(answer.bytes[21], 2, "it is an answer");
        assert_eq!(answer.bytes[28..32], [10, 0, 0, i as u8]);
    }
}

#[test]
fn a_real_back_end_answers() {
    let path = path("answers");
    let back = start(&path, 1);
    let mut pairs = open(&path, 1).expect("it connects");
    let pair = &mut pairs[0];
    pair.accepts(Accepts::ALL);
    // More than there are buffers, so that all of them come back.
    ask(pair, 1000);
    // The guest changes its mind about what it accepts: everything begins anew.
    pair.accepts(Accepts::default());
    ask(pair, 100);
    assert!(pair.has_carrier());
    drop(pairs);
    back.join().expect("it ends with the machine");
}

#[test]
fn each_pair_has_its_answers() {
    let path = path("pairs");
    let back = start(&path, 3);
    let mut pairs = open(&path, 3).expect("it connects");
    for pair in &mut pairs {
        pair.accepts(Accepts::ALL);
    }
    pairs[2].enable(false).expect("off");
    ask(&mut pairs[1], 10);
    ask(&mut pairs[0], 10);
    pairs[2].enable(true).expect("on");
    ask(&mut pairs[2], 10);
    drop(pairs);
    back.join().expect("it ends with the machine");
}

#[test]
fn another_back_end_goes_on_where_one_has_gone() {
    let path = path("again");
    // The first one greets and goes.
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    let first = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.read_exact(&mut [0; 12]).expect("a question");
        let words = [1u32, 5, 8, 0, 1];
        let answer: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        stream.write_all(&answer).expect("it is sent");
        stream.read_exact(&mut [0; 12]).expect("its owner");
    });
    let mut pairs = open(&path, 1).expect("it connects");
    first.join().expect("it goes");
    let pair = &mut pairs[0];
    pair.accepts(Accepts::ALL);
    let mut nobody = Collector::default();
    let end = Instant::now() + PATIENCE;
    while pair.has_carrier() {
        assert!(Instant::now() < end, "it has not noticed");
        pair.run(Instant::now(), &mut nobody).expect("it runs");
    }
    assert!(pair.send(&question(1)), "it is lost, and does not wait");
    std::fs::remove_file(&path).expect("the socket");
    let back = start(&path, 1);
    while !pair.has_carrier() {
        assert!(Instant::now() < end, "it has not connected again");
        wait(pair);
        pair.run(Instant::now(), &mut nobody).expect("it runs");
    }
    ask(pair, 10);
    drop(pairs);
    back.join().expect("it ends with the machine");
}

#[test]
fn who_is_not_there_is_named() {
    let why = open(&path("nobody"), 1).expect_err("nobody listens");
    assert!(why.contains("has to listen there"), "{why}");
    let path = path("few");
    let back = start(&path, 1);
    let why = open(&path, 200).expect_err("it has fewer");
    assert!(why.contains("queues=200"), "{why}");
    back.join().expect("it ends with the machine");
}
