//! The PCI transport as drivers use and abuse it, with the entropy device.

use crate::rng::Rng;
use crate::testing::*;
use devices::pci::PciFunction;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use vm_memory::{Bytes, GuestAddress};

const NEEDS_RESET: u64 = 0x40;
const BUFFER: (u64, u32, u16) = (BUFFERS, 64, WRITE);

fn rig() -> Rig {
    Rig::new(Arc::new(Rng::new()))
}

#[test]
fn the_capabilities_are_those_of_w18() {
    let rig = rig();
    let read = |offset| rig.function.config_read(offset, 4);
    assert_eq!(read(0), 0x1005_1af4);
    assert_eq!(read(0x2c), 0x0004_1af4);
    // MSI-X, then the configuration access, then the structures.
    let mut at = read(0x34) as u16 & 0xff;
    let mut list = Vec::new();
    while at != 0 {
        let head = read(at);
        let (bar, offset, length) = (read(at + 4) & 0xff, read(at + 8), read(at + 12));
        list.push((at, head as u8, head >> 24, bar, offset, length));
        at = (head >> 8) as u16 & 0xff;
    }
    assert_eq!((list[0].0, list[0].1), (0x98, 0x11));
    let expected = [
        (0x84, 9, 5, 0, 0, 0),
        (0x70, 9, 2, 4, 0x3000, 0x1000),
        (0x60, 9, 4, 4, 0x2000, 0x1000),
        (0x50, 9, 3, 4, 0x1000, 0x1000),
        (0x40, 9, 1, 4, 0x0000, 0x1000),
    ];
    assert_eq!(list[1..], expected);
    assert_eq!(read(0x80), 4, "multiplier");
}

#[test]
fn a_request_comes_back_with_its_message() {
    let rig = rig();
    rig.start(0);
    assert_eq!(rig.status(), 0xf);
    rig.writes.0.lock().clear();
    assert_eq!(rig.serve(&[BUFFER]), 64);
    let mut bytes = [0; 64];
    rig.memory
        .read_slice(&mut bytes, GuestAddress(BUFFERS))
        .unwrap();
    assert!(bytes.iter().any(|&b| b != 0));
    // The bytes were told of before the used ring's index.
    let writes = rig.writes.0.lock().clone();
    let place = |gpa| writes.iter().position(|w| w.0 == gpa).unwrap();
    assert!(place(BUFFERS) < place(USED + 2));
}

#[test]
fn without_msix_the_pin_follows_the_isr() {
    let rig = rig();
    rig.start(0);
    rig.function.config_write(0x9a, 2, 0);
    rig.submit(&[BUFFER]);
    while !rig.interrupts.pin.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
    assert_eq!(rig.function.config_read(6, 2) & 8, 8);
    assert_eq!(rig.read(0x1000, 1), 1);
    assert!(!rig.interrupts.pin.load(Ordering::SeqCst));
    assert_eq!(rig.read(0x1000, 1), 0);
}

#[test]
fn what_is_removed_stays_still() {
    let rig = rig();
    rig.start(0);
    rig.function.config_write(0x9a, 2, 0);
    rig.submit(&[BUFFER]);
    while !rig.interrupts.pin.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
    rig.function.removed();
    assert!(!rig.interrupts.pin.load(Ordering::SeqCst));
    // What an access that was on its way still may do.
    rig.negotiate(1 << 32);
    rig.set_status(0xf);
    assert_eq!(rig.status(), 0);
}

#[test]
fn unknown_features_are_refused() {
    let rig = rig();
    rig.negotiate(1 << 32 | 1 << 50);
    assert_eq!(rig.status(), 3);
    rig.set_status(0);
    rig.negotiate(1 << 32 | 1 << 29);
    assert_eq!(rig.status(), 0xb);
}

#[test]
fn event_index_suppresses_messages() {
    let rig = rig();
    rig.start(1 << 29);
    // used_event is behind the available ring's entries: not before the 2nd.
    let used_event = GuestAddress(AVAILABLE + 4 + 2 * u64::from(SIZE));
    rig.memory.write_obj(1u16, used_event).unwrap();
    rig.descriptor(DESCRIPTORS, 0, BUFFER);
    rig.descriptor(DESCRIPTORS, 1, BUFFER);
    rig.offer(0);
    rig.offer(1);
    rig.wait_vector(1);
    let used: u16 = rig.memory.read_obj(GuestAddress(USED + 2)).unwrap();
    assert_eq!(used, 2);
}

#[test]
fn indirect_descriptors_are_followed() {
    let rig = rig();
    rig.start(1 << 28);
    let table = 0x5000;
    rig.descriptor(table, 0, (BUFFERS, 16, WRITE | NEXT));
    rig.descriptor(table, 1, (BUFFERS + 0x100, 8, WRITE));
    assert_eq!(rig.serve(&[(table, 32, INDIRECT)]), 24);
}

/// What a malicious driver puts into the queue.
type Attack = fn(&Rig);

const ATTACKS: [(&str, Attack); 11] = [
    ("a loop", |r| {
        r.descriptor(DESCRIPTORS, 0, (BUFFERS, 1, WRITE | NEXT));
        r.memory
            .write_obj(0u16, GuestAddress(DESCRIPTORS + 14))
            .unwrap();
        r.offer(0);
    }),
    ("a next outside the table", |r| {
        r.descriptor(DESCRIPTORS, SIZE - 1, (BUFFERS, 1, WRITE | NEXT));
        r.offer(SIZE - 1);
    }),
    ("a head outside the table", |r| r.offer(0x7fff)),
    ("a buffer outside memory", |r| {
        r.submit(&[(0x8000_0000, 16, WRITE)]);
    }),
    ("a buffer past the end of memory", |r| {
        r.submit(&[(0xf_fff0, 0x20, WRITE)]);
    }),
    ("a buffer at the end of addresses", |r| {
        r.submit(&[(u64::MAX - 7, 16, WRITE)]);
    }),
    ("a huge buffer", |r| {
        r.submit(&[(BUFFERS, u32::MAX, WRITE)]);
    }),
    ("an index far ahead", |r| r.set_available(0x4000)),
    ("nested tables", |r| {
        r.descriptor(0x5000, 0, (0x5000, 16, INDIRECT));
        r.submit(&[(0x5000, 16, INDIRECT)]);
    }),
    ("half a table", |r| {
        r.submit(&[(0x5000, 17, INDIRECT)]);
    }),
    ("nothing to write", |r| r.submit(&[(BUFFERS, 64, 0)])),
];

#[test]
fn attacks_end_in_needs_reset_and_reset_heals() {
    let rig = rig();
    for (what, attack) in ATTACKS {
        rig.start(1 << 28);
        attack(&rig);
        rig.wait_vector(0);
        assert_eq!(rig.status(), 0xf | NEEDS_RESET, "{what}");
        rig.set_status(0);
        assert_eq!(rig.status(), 0, "{what}");
        rig.start(0);
        assert_eq!(rig.serve(&[BUFFER]), 64, "after {what}");
        rig.set_status(0);
    }
}

#[test]
fn queues_outside_memory_never_start() {
    let far = 0x4000_0000;
    let end = (1 << 20) - 4;
    for rings in [
        [far, AVAILABLE, USED],
        [DESCRIPTORS, far, USED],
        [DESCRIPTORS, AVAILABLE, far],
        [end, AVAILABLE, USED],
        [DESCRIPTORS, AVAILABLE, u64::MAX - 3],
        [DESCRIPTORS + 1, AVAILABLE, USED],
    ] {
        let rig = rig();
        rig.enable_msix();
        rig.negotiate(1 << 32);
        rig.set_queue(rings);
        rig.set_status(0xf);
        assert_eq!(rig.status(), 0xf | NEEDS_RESET, "{rings:x?}");
    }
}

#[test]
fn rings_on_top_of_each_other_harm_only_the_guest() {
    let rig = rig();
    rig.enable_msix();
    rig.negotiate(1 << 32);
    rig.set_queue([DESCRIPTORS, DESCRIPTORS, DESCRIPTORS]);
    rig.set_status(0xf);
    for index in [1, 2, 0x10, 0xffff] {
        rig.memory
            .write_obj(index, GuestAddress(DESCRIPTORS + 2))
            .unwrap();
        rig.write(0x3000, 2, 0);
    }
    rig.set_status(0);
    assert_eq!(rig.status(), 0);
}

#[test]
fn notifications_wait_for_bus_mastering() {
    let rig = rig();
    rig.start(0);
    rig.function.config_write(4, 2, 2);
    rig.submit(&[BUFFER]);
    let used: u16 = rig.memory.read_obj(GuestAddress(USED + 2)).unwrap();
    assert_eq!(used, 0);
    rig.function.config_write(4, 2, 6);
    rig.wait_vector(1);
}

#[test]
fn the_configuration_access_capability_reaches_the_bar() {
    let rig = rig();
    rig.function.config_write(0x88, 1, 4);
    rig.function.config_write(0x8c, 4, 0x14);
    rig.function.config_write(0x90, 4, 1);
    rig.function.config_write(0x94, 4, 1);
    assert_eq!(rig.status(), 1);
    assert_eq!(rig.function.config_read(0x94, 4), 1);
    // A width that does not exist reaches nothing.
    rig.function.config_write(0x90, 4, 3);
    rig.function.config_write(0x94, 4, 0);
    assert_eq!(rig.status(), 1);
}

/// Marsaglia's xorshift64.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn random_accesses_never_panic_or_hang() {
    let rig = rig();
    rig.start(0);
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..200_000 {
        let (what, value) = (
            next(&mut state),
            next(&mut state) >> (next(&mut state) % 64),
        );
        let size = [1, 2, 4, 8][what as usize >> 8 & 3];
        let offset = next(&mut state);
        let bar = (what >> 16) as u8 % 6;
        let inside = offset % [0x40, 0x4000, 0x8000, u64::MAX][what as usize >> 24 & 3];
        let place = offset as u16 & 0x1ff;
        let f = &rig.function;
        match what & 3 {
            0 => black_box(f.config_read(place, size.min(4)).into()),
            1 => black_box(
                f.config_write(place, size.min(4), value as u32)
                    .is_some()
                    .into(),
            ),
            2 => black_box(f.bar_read(bar, inside, size)),
            _ => black_box(f.bar_write(bar, inside, size, value).is_some().into()),
        };
    }
    rig.set_status(0);
    rig.start(0);
    assert_eq!(rig.serve(&[BUFFER]), 64);
}

#[test]
fn legacy_registers_run_the_device() {
    let rig = rig();
    let write = |offset, size, value| {
        rig.function.bar_write(0, offset, size, value);
    };
    let read = |offset, size| rig.function.bar_read(0, offset, size);
    rig.enable_msix();
    write(0x12, 1, 3);
    write(0x04, 4, 0);
    write(0x0e, 2, 0);
    assert_eq!(read(0x0c, 2), u64::from(SIZE));
    write(0x16, 2, 1);
    write(0x08, 4, 0x20);
    assert_eq!(read(0x08, 4), 0x20);
    write(0x12, 1, 7);
    // Descriptors, available ring behind them, used ring on the next page.
    rig.descriptor(0x2_0000, 0, BUFFER);
    let available = 0x2_0000 + 16 * u64::from(SIZE);
    rig.memory
        .write_obj(1u16, GuestAddress(available + 2))
        .unwrap();
    write(0x10, 2, 0);
    rig.wait_vector(1);
    let used: u16 = rig.memory.read_obj(GuestAddress(0x2_1002)).unwrap();
    assert_eq!(used, 1);
    write(0x12, 1, 0);
    assert_eq!(read(0x08, 4), 0);
}
