//! The queue of commands.

use super::*;

/// All that has to do with commands.
const FEATURES: u64 = feature::CTRL_VQ
    | feature::CTRL_RX
    | feature::CTRL_RX_EXTRA
    | feature::CTRL_MAC_ADDR
    | feature::CTRL_GUEST_OFFLOADS
    | feature::GUEST_CSUM
    | feature::GUEST_TSO4;

/// Does a command: its answer, 0 for done.
pub(super) fn command(lab: &Lab, bytes: &[u8]) -> u8 {
    let answer = BUFFERS + 0x1_8000;
    lab.put(BUFFERS, bytes);
    lab.put(answer, &[0xee]);
    // Class and command apart from their data, as Linux does.
    let rest = bytes.len() as u32 - 2;
    let chain = [(BUFFERS, 2, 0), (BUFFERS + 2, rest, 0), (answer, 1, WRITE)];
    let chain = if rest == 0 {
        [chain[0], chain[2]].to_vec()
    } else {
        chain.to_vec()
    };
    assert_eq!(lab.rig.serve(&chain), 1);
    lab.get(answer, 1)[0]
}

fn table(unicast: u32, multicast: u32) -> Vec<u8> {
    let list = |n: u32| {
        let addresses = (0..n).flat_map(|i| [1, 0, 0x5e, 0, (i >> 8) as u8, i as u8]);
        [n.to_le_bytes().to_vec(), addresses.collect()].concat()
    };
    [vec![1, 0], list(unicast), list(multicast)].concat()
}

#[test]
fn commands_change_the_settings() {
    let lab = Lab::new();
    lab.rig.start_queue(CONTROL, FEATURES);
    let settings = || lab.device.settings.read().clone();
    assert_eq!(command(&lab, &[0, 0, 0]), 0);
    assert_eq!(command(&lab, &[0, 1, 1]), 0);
    assert_eq!(command(&lab, &[0, 5, 1]), 0);
    let modes = [false, true, false, false, false, true];
    assert_eq!(settings().filter.modes, modes);
    assert_eq!(command(&lab, &[1, 1, 2, 3, 4, 5, 6, 7]), 0);
    assert_eq!(settings().filter.mac, [2, 3, 4, 5, 6, 7]);
    assert_eq!(lab.rig.read(0x2000, 4), 0x0504_0302);
    assert_eq!(command(&lab, &table(1, 64)), 0);
    let filter = settings().filter;
    assert_eq!(
        (
            filter.unicast.addresses.len(),
            filter.multicast.addresses.len()
        ),
        (1, 64)
    );
    assert_eq!(command(&lab, &table(100, 0)), 0);
    assert!(settings().filter.unicast.all && !settings().filter.multicast.all);
    // What is accepted reaches the network.
    assert_eq!(command(&lab, &[5, 0, 2, 0, 0, 0, 0, 0, 0, 0]), 0);
    lab.wire.wait_until(|state| state.accepts.len() == 2);
    let accepts = lab.wire.state.lock().accepts.clone();
    assert!(accepts[0].tcp4 && !accepts[1].tcp4 && accepts[1].checksum);
}

#[test]
fn commands_that_make_no_sense_are_refused_and_change_nothing() {
    let lab = Lab::new();
    lab.rig.start_queue(CONTROL, FEATURES);
    let before = lab.device.settings.read().clone();
    let mut cut = table(2, 2);
    cut.pop();
    let cases: [&[u8]; 12] = [
        &[0, 0],
        &[0, 6, 1],
        &[0, 255, 1],
        &[1, 0],
        &[1, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0],
        &cut,
        &[1, 1, 2, 3, 4, 5, 6],
        &[1, 2, 0, 0],
        &[4, 0, 2, 0],
        &[5, 0, 2, 0, 0],
        // Not negotiated: the other TSO.
        &[5, 0, 0x82, 1, 0, 0, 0, 0, 0, 0],
        &[0xff, 0xff, 0],
    ];
    for bytes in cases {
        assert_eq!(command(&lab, bytes), 1, "{bytes:x?}");
    }
    // More than is read at all.
    assert_eq!(command(&lab, &table(11_000, 0)), 1);
    assert_eq!(*lab.device.settings.read(), before);
}

#[test]
fn only_what_was_agreed_on_is_obeyed() {
    let lab = Lab::new();
    lab.rig.start_queue(CONTROL, feature::CTRL_VQ);
    let commands: [&[u8]; 4] = [
        &[0, 0, 0],
        &[0, 2, 0],
        &[1, 1, 2, 3, 4, 5, 6, 7],
        &table(0, 0),
    ];
    for bytes in commands {
        assert_eq!(command(&lab, bytes), 1, "{bytes:x?}");
    }
}

#[test]
fn chains_that_are_no_commands_stop_the_device() {
    let lab = Lab::new();
    let cases: [&[(u64, u32, u16)]; 3] = [
        &[(BUFFERS, 1, 0), (BUFFERS, 1, WRITE)],
        &[(BUFFERS, 3, 0)],
        &[(BUFFERS, 1, WRITE)],
    ];
    for chain in cases {
        lab.rig.start_queue(CONTROL, FEATURES);
        lab.rig.submit(chain);
        lab.needs_reset(&format!("{chain:?}"));
    }
}

#[test]
fn settings_are_saved_and_a_reset_forgets_them() {
    let lab = Lab::new();
    lab.rig.start_queue(CONTROL, FEATURES);
    command(&lab, &[0, 0, 0]);
    command(&lab, &[1, 1, 2, 3, 4, 5, 6, 7]);
    command(&lab, &table(3, 65));
    command(&lab, &[5, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    let set = lab.device.settings.read().clone();
    lab.link.set_up(false);
    let mut image = lab.save();
    let fresh = Lab::new();
    fresh.restore(&mut image);
    assert_eq!(*fresh.device.settings.read(), set);
    assert!(!fresh.link.is_up());
    fresh.resume();
    fresh.wire.wait_until(|state| state.accepts.len() == 1);
    assert!(!fresh.wire.state.lock().accepts[0].tcp4);
    fresh.rig.set_status(0);
    assert_eq!(*fresh.device.settings.read(), Settings::new(MAC, 1));
}
