//! Frames of a guest's to a user-mode network.

use crate::input::Input;
use net::{Accepts, Frame, Guest, Network, Offload, Partial, UserConfig, UserNet};
use std::time::Instant;

/// Frames whose every byte the fuzzer chooses are not for us.
const GATEWAY: [u8; 6] = [0x52, 0x55, 0x0a, 0, 2, 2];

/// Takes a few frames at a time, none of which is empty or beyond all measure.
struct Adapter(usize);

impl Guest for Adapter {
    fn has_room(&mut self) -> bool {
        self.0 > 0
    }

    fn deliver(&mut self, frame: &Frame) {
        self.0 -= 1;
        assert!((14..=14 + 65_535).contains(&frame.bytes.len()));
        assert_eq!(frame.bytes[6..12], GATEWAY);
    }
}

/// Sends frames to a restricted network, which leaves the host alone.
pub(super) fn run(data: &[u8]) {
    let config = UserConfig {
        restrict: true,
        ..UserConfig::default()
    };
    // Without file descriptors there is nothing to try.
    let Ok(mut net) = UserNet::new(config) else {
        return;
    };
    let mut input = Input::new(data);
    let offloads = input.flag();
    net.accepts(Accepts {
        checksum: offloads,
        tcp4: offloads,
        tcp6: offloads,
        ecn: false,
    });
    let mut adapter = Adapter(0);
    while !input.is_empty() {
        let frame = frame(&mut input);
        assert!(net.send(&frame));
        adapter.0 = input.below(4);
        assert!(net.run(Instant::now(), &mut adapter).is_ok());
    }
}

/// Flags and a length, then the frame from its source on.
fn frame(input: &mut Input) -> Frame {
    let flags = input.u8();
    let len = usize::from(input.u16()) & 0x7ff;
    let mut bytes = GATEWAY.to_vec();
    bytes.extend_from_slice(input.bytes(len));
    if flags & 1 != 0 {
        sum_up(&mut bytes);
    }
    let checksum = (flags & 2 != 0).then(|| Partial {
        start: input.u16(),
        offset: input.u16(),
    });
    Frame {
        bytes,
        offload: Offload {
            checksum,
            verified: flags & 4 != 0,
            segments: None,
        },
    }
}

/// Corrects the checksum of an IPv4 header, which the fuzzer would not guess.
fn sum_up(bytes: &mut [u8]) {
    let len = bytes.get(14).map_or(0, |b| usize::from(b & 15) * 4);
    let Some(header) = bytes.get_mut(14..14 + len.max(20)) else {
        return;
    };
    header[10..12].fill(0);
    let words = header.chunks_exact(2);
    let mut sum: u32 = words
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
        .sum();
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}
