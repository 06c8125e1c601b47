//! `struct virtio_net_hdr_v1` (virtio 1.2, 5.1.6), little-endian: how guests' drivers
//! and the host's tap devices say what is left to do with a frame.

use crate::frame::{Offload, Partial, SegmentKind, Segments};

/// Its bytes.
pub const HEADER: usize = 12;
/// Those of drivers that know no mergeable buffers, who do not have the last field.
pub const SHORT_HEADER: usize = 10;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;

/// The header of a frame in so many buffers.
pub fn encode(offload: &Offload, buffers: u16) -> [u8; HEADER] {
    let mut h = [0; HEADER];
    let mut put = |at: usize, value: u16| h[at..at + 2].copy_from_slice(&value.to_le_bytes());
    put(10, buffers);
    if let Some(segments) = offload.segments {
        put(2, segments.header_len);
        put(4, segments.size);
    }
    if let Some(partial) = offload.checksum {
        put(6, partial.start);
        put(8, partial.offset);
    }
    h[0] = match (offload.checksum, offload.verified) {
        (Some(_), _) => NEEDS_CSUM,
        (None, true) => DATA_VALID,
        (None, false) => 0,
    };
    h[1] = offload.segments.map_or(GSO_NONE, |s| {
        let kind = match s.kind {
            SegmentKind::TcpV4 => GSO_TCPV4,
            SegmentKind::TcpV6 => GSO_TCPV6,
        };
        kind | if s.ecn { GSO_ECN } else { 0 }
    });
    h
}

/// What a header says of the frame behind it; `None` if it is too short or says what
/// nobody agreed to.
pub fn decode(header: &[u8]) -> Option<Offload> {
    let h: &[u8; SHORT_HEADER] = header.first_chunk()?;
    let word = |at: usize| u16::from_le_bytes([h[at], h[at + 1]]);
    let kind = match h[1] & !GSO_ECN {
        GSO_NONE => None,
        GSO_TCPV4 => Some(SegmentKind::TcpV4),
        GSO_TCPV6 => Some(SegmentKind::TcpV6),
        _ => return None,
    };
    let segments = kind.map(|kind| Segments {
        kind,
        ecn: h[1] & GSO_ECN != 0,
        header_len: word(2),
        size: word(4),
    });
    let partial = Partial {
        start: word(6),
        offset: word(8),
    };
    // A frame to be cut needs its checksums made, and no segment is empty.
    let needs = h[0] & NEEDS_CSUM != 0;
    let sound = segments.is_none_or(|s| needs && s.size > 0);
    sound.then_some(Offload {
        checksum: needs.then_some(partial),
        verified: h[0] & DATA_VALID != 0,
        segments,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_what_they_were_made_of() {
        let long = Offload {
            checksum: Some(Partial {
                start: 34,
                offset: 16,
            }),
            verified: false,
            segments: Some(Segments {
                kind: SegmentKind::TcpV6,
                ecn: true,
                header_len: 74,
                size: 1440,
            }),
        };
        let verified = Offload {
            verified: true,
            ..Offload::default()
        };
        for offload in [Offload::default(), verified, long] {
            assert_eq!(decode(&encode(&offload, 1)), Some(offload));
        }
    }

    #[test]
    fn a_header_that_makes_no_sense_is_refused() {
        let tcp = |flags, size| [flags, GSO_TCPV4, 0, 0, size, 0, 34, 0, 16, 0];
        assert!(decode(&tcp(NEEDS_CSUM, 100)).is_some());
        assert!(decode(&tcp(0, 100)).is_none());
        assert!(decode(&tcp(NEEDS_CSUM, 0)).is_none());
        assert!(decode(&[0, 3, 0, 0, 0, 0, 0, 0, 0, 0]).is_none());
        assert!(decode(&[0; 9]).is_none());
    }
}
