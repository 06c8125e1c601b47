//! Datagrams that come in parts (RFC 791, 3.2), put together again.

use super::packet::Ip;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, IpRepr};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Datagrams that are incomplete at once; the oldest makes room.
const DATAGRAMS: usize = 16;
/// Parts of each.
const PARTS: usize = 64;
/// How long the rest may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a header without options, and of what fits into a packet with it.
const HEADER: usize = 20;
const LONGEST: usize = u16::MAX as usize - HEADER;

#[derive(PartialEq, Eq)]
struct Key {
    src: IpAddr,
    dst: IpAddr,
    protocol: IpProtocol,
    identification: [u8; 2],
}

struct Datagram {
    key: Key,
    begun: Instant,
    bytes: Vec<u8>,
    /// Beginning and end of each part.
    parts: Vec<(usize, usize)>,
    len: Option<usize>,
}

#[derive(Default)]
pub(super) struct Fragments {
    incomplete: VecDeque<Datagram>,
}

impl Fragments {
    /// Takes a part. The whole packet, if it was the last.
    pub(super) fn add(&mut self, ip: &Ip, now: Instant) -> Option<Vec<u8>> {
        let (offset, more) = ip.fragment?;
        let key = Key {
            src: ip.src,
            dst: ip.dst,
            protocol: ip.protocol,
            identification: *ip.bytes.get(4..)?.first_chunk()?,
        };
        self.incomplete.retain(|d| now < d.begun + PATIENCE);
        let at = match self.incomplete.iter().position(|d| d.key == key) {
            Some(at) => at,
            None => self.begin(key, now),
        };
        let datagram = self.incomplete.get_mut(at)?;
        match datagram.put(offset.into(), ip.payload(), more) {
            Ok(false) => None,
            Ok(true) => self.incomplete.remove(at).map(|d| d.packet()),
            Err(Contradiction) => {
                self.incomplete.remove(at);
                None
            }
        }
    }

    fn begin(&mut self, key: Key, now: Instant) -> usize {
        if self.incomplete.len() >= DATAGRAMS {
            self.incomplete.pop_front();
        }
        self.incomplete.push_back(Datagram {
            key,
            begun: now,
            bytes: Vec::new(),
            parts: Vec::new(),
            len: None,
        });
        self.incomplete.len() - 1
    }
}

/// Parts overlap or reach too far, as nobody's do who means well.
struct Contradiction;

impl Datagram {
    /// Whether it is complete now.
    fn put(&mut self, start: usize, part: &[u8], more: bool) -> Result<bool, Contradiction> {
        let end = start + part.len();
        if self.parts.contains(&(start, end)) {
            return Ok(false);
        }
        let overlaps = self.parts.iter().any(|p| start < p.1 && p.0 < end);
        let empty = part.is_empty() || (more && !part.len().is_multiple_of(8));
        let far = end > LONGEST || self.len.is_some_and(|len| end > len || !more);
        let short = !more && self.bytes.len() > end;
        if overlaps || empty || far || short || self.parts.len() >= PARTS {
            return Err(Contradiction);
        }
        if !more {
            self.len = Some(end);
        }
        self.bytes.resize(self.bytes.len().max(end), 0);
        self.bytes[start..end].copy_from_slice(part);
        self.parts.push((start, end));
        let have: usize = self.parts.iter().map(|p| p.1 - p.0).sum();
        Ok(self.len == Some(have))
    }

    /// With a header that says that it is whole.
    fn packet(self) -> Vec<u8> {
        let (src, dst) = (self.key.src.into(), self.key.dst.into());
        let ip = IpRepr::new(src, dst, self.key.protocol, self.bytes.len(), 64);
        let mut packet = vec![0; ip.header_len()];
        packet.extend_from_slice(&self.bytes);
        ip.emit(&mut packet[..], &ChecksumCapabilities::default());
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_contradict_each_other_are_dropped() {
        let new = || Datagram {
            key: Key {
                src: [10, 0, 2, 15].into(),
                dst: [10, 0, 2, 2].into(),
                protocol: IpProtocol::Udp,
                identification: [0; 2],
            },
            begun: Instant::now(),
            bytes: Vec::new(),
            parts: Vec::new(),
            len: None,
        };
        let mut datagram = new();
        assert!(matches!(datagram.put(8, &[2; 3], false), Ok(false)));
        assert!(matches!(datagram.put(8, &[2; 3], false), Ok(false)));
        assert!(matches!(datagram.put(0, &[1; 8], true), Ok(true)));
        assert_eq!(
            datagram.packet()[HEADER..],
            [1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2]
        );
        let parts: [&[(usize, usize, bool)]; 6] = [
            &[(0, 7, true)],
            &[(0, 0, false)],
            &[(0, 16, true), (8, 16, true)],
            &[(16, 8, true), (0, 8, false)],
            &[(8, 8, false), (16, 8, true)],
            &[(65_528, 8, false)],
        ];
        for parts in parts {
            let mut datagram = new();
            let put = |p: &(usize, usize, bool)| datagram.put(p.0, &vec![0; p.1], p.2);
            assert!(parts.iter().map(put).any(|r| r.is_err()), "{parts:?}");
        }
    }
}
