//! Several pairs of queues.

use super::commands::command;
use super::*;

const FEATURES: u64 = feature::MQ | feature::CTRL_VQ;
/// Of two pairs: the second one's queues, and commands.
const RX_1: u16 = 2;
const TX_1: u16 = 3;
const CONTROL_2: u16 = 4;
/// Rings of one more queue.
const RINGS: [u64; 3] = [0x5000, 0x6000, 0x7000];

fn options() -> Options {
    Options {
        mac: MAC,
        features: feature::OPTIONAL | feature::MQ,
        ..Options::default()
    }
}

fn lab() -> Lab {
    let lab = Lab::with_queues(2, options());
    lab.put(RINGS[0], &[0; 0x3000]);
    lab
}

fn set_pairs(lab: &Lab, pairs: u16) -> u8 {
    let [low, high] = pairs.to_le_bytes();
    command(lab, &[4, 0, low, high])
}

/// Makes the first descriptor of the queue with [`RINGS`] available once more.
fn offer(lab: &Lab, queue: u16, (at, len, flags): (u64, u32, u16)) {
    lab.rig.descriptor(RINGS[0], 0, (at, len, flags));
    let index = lab.word(RINGS[1] + 2);
    lab.put(RINGS[1] + 4 + 2 * u64::from(index % SIZE), &[0, 0]);
    lab.put(RINGS[1] + 2, &(index + 1).to_le_bytes());
    lab.rig
        .write(0x3000 + 4 * u64::from(queue), 2, queue.into());
}

fn wait_used(lab: &Lab, index: u16) {
    while lab.word(RINGS[2] + 2) != index {
        lab.rig.wait_vector(1);
    }
}

#[test]
fn there_are_as_many_as_the_network_has_queues() {
    let look = |count, options| {
        let rig = Lab::with_queues(count, options).rig;
        let mq = rig.read(0x04, 4) & feature::MQ != 0;
        (mq, rig.read(0x12, 2), rig.read(0x2008, 2))
    };
    assert_eq!(look(3, options()), (true, 7, 3));
    assert_eq!(look(1, options()), (true, 3, 1));
    // Nobody asked for several; the field is not there then.
    assert_eq!(look(3, Options::default()), (false, 3, 0));
    let silent = Options {
        features: options().features & !feature::CTRL_VQ,
        ..options()
    };
    assert_eq!(look(3, silent), (false, 2, 0));
    // Queues of the largest size in front of that of commands.
    let lab = Lab::with_queues(2, options());
    let sizes = [0, 1, 2, 3, 4, 5].map(|queue| {
        lab.rig.write(0x16, 2, queue);
        lab.rig.read(0x18, 2)
    });
    assert_eq!(sizes, [256, 256, 256, 256, 64, 0]);
}

#[test]
fn frames_come_on_the_pairs_in_use() {
    let lab = lab();
    let wire = &lab.more[0];
    assert!(wire.state.lock().off && !lab.wire.state.lock().off);
    lab.rig.start_queues(CONTROL_2, &[(RX_1, RINGS)], FEATURES);
    let room = (BUFFERS + 0x8000, 0x800, WRITE);
    offer(&lab, RX_1, room);
    assert!(wire.state.lock().off, "one pair is in use");
    assert_eq!(set_pairs(&lab, 2), 0);
    wire.wait_until(|state| !state.off);
    wire.change(|state| state.incoming.push_back(frame(MAC, 60)));
    wait_used(&lab, 1);
    assert_eq!(lab.get(room.0 + 12, 60), frame(MAC, 60).bytes);
    // Given up: what comes late has nobody to go to.
    offer(&lab, RX_1, room);
    assert_eq!(set_pairs(&lab, 1), 0);
    wire.wait_until(|state| state.off);
    wire.change(|state| state.incoming.push_back(frame(MAC, 61)));
    assert_eq!(set_pairs(&lab, 1), 0);
    assert_eq!(lab.word(RINGS[2] + 2), 1);
    assert_eq!(set_pairs(&lab, 2), 0);
    wait_used(&lab, 2);
}

#[test]
fn each_pair_sends_to_its_queue() {
    let lab = lab();
    lab.rig.start_queues(CONTROL_2, &[(TX_1, RINGS)], FEATURES);
    let at = BUFFERS + 0x8000;
    lab.put(at, &[0; 12]);
    lab.put(at + 12, &frame(MAC, 60).bytes);
    // Nobody has asked for the pair, but the buffer comes back.
    offer(&lab, TX_1, (at, 72, 0));
    wait_used(&lab, 1);
    assert_eq!(lab.link.counters().not_sent, 1);
    assert_eq!(set_pairs(&lab, 2), 0);
    lab.more[0].wait_until(|state| !state.off);
    offer(&lab, TX_1, (at, 72, 0));
    wait_used(&lab, 2);
    assert_eq!(lab.more[0].sent(1), [frame(MAC, 60)]);
    assert!(lab.wire.state.lock().sent.is_empty());
}

#[test]
fn numbers_that_cannot_be_are_refused() {
    let lab = lab();
    lab.rig.start_queue(CONTROL_2, FEATURES);
    for wrong in [0, 3, 0x8000, 0xffff] {
        assert_eq!(set_pairs(&lab, wrong), 1, "{wrong}");
    }
    let cases: [&[u8]; 4] = [&[4, 0, 2], &[4, 0], &[4, 1, 2, 0], &[4, 2, 2, 0]];
    for bytes in cases {
        assert_eq!(command(&lab, bytes), 1, "{bytes:x?}");
    }
    assert_eq!(lab.device.settings.read().pairs, 1);
    assert_eq!(set_pairs(&lab, 2), 0);
}

#[test]
fn a_driver_of_one_pair_has_its_commands_behind_it() {
    let lab = lab();
    lab.rig
        .start_queue(CONTROL, feature::CTRL_VQ | feature::CTRL_RX);
    assert_eq!(command(&lab, &[0, 0, 0]), 0);
    assert_eq!(set_pairs(&lab, 1), 1, "it was not agreed on");
}

#[test]
fn the_number_is_saved_and_a_reset_forgets_it() {
    let lab = lab();
    lab.rig.start_queue(CONTROL_2, FEATURES);
    assert_eq!(set_pairs(&lab, 2), 0);
    let mut image = lab.save();
    let fresh = Lab::with_queues(2, options());
    fresh.restore(&mut image);
    fresh.resume();
    fresh.more[0].wait_until(|state| !state.off);
    fresh.rig.set_status(0);
    assert!(fresh.more[0].state.lock().off);
    assert_eq!(fresh.device.settings.read().pairs, 1);
    // Settings of a device with more pairs.
    let mut image = Image::default();
    image.put(
        "n",
        &state::virtio::Net {
            pairs: 3,
            ..Default::default()
        },
    );
    let refused = fresh.device.restore("n", &mut image).unwrap_err();
    assert!(refused.to_string().contains("3 pairs"), "{refused}");
}
