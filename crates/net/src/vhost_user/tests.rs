//! Back ends that mean harm.

use super::pair::{BYTES, Pair};
use super::ring::{AVAILABLE, BYTES as RING_BYTES, Memory, USED};
use super::session::BASE;
use super::*;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::{UnixListener, UnixStream};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const VERSION_1: u64 = 1 << 32;

/// What opening says when a back end does `act` with the connection.
fn meet(name: &str, act: impl FnOnce(UnixStream) + Send + 'static) -> Result<usize, String> {
    let file = format!("vhost-user-hostile-{}-{name}", std::process::id());
    let path = std::env::temp_dir().join(file);
    let listener = UnixListener::bind(&path).expect("a socket");
    let back = std::thread::spawn(move || act(listener.accept().expect("a connection").0));
    let opened = VhostUser::open(&VhostUserConfig {
        chardev: "c".into(),
        path: path.clone(),
        queues: 2,
    });
    let opened = opened.map(|pairs| pairs.len());
    back.join().expect("it has done its worst");
    std::fs::remove_file(path).expect("the socket");
    opened
}

/// A message: kind, flags, length that it claims, and payload.
fn message(words: [u32; 3], payload: &[u8]) -> Vec<u8> {
    let header = words.into_iter().flat_map(u32::to_le_bytes);
    header.chain(payload.iter().copied()).collect()
}

/// Reads a question and says something.
fn say(stream: &mut UnixStream, bytes: &[u8]) {
    stream.read_exact(&mut [0; 12]).expect("a question");
    // Whoever asked may have gone.
    let _ = stream.write_all(bytes);
}

#[test]
fn answers_that_are_none_are_refused() {
    let plenty = u64::MAX.to_le_bytes();
    let cases: [(&str, Vec<u8>, &str); 9] = [
        ("garbage", vec![0xa5; 64], "is none"),
        ("nothing", vec![], "it has gone"),
        ("cut", message([1, 5, 8], &[1, 2, 3]), "it has gone"),
        ("question", message([1, 1, 8], &plenty), "is none"),
        ("version", message([1, 6, 8], &plenty), "is none"),
        ("other", message([2, 5, 8], &plenty), "is none"),
        ("short", message([1, 5, 4], &plenty), "is none"),
        ("long", message([1, 5, u32::MAX], &plenty), "is none"),
        ("old", message([1, 5, 8], &[0; 8]), "no virtio 1"),
    ];
    for (name, bytes, named) in cases {
        let why = meet(name, move |mut stream| say(&mut stream, &bytes)).expect_err(name);
        assert!(why.contains(named), "{name}: {why}");
    }
}

#[test]
fn one_that_says_nothing_or_little_is_not_waited_for() {
    let begin = Instant::now();
    let why = meet("silent", |mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    assert!(why.expect_err("silent").contains("does not answer"));
    let why = meet("slow", |mut stream| {
        // A byte now and then, until the other side has gone.
        while stream.write_all(&[1]).is_ok() {
            std::thread::sleep(Duration::from_millis(300));
        }
    });
    assert!(why.expect_err("slow").contains("does not answer"));
    assert!(begin.elapsed() < Duration::from_secs(20));
}

#[test]
fn descriptors_that_come_along_are_closed() {
    let open = || std::fs::read_dir("/proc/self/fd").map(Iterator::count);
    let before = open().expect("procfs");
    for i in 0..100 {
        let name = format!("gift-{i}");
        let why = meet(&name, |mut stream| {
            stream.read_exact(&mut [0; 12]).expect("a question");
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let gifts = [stream.as_fd(); 8];
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&gifts)));
            let bytes = message([1, 5, 8], &[0; 8]);
            let bytes = [IoSlice::new(&bytes)];
            sendmsg(&stream, &bytes, &mut ancillary, SendFlags::NOSIGNAL).expect("sent");
        });
        assert!(why.expect_err("it is old").contains("no virtio 1"));
    }
    // Other tests open some, too, but not hundreds.
    let after = open().expect("procfs");
    assert!(after < before + 100, "{before} descriptors, then {after}");
}

#[test]
fn one_with_too_few_queues_is_refused() {
    let one = message([1, 5, 8], &VERSION_1.to_le_bytes());
    let why = meet("few", move |mut stream| say(&mut stream, &one));
    assert!(why.expect_err("few").contains("queues=2"));
}

/// Counts what it gets.
struct Guest(usize);

impl crate::Guest for Guest {
    fn has_room(&mut self) -> bool {
        true
    }
    fn deliver(&mut self, frame: &Frame) {
        let fits = |partial: crate::Partial| partial.fits(frame.bytes.len());
        assert!(frame.offload.checksum.is_none_or(fits));
        self.0 += 1;
    }
}

fn pair() -> (Pair, Memory) {
    let ranges = [(GuestAddress(BASE), BYTES as usize)];
    let memory = Arc::new(GuestMemoryMmap::from_ranges(&ranges).expect("memory"));
    let mut pair = Pair::new(0, memory.clone()).expect("a pair");
    pair.reset().expect("it is there");
    (pair, memory)
}

/// Numbers that look like none.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
    *state >> 24
}

#[test]
fn rings_that_anything_is_written_to_do_no_harm() {
    let (mut pair, memory) = pair();
    let mut state = 7;
    let mut refused = 0;
    let mut guest = Guest(0);
    let frame = Frame {
        bytes: vec![0; 100],
        ..Frame::default()
    };
    for _ in 0..20_000 {
        let ring = BASE + RING_BYTES * (random(&mut state) % 2);
        let put = |at: u64, value: u64, n: usize| {
            let bytes = value.to_le_bytes();
            memory
                .write_slice(&bytes[..n], GuestAddress(at))
                .expect("inside");
        };
        let r = random(&mut state);
        match random(&mut state) % 4 {
            // Anything anywhere.
            0 => put(ring + r % (RING_BYTES - 8), random(&mut state), 8),
            // A buffer comes back, with a length that may be.
            1 => put(
                ring + USED + 4 + 8 * (r % 128),
                (r % 130) | (((r >> 8) % 0x12000) << 32),
                8,
            ),
            2 => put(ring + USED + 2, r, 2),
            _ => put(ring + AVAILABLE + 2, r, 2),
        }
        let received = pair.receive(&mut guest).map(drop);
        let sent = pair.send(&frame).map(drop);
        if received.and(sent).is_err() {
            refused += 1;
            pair.reset().expect("begun anew");
        }
    }
    assert!(refused > 100, "{refused}");
    assert!(guest.0 > 0, "some were frames");
}

#[test]
fn what_is_longer_than_its_buffer_is_no_frame() {
    let (mut pair, memory) = pair();
    let mut guest = Guest(0);
    let mut give = |slot: u16, len: u32| {
        let at = GuestAddress(BASE + USED + 4 + 8 * u64::from(slot));
        let entry = u64::from(len) << 32 | u64::from(slot);
        memory.write_obj(entry, at).expect("inside");
        let index = GuestAddress(BASE + USED + 2);
        memory.write_obj(slot + 1, index).expect("inside");
        pair.receive(&mut guest).expect("sound");
        guest.0
    };
    let came = [0, 11, 12 + 60, 0x1_1000, 0x1_1001, u32::MAX];
    let came: Vec<usize> = (0..).zip(came).map(|(slot, len)| give(slot, len)).collect();
    assert_eq!(came, [0, 0, 1, 2, 2, 2]);
}
