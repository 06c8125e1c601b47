//! Frames from the driver.

use super::*;
use ::net::{Offload, Partial, SegmentKind, Segments};
use devices::pci::PciFunction;

#[test]
fn frames_come_with_what_is_left_to_do() {
    let lab = Lab::new();
    let features = feature::CSUM | feature::HOST_TSO4 | feature::HOST_ECN;
    lab.rig.start_queue(TX, features);
    let long = frame([2; 6], 5000);
    // Header and frame in pieces that have nothing to do with either.
    let header = [1, 0x81, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0];
    lab.put(BUFFERS, &header[..5]);
    lab.put(BUFFERS + 0x100, &header[5..]);
    lab.put(BUFFERS + 0x107, &long.bytes[..9]);
    lab.put(BUFFERS + 0x2000, &long.bytes[9..]);
    let chain = [
        (BUFFERS, 5, 0),
        (BUFFERS + 0x100, 16, 0),
        (BUFFERS + 0x2000, 4991, 0),
    ];
    assert_eq!(lab.rig.serve(&chain), 0);
    let offload = Offload {
        checksum: Some(Partial {
            start: 34,
            offset: 16,
        }),
        verified: false,
        segments: Some(Segments {
            kind: SegmentKind::TcpV4,
            ecn: true,
            header_len: 54,
            size: 1448,
        }),
    };
    let expected = Frame { offload, ..long };
    assert_eq!(lab.wire.sent(1), [expected]);
    // A plain one is not taken for what was before it.
    lab.put(BUFFERS, &[0; 12]);
    lab.rig.serve(&[(BUFFERS, 12 + 20, 0)]);
    let sent = lab.wire.sent(1);
    assert_eq!(
        (sent[0].bytes.len(), sent[0].offload),
        (20, Offload::default())
    );
    assert_eq!(lab.link.counters().sent, 2);
}

#[test]
fn frames_that_make_no_sense_are_dropped() {
    let lab = Lab::new();
    lab.rig.start_queue(TX, feature::CSUM);
    let most = 12 + (64 << 10) + 256;
    let cases: [(u8, u8, u32); 6] = [
        (0, 0, 12),
        (0, 0, 12 + 13),
        (0, 0, most + 1),
        // A checksum outside, segments that were not agreed on or are unknown.
        (1, 0, 60),
        (1, 1, 200),
        (0, 0x7f, 200),
    ];
    for (i, (flags, gso, len)) in (1..).zip(cases) {
        lab.put(BUFFERS, &[flags, gso, 0, 0, 9, 0, 60, 0, 16, 0, 0, 0]);
        assert_eq!(lab.rig.serve(&[(BUFFERS, len, 0)]), 0);
        assert_eq!(lab.link.counters().not_sent, i);
    }
    lab.put(BUFFERS, &[0; 12]);
    lab.rig.serve(&[(BUFFERS, most, 0)]);
    assert_eq!(lab.wire.sent(1)[0].bytes.len(), (64 << 10) + 256);
}

#[test]
fn chains_that_are_no_frames_stop_the_device() {
    let lab = Lab::new();
    let cases: [&[(u64, u32, u16)]; 4] = [
        &[(BUFFERS, 11, 0)],
        &[(BUFFERS, 100, WRITE)],
        &[(BUFFERS, 100, 0), (BUFFERS, 1, WRITE)],
        &[(1 << 40, 100, 0)],
    ];
    for chain in cases {
        lab.rig.start_queue(TX, 0);
        lab.rig.submit(chain);
        lab.needs_reset(&format!("{chain:?}"));
    }
    // It works again afterwards.
    lab.rig.start_queue(TX, 0);
    lab.put(BUFFERS, &[0; 72]);
    lab.rig.submit(&[(BUFFERS, 72, 0)]);
    assert_eq!(lab.wire.sent(1).len(), 1);
}

#[test]
fn a_frame_waits_for_its_network() {
    let lab = Lab::new();
    lab.wire.state.lock().full = true;
    lab.rig.start_queue(TX, 0);
    lab.put(BUFFERS, &[0; 72]);
    lab.rig.submit(&[(BUFFERS, 72, 0)]);
    lab.wire.wait_until(|state| state.refused > 0);
    assert_eq!(lab.word(USED + 2), 0);
    // Saved meanwhile, it is sent once, in its other life.
    let mut image = lab.save();
    lab.restore(&mut image);
    lab.wire.change(|state| state.full = false);
    assert!(lab.wire.state.lock().sent.is_empty());
    lab.resume();
    lab.rig.wait_used(1);
    assert_eq!(lab.wire.sent(1).len(), 1);
    // A reset does not wait for the network, and forgets the frame.
    lab.wire
        .change(|state| (state.full, state.refused) = (true, 0));
    lab.rig.offer(0);
    lab.wire.wait_until(|state| state.refused > 0);
    lab.rig.set_status(0);
    lab.wire.change(|state| state.full = false);
    lab.rig.start_queue(TX, 0);
    lab.put(BUFFERS + 12, &[7; 60]);
    lab.rig.submit(&[(BUFFERS, 72, 0)]);
    assert_eq!(lab.wire.sent(1)[0].bytes[0], 7);
}

#[test]
fn a_burst_is_one_interrupt() {
    let event_idx = 1 << 29;
    let lab = Lab::new();
    lab.rig.start_queue(TX, event_idx);
    lab.put(BUFFERS, &[0; 72]);
    let head = |i: u16| (BUFFERS, 72 + u32::from(i), 0);
    (0..SIZE).for_each(|i| lab.rig.descriptor(DESCRIPTORS, i, head(i)));
    let slots: Vec<u8> = (0..SIZE).flat_map(u16::to_le_bytes).collect();
    lab.put(AVAILABLE + 4, &slots);
    // The driver wants to hear of the sixth.
    lab.put(AVAILABLE + 4 + 2 * u64::from(SIZE), &5u16.to_le_bytes());
    lab.rig.set_available(3);
    lab.wire.wait_until(|state| state.sent.len() == 3);
    lab.rig.set_available(SIZE);
    lab.rig.wait_vector(1);
    let lengths = lab.wire.sent(8);
    let lengths: Vec<usize> = lengths.iter().map(|f| f.bytes.len()).collect();
    assert_eq!(lengths, [60, 61, 62, 63, 64, 65, 66, 67]);
    assert_eq!(lab.word(USED + 2), SIZE);
}

#[test]
fn a_legacy_driver_has_a_short_header() {
    let lab = Lab::new();
    lab.rig.enable_msix();
    let bar = |offset, size, value| {
        lab.rig.function.bar_write(0, offset, size, value);
    };
    lab.put(DESCRIPTORS, &[0; 0x3000]);
    [1, 3].into_iter().for_each(|status| bar(0x12, 1, status));
    bar(0x04, 4, 0);
    bar(0x0e, 2, TX.into());
    bar(0x08, 4, DESCRIPTORS >> 12);
    bar(0x16, 2, 1);
    bar(0x12, 1, 7);
    lab.put(BUFFERS, &[0; 80]);
    lab.put(BUFFERS + 10, &[9]);
    lab.rig.descriptor(DESCRIPTORS, 0, (BUFFERS, 70, 0));
    lab.put(AVAILABLE + 2, &1u16.to_le_bytes());
    bar(0x10, 2, TX.into());
    let sent = lab.wire.sent(1);
    assert_eq!((sent[0].bytes.len(), sent[0].bytes[0]), (60, 9));
    // It sets the address in the configuration.
    bar(0x18 + 5, 1, 0x99);
    assert_eq!(lab.rig.read(0x2004, 2), 0x9934);
    lab.rig.set_status(0);
    assert_eq!(lab.rig.read(0x2004, 2), 0x5634);
}
