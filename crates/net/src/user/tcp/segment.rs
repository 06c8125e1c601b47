//! Segments, as they are before and after the TCP of [`super::endpoint`] sees them.

use crate::user::packet::{ETHERNET, EtherType, Ip, MTU, pseudo_header};
use crate::user::shared::Shared;
use crate::{Accepts, Offload, Partial, SegmentKind, Segments};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpProtocol, TCP_HEADER_LEN, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, checksum,
};
use std::net::IpAddr;

/// Most payload in a segment that stands for several.
const LONGEST: u16 = 65_000;
/// Least that anybody asks for in earnest, Linux's TCP_MIN_SND_MSS.
const LEAST: u16 = 48;
/// Where the checksum is in TCP's header.
const CHECKSUM: usize = 16;

/// Whether `tcp` says that there is no such connection.
pub(in crate::user) fn is_reset(tcp: &[u8]) -> bool {
    TcpPacket::new_checked(tcp).is_ok_and(|p| p.rst())
}

/// Bytes of an IP header without options.
fn header_of(ip: IpAddr) -> usize {
    if ip.is_ipv4() { 20 } else { 40 }
}

/// The longest payload that fits into the network's packets.
pub(super) fn most(ip: IpAddr) -> u16 {
    (MTU - header_of(ip) - TCP_HEADER_LEN) as u16
}

/// Whether the guest takes segments that stand for several.
pub(super) fn takes_long(accepts: Accepts, ip: IpAddr) -> bool {
    let kind = if ip.is_ipv4() {
        accepts.tcp4
    } else {
        accepts.tcp6
    };
    kind && accepts.checksum
}

/// Where the most that a sender takes is in the first segment it sends.
fn mss_at(tcp: &TcpPacket<&[u8]>) -> Option<usize> {
    const END: u8 = 0;
    const PAD: u8 = 1;
    const MSS: u8 = 2;
    let mut rest = tcp.options();
    let mut at = TCP_HEADER_LEN;
    loop {
        match *rest {
            [END, ..] | [] | [_] => return None,
            [PAD, ..] => {
                rest = &rest[1..];
                at += 1;
            }
            [MSS, 4, _, _, ..] => return Some(at + 2),
            [_, len, ..] => {
                rest = rest.get(usize::from(len.max(2))..)?;
                at += usize::from(len.max(2));
            }
        }
    }
}

/// A guest's first segment, and how much it really takes at once.
pub(super) struct First {
    /// The whole packet. It asks for as many of the guest's segments as fit into a
    /// long one, if the guest takes long ones.
    pub(super) packet: Vec<u8>,
    pub(super) mss: u16,
}

impl First {
    pub(super) fn new(ip: &Ip, tcp: &TcpPacket<&[u8]>, long: bool) -> Self {
        let mut first = Self {
            packet: ip.bytes.to_vec(),
            mss: most(ip.src),
        };
        let Some(at) = mss_at(tcp) else {
            return first;
        };
        let field = first.packet.get_mut(ip.header().len() + at..);
        let Some(field) = field.and_then(|f| f.first_chunk_mut::<2>()) else {
            return first;
        };
        first.mss = u16::from_be_bytes(*field).clamp(LEAST, most(ip.src));
        if long {
            *field = (LONGEST / first.mss * first.mss).to_be_bytes();
        }
        first
    }
}

/// Says to the guest that there is no connection that `tcp` is part of (RFC 9293,
/// 3.10.7.1).
pub(super) fn reset(shared: &mut Shared, ip: &Ip) {
    let Ok(tcp) = TcpPacket::new_checked(ip.payload()) else {
        return;
    };
    if tcp.rst() || !shared.config.contains(ip.src) {
        return;
    }
    let (seq_number, ack_number) = match tcp.ack() {
        true => (tcp.ack_number(), None),
        false => (TcpSeqNumber(0), Some(tcp.seq_number() + tcp.segment_len())),
    };
    let repr = TcpRepr {
        src_port: tcp.dst_port(),
        dst_port: tcp.src_port(),
        control: TcpControl::Rst,
        seq_number,
        ack_number,
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(
        &mut TcpPacket::new_unchecked(&mut bytes[..]),
        &ip.dst.into(),
        &ip.src.into(),
        &ChecksumCapabilities::default(),
    );
    shared.link.packet(ip.dst, ip.src, IpProtocol::Tcp, &bytes);
}

/// What is left to do for a packet with one segment, whose checksum is zero. What the
/// guest does not do is done here.
pub(super) fn finish(packet: &mut [u8], kind: EtherType, accepts: Accepts, mss: u16) -> Offload {
    let header = match kind {
        EtherType::Ipv6 => 40,
        _ => 20,
    };
    let Some(ip) = addresses(packet, kind) else {
        return Offload::default();
    };
    let tcp = &mut packet[header..];
    let options = usize::from(tcp.get(12).copied().unwrap_or(0) >> 4) * 4;
    let payload = tcp.len().saturating_sub(options);
    let pseudo = pseudo_header(ip.0, ip.1, IpProtocol::Tcp, tcp.len());
    let sum = match accepts.checksum {
        true => pseudo,
        false => !checksum::combine(&[pseudo, checksum::data(tcp)]),
    };
    if let Some(field) = tcp.get_mut(CHECKSUM..CHECKSUM + 2) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    let long = takes_long(accepts, ip.0) && payload > usize::from(mss);
    Offload {
        checksum: accepts.checksum.then_some(Partial {
            start: (ETHERNET + header) as u16,
            offset: CHECKSUM as u16,
        }),
        verified: !accepts.checksum,
        segments: long.then_some(Segments {
            kind: match kind {
                EtherType::Ipv6 => SegmentKind::TcpV6,
                _ => SegmentKind::TcpV4,
            },
            ecn: false,
            header_len: (ETHERNET + header + options) as u16,
            size: mss,
        }),
    }
}

/// Source and destination of a packet whose header has no options.
fn addresses(packet: &[u8], kind: EtherType) -> Option<(IpAddr, IpAddr)> {
    match kind {
        EtherType::Ipv6 => {
            let ip = |at| {
                packet
                    .get(at..at + 16)
                    .and_then(|b| <[u8; 16]>::try_from(b).ok())
            };
            Some((ip(8)?.into(), ip(24)?.into()))
        }
        _ => {
            let ip = |at| {
                packet
                    .get(at..at + 4)
                    .and_then(|b| <[u8; 4]>::try_from(b).ok())
            };
            Some((ip(12)?.into(), ip(16)?.into()))
        }
    }
}
