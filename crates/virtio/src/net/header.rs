//! The header in front of each frame (5.1.6) and the [`Offload`] it stands for.

use super::feature;
pub(super) use net::header::HEADER as LONG;
use net::header::{self, SHORT_HEADER as SHORT};
use net::{Accepts, Frame, Offload};

/// The header as driver and device agreed on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Bytes.
    pub(super) len: usize,
    /// What the driver may leave to the device.
    sends: Accepts,
}

/// Features of drivers that leave more to do than `takes`.
pub(super) fn beyond(takes: Accepts) -> u64 {
    let missing = |has: bool, bit| if has { 0 } else { bit };
    missing(takes.checksum, feature::CSUM)
        | missing(takes.tcp4, feature::HOST_TSO4)
        | missing(takes.tcp6, feature::HOST_TSO6)
        | missing(takes.ecn, feature::HOST_ECN)
}

/// What the guest accepts with these features or offloads.
pub(super) fn accepts(features: u64) -> Accepts {
    let has = |bit| features & bit != 0;
    let checksum = has(feature::GUEST_CSUM);
    Accepts {
        checksum,
        tcp4: checksum && has(feature::GUEST_TSO4),
        tcp6: checksum && has(feature::GUEST_TSO6),
        ecn: checksum && has(feature::GUEST_ECN),
    }
}

impl Layout {
    pub(super) fn new(features: u64) -> Self {
        let has = |bit| features & bit != 0;
        let long = has(feature::MRG_RXBUF) || has(crate::device::feature::VERSION_1);
        let checksum = has(feature::CSUM);
        Self {
            len: if long { LONG } else { SHORT },
            sends: Accepts {
                checksum,
                tcp4: checksum && has(feature::HOST_TSO4),
                tcp6: checksum && has(feature::HOST_TSO6),
                ecn: checksum && has(feature::HOST_ECN),
            },
        }
    }

    /// What a header of the driver's says of a frame of `len` bytes; why it
    /// cannot be if it makes no sense.
    pub(super) fn parse(&self, header: &[u8; LONG], len: usize) -> Result<Offload, &'static str> {
        let offload = header::decode(header).ok_or("a header that makes no sense")?;
        if !self.sends.covers(&offload) {
            return Err("more left to do than was agreed on");
        }
        if offload.checksum.is_some_and(|partial| !partial.fits(len)) {
            return Err("a checksum outside of the frame");
        }
        Ok(Offload {
            verified: false,
            ..offload
        })
    }
}

/// The header for a frame that goes to a driver in so many buffers; `None` if it
/// asks for more than the driver does.
pub(super) fn build(frame: &Frame, accepts: &Accepts, buffers: u16) -> Option<[u8; LONG]> {
    let offload = Offload {
        verified: frame.offload.verified && accepts.checksum,
        ..frame.offload
    };
    let agreed = accepts.covers(&offload);
    agreed.then(|| header::encode(&offload, buffers))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::feature::VERSION_1;
    use net::{Partial, SegmentKind, Segments};

    /// A header from its fields.
    fn header(flags: u8, gso: u8, words: [u16; 5]) -> [u8; LONG] {
        let mut header = [flags, gso, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for (place, word) in header[2..].chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        header
    }

    #[test]
    fn its_length_follows_the_features() {
        assert_eq!(Layout::new(0).len, 10);
        assert_eq!(Layout::new(feature::MRG_RXBUF).len, 12);
        assert_eq!(Layout::new(VERSION_1).len, 12);
    }

    #[test]
    fn only_what_was_agreed_on_is_sent() {
        let all = feature::CSUM | feature::HOST_TSO4 | feature::HOST_TSO6 | feature::HOST_ECN;
        // Plain, checksum at the end and beyond, beyond what 16 bits hold, TSO of
        // both kinds with and without ECN, UDP, no size, no checksum.
        let cases = [
            (0, header(0, 0, [0; 5]), true),
            (feature::CSUM, header(1, 0, [0, 0, 34, 64, 0]), true),
            (feature::CSUM, header(1, 0, [0, 0, 34, 65, 0]), false),
            (
                feature::CSUM,
                header(1, 0, [0, 0, 0xffff, 0xffff, 0]),
                false,
            ),
            (0, header(1, 0, [0, 0, 34, 16, 0]), false),
            (all, header(1, 1, [54, 1448, 34, 16, 0]), true),
            (all, header(1, 0x81, [54, 1448, 34, 16, 0]), true),
            (all, header(1, 4, [54, 1448, 34, 16, 0]), true),
            (all, header(1, 3, [54, 1448, 34, 16, 0]), false),
            (all, header(1, 1, [54, 0, 34, 16, 0]), false),
            (all, header(0, 1, [54, 1448, 34, 16, 0]), false),
            (
                all & !feature::HOST_ECN,
                header(1, 0x81, [54, 9, 34, 16, 0]),
                false,
            ),
            (
                all & !feature::HOST_TSO4,
                header(1, 1, [54, 9, 34, 16, 0]),
                false,
            ),
            (
                all & !feature::CSUM,
                header(0, 1, [54, 9, 34, 16, 0]),
                false,
            ),
        ];
        for (features, header, good) in cases {
            let parsed = Layout::new(features).parse(&header, 100);
            assert_eq!(parsed.is_ok(), good, "{features:#x} {header:x?}");
        }
    }

    #[test]
    fn headers_for_the_driver_say_what_the_frame_does() {
        let accepts = accepts(u64::MAX);
        let frame = |offload| Frame {
            bytes: vec![0; 100],
            offload,
        };
        let long = Offload {
            checksum: Some(Partial {
                start: 34,
                offset: 16,
            }),
            verified: true,
            segments: Some(Segments {
                kind: SegmentKind::TcpV6,
                ecn: true,
                header_len: 74,
                size: 1428,
            }),
        };
        let built = build(&frame(long), &accepts, 3);
        assert_eq!(built, Some(header(1, 0x84, [74, 1428, 34, 16, 3])));
        let verified = Offload {
            verified: true,
            ..Offload::default()
        };
        let built = |accepts| build(&frame(verified), accepts, 1);
        assert_eq!(built(&accepts), Some(header(2, 0, [0, 0, 0, 0, 1])));
        let none = Accepts::default();
        assert_eq!(built(&none), Some(header(0, 0, [0, 0, 0, 0, 1])));
        assert_eq!(build(&frame(long), &none, 1), None);
        let no_ecn = Accepts {
            ecn: false,
            ..accepts
        };
        assert_eq!(build(&frame(long), &no_ecn, 1), None);
    }
}
