//! Frames to the driver.

use super::*;
use ::net::{Offload, Partial};

fn send(lab: &Lab, frames: impl IntoIterator<Item = Frame>) {
    lab.wire.change(|state| state.incoming.extend(frames));
}

#[test]
fn a_frame_goes_into_one_buffer_of_several_pieces() {
    let lab = Lab::new();
    lab.rig.start_queue(RX, 0);
    send(&lab, [frame(MAC, 100)]);
    let chain = [
        (BUFFERS, 7, WRITE),
        (BUFFERS + 0x100, 25, WRITE),
        (BUFFERS + 0x200, 0x100, WRITE),
    ];
    lab.rig.submit(&chain);
    lab.rig.wait_used(1);
    assert_eq!(lab.used(0), (0, 112));
    let pieces = [
        lab.get(BUFFERS, 7),
        lab.get(BUFFERS + 0x100, 25),
        lab.get(BUFFERS + 0x200, 80),
    ];
    let bytes = pieces.concat();
    assert_eq!(bytes[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(bytes[12..], frame(MAC, 100).bytes);
    // What was written was told: whoever translates code may have to know.
    let told = lab.rig.writes.0.lock();
    assert!(told.contains(&(BUFFERS + 0x200, 80)), "{told:x?}");
}

#[test]
fn what_has_no_room_is_dropped_and_its_buffer_stays() {
    let lab = Lab::new();
    lab.rig.start_queue(RX, 0);
    send(&lab, [frame(MAC, 200), frame(MAC, 60)]);
    lab.offer_buffer(0, BUFFERS, 12 + 199);
    lab.rig.wait_used(1);
    assert_eq!(lab.used(0), (0, 72));
    let counters = lab.link.counters();
    assert_eq!((counters.received, counters.not_received), (1, 1));
}

#[test]
fn a_frame_is_merged_of_small_buffers() {
    let lab = Lab::new();
    lab.rig.start_queue(RX, feature::MRG_RXBUF);
    for i in 0..4 {
        let at = BUFFERS + 0x1000 * u64::from(i);
        lab.rig.descriptor(DESCRIPTORS, i, (at, 100, WRITE));
        lab.put(AVAILABLE + 4 + 2 * u64::from(i), &i.to_le_bytes());
    }
    lab.rig.set_available(4);
    send(&lab, [frame(MAC, 250), frame(MAC, 60)]);
    lab.rig.wait_used(4);
    let used = [0, 1, 2, 3].map(|slot| lab.used(slot));
    assert_eq!(used, [(0, 100), (1, 100), (2, 62), (3, 72)]);
    assert_eq!((lab.word(BUFFERS + 10), lab.word(BUFFERS + 0x300a)), (3, 1));
    let pieces = [(12, 88), (0x1000, 100), (0x2000, 62)];
    let pieces = pieces.map(|(at, len)| lab.get(BUFFERS + at, len));
    assert_eq!(pieces.concat(), frame(MAC, 250).bytes);
}

#[test]
fn frames_wait_for_room() {
    for features in [0, feature::MRG_RXBUF] {
        let lab = Lab::new();
        lab.rig.start_queue(RX, features);
        send(&lab, (0..5).map(|i| frame(MAC, 60 + i)));
        for i in 0..5u16 {
            lab.offer_buffer(0, BUFFERS, 0x800);
            lab.rig.wait_used(1);
            assert_eq!(lab.used(i.into()), (0, 72 + u32::from(i)));
        }
        assert_eq!(lab.link.counters().not_received, 0);
    }
}

#[test]
fn buffers_taken_ahead_are_there_after_a_save() {
    let lab = Lab::new();
    lab.rig.start_queue(RX, feature::MRG_RXBUF);
    for i in 0..3 {
        lab.offer_buffer(i, BUFFERS + 0x800 * u64::from(i), 0x800);
    }
    send(&lab, [frame(MAC, 60)]);
    lab.rig.wait_used(1);
    let mut image = lab.save();
    lab.restore(&mut image);
    lab.resume();
    send(&lab, [frame(MAC, 61), frame(MAC, 62)]);
    lab.rig.wait_used(2);
    let used = [0, 1, 2].map(|slot| lab.used(slot));
    assert_eq!(used, [(0, 72), (1, 73), (2, 74)]);
}

#[test]
fn buffers_that_are_none_stop_the_device() {
    let lab = Lab::new();
    let cases: [&[(u64, u32, u16)]; 3] = [
        &[(BUFFERS, 100, 0)],
        &[(BUFFERS, 11, WRITE)],
        &[(BUFFERS, 100, 0), (BUFFERS, 100, WRITE)],
    ];
    for chain in cases {
        lab.rig.start_queue(RX, feature::MRG_RXBUF);
        lab.rig.submit(chain);
        send(&lab, [frame(MAC, 60)]);
        lab.needs_reset(&format!("{chain:?}"));
    }
}

#[test]
fn a_driver_gets_what_it_wants_and_can_do() {
    let lab = Lab::new();
    lab.rig.start_queue(RX, feature::GUEST_CSUM);
    lab.device.settings.write().filter.modes = Default::default();
    for i in 0..4 {
        lab.offer_buffer(i, BUFFERS + 0x800 * u64::from(i), 0x800);
    }
    let partial = Offload {
        checksum: Some(Partial {
            start: 34,
            offset: 6,
        }),
        ..Offload::default()
    };
    let with = |mut frame: Frame, offload| {
        frame.offload = offload;
        frame
    };
    let segments = Some(::net::Segments {
        kind: ::net::SegmentKind::TcpV4,
        ecn: false,
        header_len: 54,
        size: 1448,
    });
    send(
        &lab,
        [
            frame([2; 6], 60),
            frame([3; 6], 60),
            with(frame(MAC, 60), partial),
            with(
                frame(MAC, 61),
                Offload {
                    segments,
                    ..partial
                },
            ),
            frame([0xff; 6], 62),
        ],
    );
    lab.rig.wait_used(2);
    assert_eq!([lab.used(0), lab.used(1)], [(0, 72), (1, 74)]);
    assert_eq!(lab.get(BUFFERS, 12), [1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 1, 0]);
    assert_eq!(lab.link.counters().not_received, 1);
    let accepts = lab.wire.state.lock().accepts.clone();
    assert_eq!(accepts.len(), 1);
    assert!(accepts[0].checksum && !accepts[0].tcp4);
}
