//! A shared folder, to read only, so that no input leaves anything behind for
//! the next; and requests that are mostly sane.

use super::{MEMORY, RINGS, notify};
use crate::input::Input;
use std::path::Path;
use std::sync::Arc;
use virtio::transport::VirtioPci;
use virtio::{GuestMemory, VirtioDevice, fs};
use vm_memory::{Bytes, GuestAddress};

/// Where the first request and all answers lie. Nobody waits for an answer: the
/// device's threads take their time.
const REQUEST: u64 = 0x4000;
const ANSWER: u64 = 0x8000;
/// Requests of an input, as many as the queue has descriptors for, and bytes
/// for each.
const MOST: u16 = 4;
const ROOM: u64 = 0x400;
const HEADER: usize = 40;

/// The sources of this crate.
pub(super) fn device() -> Arc<dyn VirtioDevice> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
    let share = fs::Share::open(folder, true).expect("our own sources");
    let options = fs::Options {
        tag: "fuzz".into(),
        queues: 2,
        queue_size: 8,
    };
    Arc::new(fs::Fs::new(share, options))
}

/// One request, of a length that is mostly true, with the rest of the input's
/// say: its kind, node, handle and what follows.
pub(super) fn request(function: &VirtioPci, memory: &GuestMemory, input: &mut Input<'_>) {
    let number: u16 = memory.read_obj(GuestAddress(RINGS[1] + 2)).unwrap_or(MOST);
    if number >= MOST {
        return;
    }
    let at = REQUEST + ROOM * u64::from(number);
    let opcode = input.u8() & 63;
    let node = match input.u8() {
        // What the request before found.
        u8::MAX => memory.read_obj(GuestAddress(ANSWER + 16)).unwrap_or(0),
        node => u64::from(node),
    };
    let body = match input.below(4) {
        // FUSE_INIT's version and flags.
        0 => [7u32, 38, 0, input.u32()].map(u32::to_le_bytes).concat(),
        1 => [names(input), &b"\0"[..]].concat(),
        // A handle, an offset, a length.
        2 => [input.u8().into(), 0, 4096u64, 0, 0]
            .map(u64::to_le_bytes)
            .concat(),
        _ => some(input).to_vec(),
    };
    let claimed = match input.below(8) {
        0 => input.u32(),
        _ => (HEADER + body.len()) as u32,
    };
    let kind = [claimed, opcode.into()].map(u32::to_le_bytes).concat();
    let longs = [1, node, 0, 0].map(u64::to_le_bytes).concat();
    let bytes = [kind, longs, body].concat();
    let _ = memory.write_slice(&bytes, GuestAddress(at));
    let room = u32::from(input.u16());
    let read = (at, bytes.len() as u32, 1);
    let write = (ANSWER, room.min(MEMORY as u32 - ANSWER as u32), 2);
    for (i, (address, len, flags)) in (0u64..).zip([read, write]) {
        let mut descriptor = [0; 16];
        descriptor[..8].copy_from_slice(&u64::to_le_bytes(address));
        descriptor[8..12].copy_from_slice(&u32::to_le_bytes(len));
        descriptor[12] = flags;
        descriptor[14] = number as u8 * 2 + 1;
        let place = RINGS[0] + 16 * (2 * u64::from(number) + i);
        let _ = memory.write_slice(&descriptor, GuestAddress(place));
    }
    notify(function, memory, number * 2);
}

/// A name that is there, or any.
fn names<'a>(input: &mut Input<'a>) -> &'a [u8] {
    match input.below(4) {
        0 => b"lib.rs",
        1 => b"targets",
        2 => b"..",
        _ => some(input),
    }
}

/// Up to 255 bytes.
fn some<'a>(input: &mut Input<'a>) -> &'a [u8] {
    let len = usize::from(input.u8());
    input.bytes(len)
}
