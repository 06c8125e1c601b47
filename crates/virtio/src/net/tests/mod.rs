//! Frames through the PCI transport and a network in the test's hands.

mod commands;
mod pairs;
mod receive;
mod send;

use super::*;
use crate::testing::{AVAILABLE, BUFFERS, DESCRIPTORS, PATIENCE, Rig, SIZE, USED, WRITE};
use ::net::{Accepts, Frame, Guest};
use parking_lot::Condvar;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;
use vm_memory::{Bytes, GuestAddress};

/// Queues.
const RX: u16 = 0;
const TX: u16 = 1;
const CONTROL: u16 = 2;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

/// The far end of a cable.
struct Wire {
    state: Mutex<WireState>,
    changed: Condvar,
    bell: UnixStream,
}

#[derive(Default)]
struct WireState {
    sent: Vec<Frame>,
    /// Frames for the guest.
    incoming: VecDeque<Frame>,
    accepts: Vec<Accepts>,
    /// The other end is pulled.
    no_carrier: bool,
    /// The queue was turned off.
    off: bool,
    /// Takes nothing, so often was it asked to.
    full: bool,
    refused: u32,
    /// What is sent comes back.
    echoes: bool,
    fails: bool,
}

impl Wire {
    /// Changes something, which the network hears of.
    fn change(&self, change: impl FnOnce(&mut WireState)) {
        change(&mut self.state.lock());
        (&self.bell).write_all(&[1]).unwrap();
    }

    fn wait_until(&self, condition: impl Fn(&WireState) -> bool) {
        let mut state = self.state.lock();
        while !condition(&state) {
            let waited = self.changed.wait_for(&mut state, PATIENCE);
            assert!(!waited.timed_out(), "it never comes to that");
        }
    }

    /// Waits for so many frames of the guest and takes them.
    fn sent(&self, count: usize) -> Vec<Frame> {
        self.wait_until(|state| state.sent.len() >= count);
        std::mem::take(&mut self.state.lock().sent)
    }
}

/// The network at this end.
struct Cable {
    wire: Arc<Wire>,
    bell: UnixStream,
}

impl Network for Cable {
    fn fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
    fn takes(&self) -> Accepts {
        Accepts::ALL
    }
    fn accepts(&mut self, accepts: Accepts) {
        self.wire.state.lock().accepts.push(accepts);
        self.wire.changed.notify_all();
    }
    fn has_carrier(&self) -> bool {
        !self.wire.state.lock().no_carrier
    }
    fn enable(&mut self, on: bool) -> io::Result<()> {
        self.wire.state.lock().off = !on;
        self.wire.changed.notify_all();
        Ok(())
    }
    fn send(&mut self, frame: &Frame) -> bool {
        let mut state = self.wire.state.lock();
        match state.full {
            true => state.refused += 1,
            false if state.echoes => state.incoming.push_back(frame.clone()),
            false => state.sent.push(frame.clone()),
        }
        self.wire.changed.notify_all();
        !state.full
    }
    fn run(&mut self, _: Instant, guest: &mut dyn Guest) -> io::Result<()> {
        while self.bell.read(&mut [0; 64]).is_ok() {}
        let mut state = self.wire.state.lock();
        if state.fails {
            return Err(io::ErrorKind::NetworkDown.into());
        }
        while !state.incoming.is_empty() && guest.has_room() {
            let frame = state.incoming.pop_front();
            guest.deliver(&frame.unwrap_or_default());
        }
        self.wire.changed.notify_all();
        Ok(())
    }
}

/// An adapter, its driver and the other end.
struct Lab {
    rig: Rig,
    device: Arc<Net>,
    wire: Arc<Wire>,
    /// The network's other queues.
    more: Vec<Arc<Wire>>,
    link: Arc<LinkState>,
}

/// A cable and its far end.
fn cable() -> (SharedNetwork, Arc<Wire>) {
    let (here, there) = UnixStream::pair().unwrap();
    here.set_nonblocking(true).unwrap();
    let wire = Arc::new(Wire {
        state: Mutex::default(),
        changed: Condvar::new(),
        bell: there,
    });
    let cable = Cable {
        wire: wire.clone(),
        bell: here,
    };
    (Arc::new(Mutex::new(Box::new(cable))), wire)
}

impl Lab {
    fn new() -> Self {
        Self::with(Options {
            mac: MAC,
            ..Options::default()
        })
    }

    fn with(options: Options) -> Self {
        Self::with_queues(1, options)
    }

    /// With a network of so many queues.
    fn with_queues(count: usize, options: Options) -> Self {
        let (networks, mut wires): (Vec<_>, Vec<_>) = (0..count).map(|_| cable()).unzip();
        let link = Arc::<LinkState>::default();
        let device = Arc::new(Net::new(networks, link.clone(), options));
        Self {
            rig: Rig::new(device.clone()),
            device,
            wire: wires.remove(0),
            more: wires,
            link,
        }
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.rig
            .memory
            .write_slice(bytes, GuestAddress(at))
            .unwrap();
    }

    fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let at = GuestAddress(at);
        self.rig.memory.read_slice(&mut bytes, at).unwrap();
        bytes
    }

    fn word(&self, at: u64) -> u16 {
        self.rig.memory.read_obj(GuestAddress(at)).unwrap()
    }

    /// Entry `slot` of the used ring: head and length.
    fn used(&self, slot: u64) -> (u32, u32) {
        let read = |at| self.rig.memory.read_obj(GuestAddress(at)).unwrap();
        (read(USED + 4 + 8 * slot), read(USED + 8 + 8 * slot))
    }

    /// Makes a single buffer to receive available: descriptor `index`.
    fn offer_buffer(&self, index: u16, at: u64, len: u32) {
        self.rig.descriptor(DESCRIPTORS, index, (at, len, WRITE));
        self.rig.offer(index);
    }

    fn save(&self) -> Image {
        let mut image = Image::default();
        devices::Stateful::save(&*self.rig.function, "n", &mut image).unwrap();
        image
    }

    fn restore(&self, image: &mut Image) {
        devices::Stateful::restore(&*self.rig.function, "n", image).unwrap();
    }

    fn resume(&self) {
        devices::Stateful::resume(&*self.rig.function);
    }

    /// Waits until the device says that it needs a reset, and gives it.
    fn needs_reset(&self, what: &str) {
        self.rig.wait_vector(0);
        assert_eq!(self.rig.status() & 0x40, 0x40, "{what}");
        self.rig.set_status(0);
    }
}

/// A frame to `to` of so many bytes.
fn frame(to: [u8; 6], len: usize) -> Frame {
    let mut bytes: Vec<u8> = (0..len).map(|i| (i / 7) as u8).collect();
    bytes[..6].copy_from_slice(&to);
    Frame {
        bytes,
        offload: Default::default(),
    }
}

#[test]
fn options_are_features_queues_and_configuration() {
    let look = |options: Options| {
        let rig = Lab::with(options).rig;
        (rig.read(0x04, 4) & 0xff_ffff, rig.read(0x12, 2))
    };
    let all = 0x97_bba7;
    assert_eq!(look(Options::default()), (all, 3));
    let without = |bits: u64| Options {
        features: feature::OPTIONAL & !bits,
        ..Options::default()
    };
    let tso = 0x3800;
    assert_eq!(look(without(feature::CSUM)), (all & !(tso | 1), 3));
    assert_eq!(look(without(feature::GUEST_CSUM)), (all & !0x382, 3));
    assert_eq!(look(without(feature::CTRL_VQ)), (all & !0x96_0004, 2));
    let lab = Lab::with(Options {
        mac: MAC,
        host_mtu: Some(9000),
        rx_queue_size: 1024,
        ..Options::default()
    });
    assert_eq!(lab.rig.read(0x04, 4) & 8, 8);
    assert_eq!(
        (lab.rig.read(0x2000, 4), lab.rig.read(0x2004, 2)),
        (0x1200_5452, 0x5634)
    );
    let words = [6, 8, 10].map(|at| lab.rig.read(0x2000 + at, 2));
    assert_eq!(words, [1, 1, 9000]);
    lab.rig.write(0x16, 2, 0);
    assert_eq!(lab.rig.read(0x18, 2), 1024);
}

#[test]
fn frames_go_there_and_back() {
    let lab = Lab::new();
    lab.wire.state.lock().echoes = true;
    let rings = [0x5000, 0x6000, 0x7000];
    lab.put(0x5000, &[0; 0x3000]);
    // Buffers to receive, which the driver made available before it was ready.
    let buffers = 0x2_0000;
    for i in 0..SIZE {
        let at = buffers + 0x800 * u64::from(i);
        lab.rig.descriptor(rings[0], i, (at, 0x800, WRITE));
        lab.put(rings[1] + 4 + 2 * u64::from(i), &i.to_le_bytes());
    }
    lab.put(rings[1] + 2, &SIZE.to_le_bytes());
    lab.rig.start_queues(TX, &[(RX, rings)], feature::MRG_RXBUF);
    for i in 0..SIZE {
        let sent = frame(MAC, 60 + usize::from(i));
        lab.put(BUFFERS, &[0; 12]);
        lab.put(BUFFERS + 12, &sent.bytes);
        lab.rig
            .submit(&[(BUFFERS, 12 + sent.bytes.len() as u32, 0)]);
        while lab.word(rings[2] + 2) <= i || lab.word(USED + 2) <= i {
            lab.rig.wait_vector(1);
        }
        let at = buffers + 0x800 * u64::from(i);
        assert_eq!(lab.get(at + 12, sent.bytes.len()), sent.bytes);
        assert_eq!(lab.word(at + 10), 1, "buffers");
    }
    let counters = lab.link.counters();
    assert_eq!((counters.sent, counters.received), (8, 8));
}

#[test]
fn pulling_the_cable_is_told_and_loses_frames() {
    let lab = Lab::new();
    lab.rig.start_queue(TX, 0);
    lab.link.set_up(true);
    lab.link.set_up(false);
    lab.rig.wait_vector(0);
    assert_eq!(lab.rig.read(0x2006, 2), 0);
    lab.put(BUFFERS, &[0; 72]);
    assert_eq!(lab.rig.serve(&[(BUFFERS, 72, 0)]), 0);
    assert_eq!(lab.link.counters().not_sent, 1);
    lab.link.set_up(true);
    lab.rig.wait_vector(0);
    assert_eq!(lab.rig.read(0x2006, 2), 1);
    lab.rig.serve(&[(BUFFERS, 72, 0)]);
    assert_eq!(lab.wire.sent(1).len(), 1);
    // Without a driver nobody is told, and the cable stays as it is.
    lab.rig.set_status(0);
    lab.link.set_up(false);
    assert_eq!(lab.rig.read(0x2006, 2), 0);
}

#[test]
fn a_cable_has_two_ends() {
    let lab = Lab::new();
    lab.rig.start_queue(TX, 0);
    lab.wire.change(|state| state.no_carrier = true);
    lab.rig.wait_vector(0);
    assert_eq!(lab.rig.read(0x2006, 2), 0);
    // This end is in; that is what is saved.
    let mut image = lab.save();
    lab.link.set_up(false);
    lab.restore(&mut image);
    assert!(!lab.link.is_up());
    lab.resume();
    lab.wire.change(|state| state.no_carrier = false);
    lab.rig.wait_vector(0);
    assert_eq!(lab.rig.read(0x2006, 2), 1);
    assert!(lab.link.is_up());
}

#[test]
fn a_network_that_fails_takes_all_and_gives_nothing() {
    let lab = Lab::new();
    lab.rig.start_queue(TX, 0);
    lab.wire.change(|state| {
        state.fails = true;
        state.full = true;
    });
    lab.put(BUFFERS, &[0; 72]);
    assert_eq!(lab.rig.serve(&[(BUFFERS, 72, 0)]), 0);
    assert_eq!(lab.link.counters().not_sent, 1);
}
