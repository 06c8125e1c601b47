//! Descriptor chains and headers that no driver of Linux would send.

use super::guest::{ANSWER, ANSWER_LEN, Body, Guest, REQUEST_HEADER, op};
use crate::testing::{BUFFERS, DESCRIPTORS, NEXT, WRITE};
use vm_memory::{Bytes, GuestAddress};

const NEEDS_RESET: u64 = 0x40;
/// Bytes of the rig's memory from 0, and of a hole behind it.
const MEMORY: u32 = 1 << 20;

/// Address, length and flags of each.
type Descriptors<'a> = &'a [(u64, u32, u16)];

/// The device wants a reset, and works again after it.
fn breaks(what: &str, offer: impl FnOnce(&Guest)) {
    let guest = Guest::new();
    guest.request(op::GETATTR, 1, &Body::new().long(0).long(0));
    offer(&guest);
    guest.rig.wait_vector(0);
    assert_ne!(guest.rig.status() & NEEDS_RESET, 0, "{what}");
    guest.rig.set_status(0);
    guest.mount();
    assert_eq!(guest.lookup(1, "none"), Err(libc::ENOENT), "{what}");
}

#[test]
fn chains_against_the_rules_ask_for_a_reset() {
    let answer = (ANSWER, ANSWER_LEN, WRITE);
    let request = (BUFFERS, 56, 0);
    let cases: [(&str, Descriptors<'_>); 6] = [
        ("outside", &[(u64::from(MEMORY), 56, 0), answer]),
        ("across the end", &[(u64::from(MEMORY) - 8, 56, 0), answer]),
        ("answer outside", &[request, (u64::MAX - 15, 64, WRITE)]),
        ("readable behind writable", &[request, answer, request]),
        ("huge request", &[(0, MEMORY, 0); 3]),
        ("huge answer", &[(0, MEMORY, WRITE); 3]),
    ];
    for (what, chain) in cases {
        breaks(what, |guest| guest.rig.submit(chain));
    }
    breaks("loop", |guest| {
        // The second one's next is the first.
        guest.rig.descriptor(DESCRIPTORS, 0, (BUFFERS, 8, NEXT));
        guest.rig.descriptor(DESCRIPTORS, 1, (BUFFERS, 8, NEXT));
        let next = GuestAddress(DESCRIPTORS + 16 + 14);
        guest.rig.memory.write_obj(0u16, next).unwrap();
        guest.rig.offer(0);
    });
    breaks("head outside the table", |guest| guest.rig.offer(100));
}

/// What has no header or no room for an answer is given back empty, what is
/// shorter than it should be is refused; the next one is served.
#[test]
fn requests_that_are_too_short_are_given_back() {
    let guest = Guest::new();
    let getattr = Body::new().long(0).long(0);
    let whole = guest.request(op::GETATTR, 1, &getattr);
    let answer = (ANSWER, ANSWER_LEN, WRITE);
    let header = REQUEST_HEADER as u32;
    let cases: [(&str, u32, Descriptors<'_>); 6] = [
        ("nothing to read", 0, &[answer]),
        ("a byte", 0, &[(BUFFERS, 1, 0), answer]),
        ("most of a header", 0, &[(BUFFERS, header - 1, 0), answer]),
        ("a header", 16, &[(BUFFERS, header, 0), answer]),
        ("no room", 0, &[(BUFFERS, whole, 0)]),
        (
            "little room",
            0,
            &[(BUFFERS, whole, 0), (ANSWER, 15, WRITE)],
        ),
    ];
    for (what, used, chain) in cases {
        assert_eq!(guest.rig.serve(chain), used, "{what}");
    }
    assert!(guest.call(op::GETATTR, 1, getattr).is_ok());
}

/// A header in pieces of one byte is a header.
#[test]
fn a_request_may_come_in_pieces() {
    let guest = Guest::new();
    let len = guest.request(op::LOOKUP, 1, &Body::new().name("x"));
    let mut chain: Vec<_> = (0..5).map(|i| (BUFFERS + i, 1, 0)).collect();
    chain.push((BUFFERS + 5, len - 5, 0));
    chain.push((ANSWER, 3, WRITE));
    chain.push((ANSWER + 3, 13, WRITE));
    assert_eq!(guest.rig.serve(&chain), 16);
    let error: i32 = guest.rig.memory.read_obj(GuestAddress(ANSWER + 4)).unwrap();
    assert_eq!(error, -libc::ENOENT);
}

#[test]
fn lengths_in_headers_are_not_believed() {
    let guest = Guest::new();
    let len = guest.request(op::LOOKUP, 1, &Body::new().name("x"));
    for claimed in [0, 1, 39, 40, 60, 1 << 20, u32::MAX] {
        let at = GuestAddress(BUFFERS);
        guest.rig.memory.write_obj(claimed, at).unwrap();
        let chain = [(BUFFERS, len, 0), (ANSWER, ANSWER_LEN, WRITE)];
        let used = guest.rig.serve(&chain);
        assert!(used == 0 || used == 16, "{claimed}: {used} bytes");
    }
    assert_eq!(guest.lookup(1, "none"), Err(libc::ENOENT));
}

/// Every number of a request with any body: an answer or none, and the device
/// goes on.
#[test]
fn requests_of_every_kind_with_nonsense_are_survived() {
    let guest = Guest::with(true);
    for opcode in 0..0x40 {
        for filler in [0, 1, 0x7f, 0xff] {
            let body = Body::new().bytes(&[filler; 128]);
            for node in [0, 1, 2, u64::MAX] {
                let len = guest.request(opcode, node, &body);
                let chain = [(BUFFERS, len, 0), (ANSWER, ANSWER_LEN, WRITE)];
                assert!(guest.rig.serve(&chain) <= ANSWER_LEN);
            }
        }
    }
    guest.rig.set_status(0);
    guest.mount();
    assert_eq!(guest.lookup(1, "none"), Err(libc::ENOENT));
}
