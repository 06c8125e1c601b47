use super::*;
use crate::testing::{BUFFERS, PATIENCE, Rig, USED, WRITE};
use parking_lot::Condvar;
use std::collections::VecDeque;
use vm_memory::{Bytes, GuestAddress};

/// A host's end in memory with little room.
struct Memory {
    state: Mutex<MemoryState>,
    changed: Condvar,
}

#[derive(Default)]
struct MemoryState {
    room: usize,
    output: Vec<u8>,
    input: VecDeque<u8>,
    connected: bool,
    listener: Option<Weak<dyn Listener>>,
}

impl Memory {
    fn new(room: usize, connected: bool) -> Arc<Self> {
        let state = MemoryState {
            room,
            connected,
            ..MemoryState::default()
        };
        Arc::new(Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        })
    }

    fn change(&self, change: impl FnOnce(&mut MemoryState)) {
        let listener = {
            let mut state = self.state.lock();
            change(&mut state);
            self.changed.notify_all();
            state.listener.clone()
        };
        if let Some(listener) = listener.and_then(|l| l.upgrade()) {
            listener.changed();
        }
    }

    fn send(&self, bytes: &[u8]) {
        self.change(|state| state.input.extend(bytes));
    }

    /// Waits until `len` bytes came.
    fn received(&self, len: usize) -> Vec<u8> {
        let mut state = self.state.lock();
        while state.output.len() < len {
            let waited = self.changed.wait_for(&mut state, PATIENCE);
            assert!(!waited.timed_out(), "{:?}", state.output);
        }
        state.output.clone()
    }
}

impl HostEnd for Memory {
    fn put(&self, bytes: &[u8]) -> usize {
        let mut state = self.state.lock();
        let n = bytes.len().min(state.room);
        state.room -= n;
        state.output.extend(&bytes[..n]);
        self.changed.notify_all();
        n
    }
    fn wait_for_room(&self) {
        let mut state = self.state.lock();
        let moment = std::time::Duration::from_millis(1);
        self.changed.wait_for(&mut state, moment);
    }
    fn get(&self, bytes: &mut [u8]) -> usize {
        let mut state = self.state.lock();
        let n = bytes.len().min(state.input.len());
        let taken = state.input.drain(..n);
        bytes
            .iter_mut()
            .zip(taken)
            .for_each(|(to, from)| *to = from);
        n
    }
    fn has_input(&self) -> bool {
        !self.state.lock().input.is_empty()
    }
    fn connected(&self) -> bool {
        self.state.lock().connected
    }
    fn attach(&self, listener: Weak<dyn Listener>) {
        self.state.lock().listener = Some(listener);
    }
}

fn port(number: u16, console: bool, name: &str, host: &Arc<Memory>) -> PortOptions {
    PortOptions {
        number,
        console,
        name: name.into(),
        host: host.clone(),
    }
}

fn rig(max_ports: u16, ports: Vec<PortOptions>) -> Rig {
    Rig::new(Arc::new(Serial::new(max_ports, ports)))
}

/// A guest's text in one buffer.
fn transmit(rig: &Rig, text: &[u8]) {
    let at = GuestAddress(BUFFERS);
    rig.memory.write_slice(text, at).unwrap();
    rig.submit(&[(BUFFERS, text.len() as u32, 0)]);
}

fn message(id: u32, event: u16, value: u16) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&id.to_le_bytes());
    bytes[4..6].copy_from_slice(&event.to_le_bytes());
    bytes[6..].copy_from_slice(&value.to_le_bytes());
    bytes
}

#[test]
fn the_configuration_says_how_many_ports() {
    let multi = rig(31, Vec::new());
    assert_eq!(multi.read(0x2004, 4), 31);
    assert_eq!((multi.read(0x12, 2), multi.read(0x04, 4) & 7), (64, 6));
    let single = rig(1, Vec::new());
    assert_eq!((single.read(0x12, 2), single.read(0x04, 4) & 7), (2, 4));
}

#[test]
fn a_single_console_goes_both_ways() {
    let host = Memory::new(usize::MAX, true);
    let rig = rig(1, vec![port(0, true, "", &host)]);
    rig.start_queue(0, 0);
    rig.submit(&[(BUFFERS, 3, WRITE), (BUFFERS + 16, 100, WRITE)]);
    host.send(b"from the host");
    assert_eq!(rig.wait_used(1).len(), 1);
    let mut bytes = [0; 10];
    rig.memory
        .read_slice(&mut bytes, GuestAddress(BUFFERS + 16))
        .unwrap();
    assert_eq!(&bytes, b"m the host");
    rig.set_status(0);
    rig.start_queue(1, 0);
    transmit(&rig, b"from the guest");
    assert_eq!(host.received(14), b"from the guest");
}

#[test]
fn a_slow_host_stops_the_queue_and_loses_nothing() {
    let host = Memory::new(5, true);
    let rig = rig(1, vec![port(0, true, "", &host)]);
    rig.start_queue(1, 0);
    transmit(&rig, b"a long line of text");
    assert_eq!(host.received(5), b"a lon");
    let used: u16 = rig.memory.read_obj(GuestAddress(USED + 2)).unwrap();
    assert_eq!(used, 0);
    // Saved in between, it goes on where it was.
    let mut image = Image::default();
    devices::Stateful::save(&*rig.function, "s", &mut image).unwrap();
    devices::Stateful::resume(&*rig.function);
    host.change(|state| state.room = 100);
    assert_eq!(rig.wait_used(1).len(), 1);
    assert_eq!(host.received(19), b"a long line of text");
    // A reset does not wait for the host.
    host.change(|state| state.room = 0);
    transmit(&rig, b"more");
    rig.set_status(0);
    assert_eq!(host.received(19).len(), 19);
}

#[test]
fn the_driver_hears_of_ports_names_and_connections() {
    let (console, stream) = (Memory::new(0, true), Memory::new(0, false));
    let ports = vec![
        port(0, true, "", &console),
        port(3, false, "org.x", &stream),
    ];
    let control = Arc::new(Control::default());
    let ports: Vec<_> = ports
        .into_iter()
        .map(|p| Port::new(p, control.clone()))
        .collect();
    ports.iter().for_each(|p| p.listen(true));
    let sent = || {
        let messages = control.save();
        control.clear();
        messages
    };
    assert!(sent().is_empty(), "nobody asked");
    let send = |rig: &Rig, m: [u8; 8]| {
        transmit(rig, &m);
    };
    let rig = Rig::new(Arc::new(Serial::new(31, Vec::new())));
    rig.start_queue(CONTROL_OUT, feature::MULTIPORT);
    // Unknown ports and events harm nobody.
    for m in [message(9, 3, 1), message(0, 99, 1), message(u32::MAX, 6, 1)] {
        send(&rig, m);
        rig.wait_used(1);
    }
    ports.iter().for_each(|p| p.introduce());
    let mut name = message(3, 7, 1).to_vec();
    name.extend(b"org.x");
    let expected = [message(0, 4, 1).to_vec(), message(0, 6, 1).to_vec(), name];
    assert_eq!(sent(), expected);
    stream.change(|state| state.connected = true);
    assert_eq!(sent(), [message(3, 6, 1)]);
    stream.send(b"x");
    assert!(sent().is_empty());
    stream.change(|state| state.connected = false);
    assert_eq!(sent(), [message(3, 6, 0)]);
}

#[test]
fn control_messages_reach_the_driver_in_order() {
    let host = Memory::new(0, true);
    let serial = Arc::new(Serial::new(31, vec![port(1, false, "p", &host)]));
    let rig = Rig::new(serial.clone());
    serial.control.send(1, control::event::PORT_ADD, 1, b"");
    rig.start_queue(CONTROL_IN, feature::MULTIPORT);
    let next = || {
        rig.submit(&[(BUFFERS, 64, WRITE)]);
        rig.wait_used(1);
        let mut bytes = [0; 9];
        let at = GuestAddress(BUFFERS);
        rig.memory.read_slice(&mut bytes, at).unwrap();
        bytes
    };
    assert_eq!(next()[..8], message(1, 1, 1));
    serial.ports[0].introduce();
    let name = next();
    assert_eq!((&name[..8], name[8]), (&message(1, 7, 1)[..], b'p'));
    assert_eq!(next()[..8], message(1, 6, 1));
}

#[test]
fn a_stream_waits_until_the_guest_opens_it() {
    let host = Memory::new(0, true);
    let control = Arc::new(Control::default());
    let port = Port::new(port(1, false, "", &host), control);
    port.listen(true);
    port.introduce();
    host.send(b"early");
    let saved = port.save();
    assert!(saved.ready && !saved.open && saved.told_connected);
    let rig = rig(
        2,
        vec![PortOptions {
            number: 1,
            console: false,
            name: String::new(),
            host: host.clone(),
        }],
    );
    rig.start_queue(4, feature::MULTIPORT);
    rig.submit(&[(BUFFERS, 64, WRITE)]);
    let used = || -> u16 { rig.memory.read_obj(GuestAddress(USED + 2)).unwrap() };
    std::thread::yield_now();
    assert_eq!((used(), host.has_input()), (0, true));
}

#[test]
fn cut_messages_and_buffers_without_room_break_the_queue() {
    let host = Memory::new(0, true);
    let rig = rig(2, vec![port(0, true, "", &host)]);
    rig.start_queue(CONTROL_OUT, feature::MULTIPORT);
    rig.submit(&[(BUFFERS, 7, 0)]);
    rig.wait_vector(0);
    assert_eq!(rig.status() & 0x40, 0x40);
    rig.set_status(0);
    // Without multiport the port is always open.
    rig.start_queue(0, 0);
    host.send(b"x");
    rig.submit(&[(BUFFERS, 8, 0)]);
    rig.wait_vector(0);
    assert_eq!(rig.status() & 0x40, 0x40);
}

#[test]
fn a_driver_that_takes_no_messages_costs_little() {
    let control = Control::default();
    (0..10_000).for_each(|_| control.send(1, 6, 1, b""));
    assert!(control.save().len() <= 256);
}

#[test]
fn an_emergency_write_reaches_the_console() {
    let host = Memory::new(9, true);
    let rig = rig(31, vec![port(0, true, "", &host)]);
    for byte in b"oops" {
        rig.write(0x2008, 4, u64::from(*byte));
    }
    assert_eq!(host.received(4), b"oops");
}
