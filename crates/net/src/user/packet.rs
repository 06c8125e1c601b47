//! Packets of the Internet protocols, as the guest sends them.

use smoltcp::wire::{IpAddress, IpProtocol, Ipv4Packet, Ipv6Packet, UdpPacket, checksum};
use std::net::IpAddr;

/// Bytes of an Ethernet header.
pub(super) const ETHERNET: usize = 14;
/// Bytes of an IP packet on this network.
pub(super) const MTU: usize = 1500;

pub(super) type Mac = [u8; 6];

/// What an Ethernet frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EtherType {
    Ipv4,
    Arp,
    Ipv6,
}

impl EtherType {
    pub(super) fn number(self) -> u16 {
        match self {
            Self::Ipv4 => 0x0800,
            Self::Arp => 0x0806,
            Self::Ipv6 => 0x86dd,
        }
    }
}

/// An Ethernet frame's header and the rest.
pub(super) struct Ethernet<'a> {
    pub(super) from: Mac,
    pub(super) kind: EtherType,
    pub(super) payload: &'a [u8],
}

impl<'a> Ethernet<'a> {
    /// A frame that is for `own` or for all.
    pub(super) fn parse(bytes: &'a [u8], own: Mac) -> Option<Self> {
        let (header, payload) = bytes.split_first_chunk::<ETHERNET>()?;
        (header[..6] == own || header[0] & 1 != 0).then_some(())?;
        let from: Mac = header[6..12].try_into().ok()?;
        let number = u16::from_be_bytes([header[12], header[13]]);
        let kinds = [EtherType::Ipv4, EtherType::Arp, EtherType::Ipv6];
        let kind = kinds.into_iter().find(|k| k.number() == number)?;
        // A group's address sends nothing.
        let one = from[0] & 1 == 0;
        one.then_some(Self {
            from,
            kind,
            payload,
        })
    }
}

/// A whole packet whose header is right.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ip<'a> {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) protocol: IpProtocol,
    /// With the header, without padding.
    pub(super) bytes: &'a [u8],
    header: usize,
    /// The rest of the datagram is elsewhere: offset in it, and whether more follow.
    pub(super) fragment: Option<(u16, bool)>,
}

impl<'a> Ip<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::parse4(bytes),
            6 => Self::parse6(bytes),
            _ => None,
        }
    }

    fn parse4(bytes: &'a [u8]) -> Option<Self> {
        let packet = Ipv4Packet::new_checked(bytes).ok()?;
        let (header, total) = (packet.header_len().into(), packet.total_len().into());
        let bytes = bytes.get(..total)?;
        // Header within the total: `payload` relies on it.
        (header <= total && packet.verify_checksum()).then_some(())?;
        let (offset, more) = (packet.frag_offset(), packet.more_frags());
        Some(Self {
            src: packet.src_addr().into(),
            dst: packet.dst_addr().into(),
            protocol: packet.next_header(),
            bytes,
            header,
            fragment: (offset != 0 || more).then_some((offset, more)),
        })
    }

    /// Extension headers are not followed.
    fn parse6(bytes: &'a [u8]) -> Option<Self> {
        let packet = Ipv6Packet::new_checked(bytes).ok()?;
        Some(Self {
            src: packet.src_addr().into(),
            dst: packet.dst_addr().into(),
            protocol: packet.next_header(),
            bytes: bytes.get(..packet.total_len())?,
            header: packet.header_len(),
            fragment: None,
        })
    }

    pub(super) fn header(&self) -> &'a [u8] {
        &self.bytes[..self.header]
    }

    pub(super) fn payload(&self) -> &'a [u8] {
        &self.bytes[self.header..]
    }

    /// Whether the payload's checksum is right.
    pub(super) fn is_sound(&self) -> bool {
        let payload = self.payload();
        match self.protocol {
            IpProtocol::Icmp => checksum::data(payload) == u16::MAX,
            IpProtocol::Udp => {
                let Ok(udp) = UdpPacket::new_checked(payload) else {
                    return false;
                };
                let none = self.src.is_ipv4() && udp.checksum() == 0;
                none || self.sums_up(&payload[..udp.len().into()])
            }
            _ => self.sums_up(payload),
        }
    }

    fn sums_up(&self, payload: &[u8]) -> bool {
        let pseudo = pseudo_header(self.src, self.dst, self.protocol, payload.len());
        checksum::combine(&[pseudo, checksum::data(payload)]) == u16::MAX
    }
}

/// The sum of what TCP, UDP and ICMPv6 sum up besides themselves. Both addresses
/// are of one kind.
pub(super) fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: IpProtocol, len: usize) -> u16 {
    let (src, dst) = (IpAddress::from(src), IpAddress::from(dst));
    checksum::pseudo_header(&src, &dst, protocol, len as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_lie_are_refused() {
        let mut bytes = [0u8; 20];
        bytes[0] = 0x45;
        for (total, right) in [(20u16, true), (21, false), (19, false), (0, false)] {
            bytes[2..4].copy_from_slice(&total.to_be_bytes());
            bytes[10..12].fill(0);
            let sum = !checksum::data(&bytes);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
            assert_eq!(Ip::parse(&bytes).is_some(), right, "{total}");
        }
        for len in 0..40 {
            assert!(Ip::parse(&[0x60; 40][..len]).is_none());
        }
    }
}
