//! The network's one cable: frames on their way to the guest, and who is at its end.

use super::packet::{ETHERNET, EtherType, MTU, Mac, pseudo_header};
use crate::{Accepts, Frame, Guest, Offload};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpAddress, IpProtocol, IpRepr, Ipv4Packet, UDP_HEADER_LEN, UdpPacket, UdpRepr, checksum,
};
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

/// The host's own address, QEMU's.
pub(super) const GATEWAY: Mac = [0x52, 0x55, 0x0a, 0x00, 0x02, 0x02];
pub(super) const BROADCAST: Mac = [0xff; 6];

/// Frames that wait for room before their makers are told to wait.
const QUEUE: usize = 64;
/// Frames that wait at most: answers to what the guest has sent meanwhile.
const FULL: usize = 2 * QUEUE;
/// Addresses whose owners are known.
const NEIGHBOURS: usize = 256;
const HOP_LIMIT: u8 = 64;

#[derive(Default)]
pub(super) struct Link {
    queue: VecDeque<Frame>,
    /// Buffers of frames that are gone.
    spare: Vec<Vec<u8>>,
    neighbours: HashMap<IpAddr, Mac>,
    identification: u16,
    pub(super) accepts: Accepts,
}

impl Link {
    /// How many frames and buffers, and how many neighbours.
    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, usize) {
        (self.queue.len() + self.spare.len(), self.neighbours.len())
    }

    /// Whoever has more to send than one answer looks here first.
    pub(super) fn has_room(&self) -> bool {
        self.queue.len() < QUEUE
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Forgets what the guest cannot take any more.
    pub(super) fn clear(&mut self) {
        self.queue.clear();
    }

    /// Gives the guest what it has room for. False: it has no room for all.
    pub(super) fn drain(&mut self, guest: &mut dyn Guest) -> bool {
        while !self.queue.is_empty() {
            if !guest.has_room() {
                return false;
            }
            if let Some(frame) = self.queue.pop_front() {
                guest.deliver(&frame);
                self.spare.push(frame.bytes);
            }
        }
        self.spare.truncate(QUEUE);
        true
    }

    /// `ip` is at `mac`. True: that is news.
    pub(super) fn learn(&mut self, ip: IpAddr, mac: Mac) -> bool {
        if self.neighbours.get(&ip) == Some(&mac) {
            return false;
        }
        if self.neighbours.len() >= NEIGHBOURS {
            self.neighbours.clear();
        }
        self.neighbours.insert(ip, mac);
        true
    }

    pub(super) fn mac_of(&self, ip: IpAddr) -> Option<Mac> {
        match ip {
            IpAddr::V4(ip) if ip.is_broadcast() => Some(BROADCAST),
            IpAddr::V6(ip) if ip.is_multicast() => {
                let o = ip.octets();
                Some([0x33, 0x33, o[12], o[13], o[14], o[15]])
            }
            ip => self.neighbours.get(&ip).copied(),
        }
    }

    /// Queues a frame to `to` with `len` bytes of payload, which `fill` writes. A
    /// buffer that has been used before is not cleared.
    pub(super) fn frame<R>(
        &mut self,
        to: Mac,
        kind: EtherType,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> (Offload, R),
    ) -> R {
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.resize(ETHERNET + len, 0);
        bytes[..6].copy_from_slice(&to);
        bytes[6..12].copy_from_slice(&GATEWAY);
        bytes[12..ETHERNET].copy_from_slice(&kind.number().to_be_bytes());
        let (offload, result) = fill(&mut bytes[ETHERNET..]);
        if self.queue.len() < FULL {
            self.queue.push_back(Frame { bytes, offload });
        } else {
            self.spare.push(bytes);
        }
        result
    }

    /// Queues a packet if it is known where the destination is.
    pub(super) fn packet(
        &mut self,
        src: IpAddr,
        dst: IpAddr,
        protocol: IpProtocol,
        payload: &[u8],
    ) {
        if let Some(mac) = self.mac_of(dst) {
            self.packet_at(mac, src, dst, protocol, payload);
        }
    }

    fn packet_at(
        &mut self,
        mac: Mac,
        src: IpAddr,
        dst: IpAddr,
        protocol: IpProtocol,
        payload: &[u8],
    ) {
        let hops = match protocol {
            // Neighbour discovery is heard only from the same link (RFC 4861, 6.1.2).
            IpProtocol::Icmpv6 => 255,
            _ => HOP_LIMIT,
        };
        let ip = IpRepr::new(src.into(), dst.into(), protocol, payload.len(), hops);
        if ip.header_len() + payload.len() > MTU {
            return self.fragments(mac, ip, payload);
        }
        let kind = kind_of(src);
        self.frame(mac, kind, ip.header_len() + payload.len(), |bytes| {
            ip.emit(&mut *bytes, &ChecksumCapabilities::default());
            bytes[ip.header_len()..].copy_from_slice(payload);
            (CHECKED, ())
        });
    }

    /// IPv4 only: IPv6 would need an extension header, which nothing here reads either.
    fn fragments(&mut self, mac: Mac, ip: IpRepr, payload: &[u8]) {
        let IpRepr::Ipv4(mut ip) = ip else {
            return;
        };
        self.identification = self.identification.wrapping_add(1);
        let identification = self.identification;
        let header = ip.buffer_len();
        let most = (MTU - header) & !7;
        let last = payload.len().saturating_sub(1) / most;
        for (n, part) in payload.chunks(most).enumerate() {
            ip.payload_len = part.len();
            self.frame(mac, EtherType::Ipv4, header + part.len(), |bytes| {
                bytes[header..].copy_from_slice(part);
                let mut packet = Ipv4Packet::new_unchecked(bytes);
                ip.emit(&mut packet, &ChecksumCapabilities::ignored());
                packet.set_ident(identification);
                packet.set_dont_frag(false);
                packet.set_more_frags(n != last);
                packet.set_frag_offset((n * most) as u16);
                packet.fill_checksum();
                (CHECKED, ())
            });
        }
    }

    /// Queues a datagram if it is known where the receiver is. Both addresses are of
    /// one kind.
    pub(super) fn udp(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        if let Some(mac) = self.mac_of(to.ip()) {
            self.udp_at(mac, from, to, payload);
        }
    }

    /// Queues a datagram to whoever has `mac`.
    pub(super) fn udp_at(&mut self, mac: Mac, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let len = UDP_HEADER_LEN + payload.len();
        if len > usize::from(u16::MAX) - 60 {
            return;
        }
        let repr = UdpRepr {
            src_port: from.port(),
            dst_port: to.port(),
        };
        let (src, dst) = (IpAddress::from(from.ip()), IpAddress::from(to.ip()));
        let mut bytes = vec![0; len];
        repr.emit(
            &mut UdpPacket::new_unchecked(&mut bytes[..]),
            &src,
            &dst,
            payload.len(),
            |to| to.copy_from_slice(payload),
            &ChecksumCapabilities::default(),
        );
        self.packet_at(mac, from.ip(), to.ip(), IpProtocol::Udp, &bytes);
    }

    /// Queues a message of ICMP's or ICMPv6's, `rest` being what follows the
    /// checksum.
    pub(super) fn icmp(&mut self, src: IpAddr, dst: IpAddr, kind: u8, code: u8, rest: &[u8]) {
        let mut bytes = vec![kind, code, 0, 0];
        bytes.extend_from_slice(rest);
        let (protocol, pseudo) = match src {
            IpAddr::V4(_) => (IpProtocol::Icmp, 0),
            IpAddr::V6(_) => {
                let protocol = IpProtocol::Icmpv6;
                (protocol, pseudo_header(src, dst, protocol, bytes.len()))
            }
        };
        let sum = !checksum::combine(&[pseudo, checksum::data(&bytes)]);
        bytes[2..4].copy_from_slice(&sum.to_be_bytes());
        self.packet(src, dst, protocol, &bytes);
    }
}

/// What a frame with all its checksums in place says.
const CHECKED: Offload = Offload {
    checksum: None,
    verified: true,
    segments: None,
};

pub(super) fn kind_of(ip: IpAddr) -> EtherType {
    match ip {
        IpAddr::V4(_) => EtherType::Ipv4,
        IpAddr::V6(_) => EtherType::Ipv6,
    }
}
