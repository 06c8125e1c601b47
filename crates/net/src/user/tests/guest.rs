//! A guest: smoltcp, with an Ethernet adapter that may leave work to others.

use super::SegmentKind;
use crate::user::link::GATEWAY;
use crate::user::packet::ETHERNET;
use crate::{Frame, Guest, Offload, Partial};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, checksum};
use std::collections::VecDeque;
use std::net::IpAddr;

pub(super) const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

pub(super) struct Adapter {
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Frame>,
    long: bool,
}

pub(super) struct TestGuest {
    pub(super) interface: Interface,
    pub(super) sockets: SocketSet<'static>,
    adapter: Adapter,
    pub(super) sent: VecDeque<Frame>,
    pub(super) delivered: Vec<Frame>,
    /// Frames it has room for.
    pub(super) room: usize,
    /// Long segments that came.
    pub(super) longs: usize,
    /// Frames are kept.
    pub(super) record: bool,
    pub(super) recorded: Vec<Frame>,
}

impl TestGuest {
    pub(super) fn new(long: bool) -> Self {
        let mut adapter = Adapter {
            received: VecDeque::new(),
            sent: VecDeque::new(),
            long,
        };
        let mut config = Config::new(EthernetAddress(MAC).into());
        config.random_seed = 7;
        Self {
            interface: Interface::new(config, &mut adapter, Instant::ZERO),
            sockets: SocketSet::new(Vec::new()),
            adapter,
            sent: VecDeque::new(),
            delivered: Vec::new(),
            room: 256,
            longs: 0,
            record: false,
            recorded: Vec::new(),
        }
    }

    pub(super) fn set_address(&mut self, ip: IpAddr, bits: u8, router: IpAddr) {
        let cidr = IpCidr::new(IpAddress::from(ip), bits);
        self.interface
            .update_ip_addrs(|all| all.push(cidr).unwrap());
        let routes = self.interface.routes_mut();
        match router {
            IpAddr::V4(ip) => routes.add_default_ipv4_route(ip).map(|_| ()).unwrap(),
            IpAddr::V6(ip) => routes.add_default_ipv6_route(ip).map(|_| ()).unwrap(),
        }
    }

    pub(super) fn poll(&mut self, now: Instant) {
        self.interface
            .poll(now, &mut self.adapter, &mut self.sockets);
        if self.record {
            self.recorded.extend(self.adapter.sent.iter().cloned());
        }
        self.sent.append(&mut self.adapter.sent);
    }

    /// A frame has come all the way.
    pub(super) fn receive(&mut self, mut frame: Frame) {
        assert_eq!(frame.bytes[6..12], GATEWAY);
        self.look(&frame);
        if let Some(partial) = frame.offload.checksum {
            complete(&mut frame.bytes, partial);
        }
        self.adapter.received.push_back(frame.bytes);
    }

    /// Whether the frame is one that this guest takes.
    fn look(&mut self, frame: &Frame) {
        let Offload {
            checksum, segments, ..
        } = frame.offload;
        assert!(self.adapter.long || (checksum.is_none() && segments.is_none()));
        match segments {
            None => assert!(frame.bytes.len() <= 1514, "{}", frame.bytes.len()),
            Some(segments) => {
                let v4 = segments.kind == SegmentKind::TcpV4;
                let (header, size) = if v4 { (54, 1460) } else { (74, 1440) };
                assert_eq!(segments.header_len, header);
                assert!((48..=size).contains(&segments.size));
                assert!(checksum.is_some());
                self.longs += 1;
            }
        }
    }
}

fn complete(bytes: &mut [u8], partial: Partial) {
    let start = usize::from(partial.start);
    let sum = !checksum::data(&bytes[start..]);
    let at = start + usize::from(partial.offset);
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

impl Guest for TestGuest {
    fn has_room(&mut self) -> bool {
        self.delivered.len() < self.room
    }

    fn deliver(&mut self, frame: &Frame) {
        assert!(self.has_room());
        self.delivered.push(frame.clone());
    }
}

pub(super) struct Incoming(Vec<u8>);

pub(super) struct Outgoing<'a>(&'a mut Adapter);

impl phy::Device for Adapter {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Incoming, Outgoing<'_>)> {
        let bytes = self.received.pop_front()?;
        Some((Incoming(bytes), Outgoing(self)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outgoing<'_>> {
        Some(Outgoing(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        let mtu = if self.long { 65_535 } else { 1500 };
        capabilities.max_transmission_unit = ETHERNET + mtu;
        if self.long {
            capabilities.checksum.tcp = Checksum::Rx;
        }
        capabilities
    }
}

impl phy::RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut bytes = vec![0; len];
        let result = f(&mut bytes);
        let start = match bytes[12..14] {
            [0x08, 0x00] if bytes[23] == 6 => Some(34),
            [0x86, 0xdd] if bytes[20] == 6 => Some(54),
            _ => None,
        };
        let checksum = start.filter(|_| self.0.long);
        let checksum = checksum.map(|start| Partial { start, offset: 16 });
        let offload = Offload {
            checksum,
            ..Offload::default()
        };
        self.0.sent.push_back(Frame { bytes, offload });
        result
    }
}
