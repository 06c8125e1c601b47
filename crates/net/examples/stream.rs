//! How fast one connection through a user-mode network is, with a guest that does
//! next to nothing: `cargo run --release -p net --example stream`.

use net::{Accepts, Frame, Guest, Network, Offload, Partial, UserConfig, UserNet};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, IpRepr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

const GATEWAY: [u8; 6] = [0x52, 0x55, 0x0a, 0, 2, 2];
const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const HEADERS: usize = 14 + 20 + 20;
const SECONDS: u64 = 2;
/// Bytes in a segment of the guest's.
const LONG: usize = 64_000;
const SCALE: u8 = 7;

/// One end of a connection, as much of it as a cable without losses needs.
struct Peer {
    port: u16,
    next: TcpSeqNumber,
    /// Up to where the other end takes bytes.
    limit: TcpSeqNumber,
    expected: TcpSeqNumber,
    open: bool,
    received: usize,
    answer: bool,
}

impl Peer {
    fn frame(&self, control: TcpControl, payload: &[u8]) -> Frame {
        let syn = control == TcpControl::Syn;
        let tcp = TcpRepr {
            src_port: 1000,
            dst_port: self.port,
            control,
            seq_number: self.next,
            ack_number: self.open.then_some(self.expected),
            window_len: u16::MAX,
            window_scale: syn.then_some(SCALE),
            max_seg_size: syn.then_some(1460),
            sack_permitted: syn,
            sack_ranges: [None; 3],
            timestamp: None,
            payload,
        };
        let (src, dst) = (GUEST.into(), HOST.into());
        let ip = IpRepr::new(src, dst, IpProtocol::Tcp, tcp.buffer_len(), 64);
        let mut bytes = vec![0; 14 + ip.buffer_len()];
        bytes[..6].copy_from_slice(&GATEWAY);
        bytes[6..12].copy_from_slice(&MAC);
        bytes[12] = 8;
        let checksums = ChecksumCapabilities::default();
        ip.emit(&mut bytes[14..], &checksums);
        let mut packet = TcpPacket::new_unchecked(&mut bytes[34..]);
        tcp.emit(&mut packet, &src, &dst, &ChecksumCapabilities::ignored());
        let checksum = Some(Partial {
            start: 34,
            offset: 16,
        });
        Frame {
            bytes,
            offload: Offload {
                checksum,
                ..Offload::default()
            },
        }
    }

    /// Sends what the other end takes.
    fn send(&mut self, net: &mut UserNet, payload: &[u8]) {
        while self.next + payload.len() <= self.limit {
            net.send(&self.frame(TcpControl::None, payload));
            self.next += payload.len();
        }
    }
}

impl Guest for Peer {
    fn has_room(&mut self) -> bool {
        true
    }

    fn deliver(&mut self, frame: &Frame) {
        let Some(bytes) = frame.bytes.get(34..) else {
            return;
        };
        let Ok(tcp) = TcpPacket::new_checked(bytes) else {
            return;
        };
        let scale = if tcp.syn() { 0 } else { 2 };
        self.limit = tcp.ack_number() + (usize::from(tcp.window_len()) << scale);
        if tcp.syn() {
            self.open = true;
            self.next += 1;
            self.expected = tcp.seq_number() + 1;
            self.answer = true;
        }
        let payload = frame.bytes.len() - HEADERS;
        if self.open && payload > 0 && tcp.seq_number() == self.expected {
            self.expected += payload;
            self.received += payload;
            self.answer = true;
        }
    }
}

/// Gigabits a second from the guest, or to it.
fn measure(long: bool, upload: bool) -> Result<f64, Box<dyn std::error::Error>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            match upload {
                true if stream.read(&mut buffer)? == 0 => return Ok(()),
                true => {}
                false => stream.write_all(&buffer)?,
            }
        }
    });
    let mut net = UserNet::new(UserConfig::default())?;
    net.accepts(Accepts {
        checksum: long,
        tcp4: long,
        tcp6: long,
        ecn: false,
    });
    let mut peer = Peer {
        port,
        next: TcpSeqNumber(1),
        limit: TcpSeqNumber(0),
        expected: TcpSeqNumber(0),
        open: false,
        received: 0,
        answer: false,
    };
    net.send(&peer.frame(TcpControl::Syn, &[]));
    let payload = vec![0; if long { LONG } else { 1460 }];
    let (begin, mut sent) = (Instant::now(), 0);
    while begin.elapsed() < Duration::from_secs(SECONDS) {
        net.run(Instant::now(), &mut peer)?;
        if std::mem::take(&mut peer.answer) {
            net.send(&peer.frame(TcpControl::None, &[]));
        }
        if upload && peer.open {
            let before = peer.next;
            peer.send(&mut net, &payload);
            sent += peer.next - before;
        }
    }
    let bytes = if upload { sent } else { peer.received };
    Ok(bytes as f64 * 8.0 / 1e9 / begin.elapsed().as_secs_f64())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for (long, what) in [(true, "long"), (false, "short")] {
        for (upload, way) in [(true, "from"), (false, "to")] {
            let speed = measure(long, upload)?;
            println!("{what} segments {way} the guest: {speed:.1} Gbit/s");
        }
    }
    Ok(())
}
