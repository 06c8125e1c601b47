//! Expected values follow the 8254 data sheet's mode descriptions and timing
//! diagrams. Time is given in input clocks.

use super::channel::HZ;
use super::*;

/// The first ns of input clock `n`.
fn clk(n: u64) -> u64 {
    (n * 1_000_000_000).div_ceil(HZ)
}

/// Programs a channel at time 0: mode, word access.
fn program(pit: &mut Pit, channel: u16, mode: u8, count: u16) {
    pit.write(0x43, (channel as u8) << 6 | 0x30 | mode << 1, 0);
    write_word(pit, channel, count, 0);
}

fn write_word(pit: &mut Pit, channel: u16, count: u16, now: u64) {
    let [low, high] = count.to_le_bytes();
    pit.write(0x40 + channel, low, now);
    pit.write(0x40 + channel, high, now);
}

fn read_word(pit: &mut Pit, channel: u16, now: u64) -> u16 {
    let low = pit.read(0x40 + channel, now);
    u16::from_le_bytes([low, pit.read(0x40 + channel, now)])
}

fn outs(pit: &mut Pit, channel: usize, clocks: std::ops::Range<u64>) -> Vec<u8> {
    clocks.map(|n| pit.out(channel, clk(n)).into()).collect()
}

#[test]
fn mode_0_interrupt_on_terminal_count() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 0, 4);
    assert_eq!(outs(&mut pit, 0, 0..7), [0, 0, 0, 0, 1, 1, 1]);
    assert_eq!(pit.next_edge(), Some(clk(4)));
    assert_eq!(read_word(&mut pit, 0, clk(3)), 1);
    assert_eq!(read_word(&mut pit, 0, clk(5)), 0xffff, "wraps and goes on");
    pit.advance(clk(4));
    assert!(pit.take_irq());
    assert_eq!(pit.next_edge(), None, "only once");
}

#[test]
fn mode_0_first_byte_stops_the_count() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 0, 4);
    assert!(pit.out(0, clk(5)));
    pit.write(0x40, 3, clk(5));
    assert!(!pit.out(0, clk(100)));
    assert_eq!(pit.next_edge(), None);
    pit.write(0x40, 0, clk(100));
    assert_eq!(outs(&mut pit, 0, 100..105), [0, 0, 0, 1, 1]);
}

#[test]
fn mode_0_gate_pauses() {
    let mut pit = Pit::new();
    pit.write(0x61, 1, 0);
    program(&mut pit, 2, 0, 10);
    pit.write(0x61, 0, clk(4));
    assert_eq!(read_word(&mut pit, 2, clk(50)), 6);
    assert!(!pit.out(2, clk(50)));
    pit.write(0x61, 1, clk(100));
    assert!(!pit.out(2, clk(105)));
    assert!(pit.out(2, clk(106)));
}

#[test]
fn mode_1_one_shot_is_triggered_and_retriggered_by_the_gate() {
    let mut pit = Pit::new();
    program(&mut pit, 2, 1, 3);
    assert!(pit.out(2, clk(10)), "high until the trigger");
    pit.write(0x61, 1, clk(10));
    assert_eq!(outs(&mut pit, 2, 10..15), [0, 0, 0, 1, 1]);
    pit.write(0x61, 0, clk(15));
    pit.write(0x61, 1, clk(20));
    pit.write(0x61, 0, clk(21));
    pit.write(0x61, 1, clk(22));
    assert_eq!(outs(&mut pit, 2, 22..26), [0, 0, 0, 1]);
    // A new count is for the next trigger.
    write_word(&mut pit, 2, 5, clk(30));
    pit.write(0x61, 0, clk(30));
    pit.write(0x61, 1, clk(31));
    assert_eq!(outs(&mut pit, 2, 31..37), [0, 0, 0, 0, 0, 1]);
}

#[test]
fn mode_2_rate_generator() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 2, 3);
    assert_eq!(outs(&mut pit, 0, 0..7), [1, 1, 0, 1, 1, 0, 1]);
    let counts: Vec<_> = (0..5).map(|n| read_word(&mut pit, 0, clk(n))).collect();
    assert_eq!(counts, [3, 2, 1, 3, 2]);
}

#[test]
fn mode_2_new_count_waits_for_the_end_of_the_cycle() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 2, 1000);
    write_word(&mut pit, 0, 500, clk(300));
    assert_eq!(read_word(&mut pit, 0, clk(999)), 1);
    assert_eq!(pit.next_edge(), Some(clk(1000)));
    pit.advance(clk(1000));
    assert!(pit.take_irq());
    pit.ack();
    assert!(!pit.take_irq());
    assert_eq!(pit.next_edge(), Some(clk(1500)));
    assert_eq!(read_word(&mut pit, 0, clk(1001)), 499);
}

#[test]
fn mode_3_square_wave() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 3, 4);
    assert_eq!(outs(&mut pit, 0, 0..8), [1, 1, 0, 0, 1, 1, 0, 0]);
    let counts: Vec<_> = (0..4).map(|n| read_word(&mut pit, 0, clk(n))).collect();
    assert_eq!(counts, [4, 2, 4, 2]);
    program(&mut pit, 0, 3, 5);
    assert_eq!(outs(&mut pit, 0, 0..6), [1, 1, 1, 0, 0, 1]);
    let counts: Vec<_> = (0..5).map(|n| read_word(&mut pit, 0, clk(n))).collect();
    assert_eq!(counts, [4, 2, 0, 4, 2]);
}

#[test]
fn mode_3_new_count_waits_for_the_end_of_the_half_cycle() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 3, 10);
    write_word(&mut pit, 0, 4, clk(2));
    // High for 5, then low for 2 of the new count, then high for 2.
    assert_eq!(outs(&mut pit, 0, 0..11), [1, 1, 1, 1, 1, 0, 0, 1, 1, 0, 0]);
}

#[test]
fn mode_2_gate_restarts() {
    let mut pit = Pit::new();
    pit.write(0x61, 1, 0);
    program(&mut pit, 2, 2, 100);
    pit.write(0x61, 0, clk(40));
    assert!(pit.out(2, clk(99)), "high while the gate is low");
    pit.write(0x61, 1, clk(200));
    assert_eq!(read_word(&mut pit, 2, clk(210)), 90);
}

#[test]
fn modes_4_and_5_strobe() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 4, 3);
    assert_eq!(outs(&mut pit, 0, 0..6), [1, 1, 1, 0, 1, 1]);
    assert_eq!(pit.next_edge(), Some(clk(4)));
    program(&mut pit, 2, 5, 3);
    assert_eq!(outs(&mut pit, 2, 0..6), [1; 6]);
    pit.write(0x61, 1, clk(6));
    assert_eq!(outs(&mut pit, 2, 6..12), [1, 1, 1, 0, 1, 1]);
}

#[test]
fn dont_care_mode_bits() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 7, 4);
    assert_eq!(outs(&mut pit, 0, 0..4), [1, 1, 0, 0], "7 is mode 3");
}

#[test]
fn count_0_is_the_largest() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 0, 0);
    assert_eq!(pit.next_edge(), Some(clk(65536)));
    pit.write(0x43, 0x31, 0);
    write_word(&mut pit, 0, 0, 0);
    assert_eq!(pit.next_edge(), Some(clk(10000)), "BCD");
}

#[test]
fn bcd_counts_in_decimal() {
    let mut pit = Pit::new();
    pit.write(0x43, 0x35, 0);
    write_word(&mut pit, 0, 0x1000, 0);
    assert_eq!(read_word(&mut pit, 0, clk(1)), 0x0999);
    assert_eq!(read_word(&mut pit, 0, clk(999)), 0x0001);
    assert_eq!(read_word(&mut pit, 0, clk(1000)), 0x1000);
}

#[test]
fn byte_access() {
    let mut pit = Pit::new();
    pit.write(0x43, 0x14, 0);
    pit.write(0x40, 0x80, 0);
    assert_eq!(pit.read(0x40, clk(1)), 0x7f);
    assert_eq!(pit.read(0x40, clk(2)), 0x7e);
    pit.write(0x43, 0x24, 0);
    pit.write(0x40, 0x80, 0);
    assert_eq!(pit.read(0x40, clk(1)), 0x7f, "high byte of 0x7fff");
}

#[test]
fn latched_count_is_held_until_read() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 2, 1000);
    pit.write(0x43, 0x00, clk(100));
    pit.write(0x43, 0x00, clk(200));
    assert_eq!(
        read_word(&mut pit, 0, clk(300)),
        900,
        "the first latch counts"
    );
    assert_eq!(read_word(&mut pit, 0, clk(300)), 700);
}

#[test]
fn read_back() {
    let mut pit = Pit::new();
    pit.write(0x43, 0x34, 0);
    // Status only, channel 0: OUT high, null count, word, mode 2.
    pit.write(0x43, 0xe2, 0);
    assert_eq!(pit.read(0x40, 0), 0xf4);
    write_word(&mut pit, 0, 1000, 0);
    // Status and count of channel 0: status comes first.
    pit.write(0x43, 0xc2, clk(100));
    assert_eq!(pit.read(0x40, clk(150)), 0xb4);
    assert_eq!(read_word(&mut pit, 0, clk(150)), 900);
    // Counts only, all channels.
    program(&mut pit, 1, 0, 500);
    pit.write(0x43, 0xde, clk(10));
    assert_eq!(read_word(&mut pit, 1, clk(400)), 490);
    // A count that waits is null.
    write_word(&mut pit, 0, 2000, clk(200));
    pit.write(0x43, 0xe2, clk(200));
    assert_eq!(pit.read(0x40, clk(200)), 0xf4);
}

#[test]
fn speaker_port() {
    let mut pit = Pit::new();
    assert_eq!(pit.read(0x61, 0), 0);
    pit.write(0x61, 0xff, 0);
    program(&mut pit, 2, 3, 1000);
    assert_eq!(pit.read(0x61, clk(1)) & 0x2f, 0x23, "gate, data, OUT 2");
    assert_eq!(pit.read(0x61, clk(501)) & 0x2f, 0x03);
    assert_ne!(pit.read(0x61, 0) & 0x10, pit.read(0x61, 1 << 14) & 0x10);
}

#[test]
fn ticks_do_not_drift() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 2, 11932); // 100 Hz
    let mut ticks = 0;
    while let Some(edge) = pit.next_edge().filter(|ns| *ns <= 10_000_000_000) {
        pit.advance(edge);
        assert!(pit.take_irq());
        assert!(!pit.take_irq());
        pit.ack();
        ticks += 1;
    }
    assert_eq!(ticks, 10 * HZ / 11932);
}

#[test]
fn late_ticks_wait_for_the_acknowledge() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 2, 1000);
    pit.advance(clk(3000));
    assert!(pit.take_irq());
    assert!(!pit.take_irq());
    pit.ack();
    assert!(pit.take_irq());
    pit.ack();
    assert!(pit.take_irq());
    pit.ack();
    assert!(!pit.take_irq());
}

#[test]
fn the_backlog_is_bounded_and_can_be_dropped() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 2, 1000);
    pit.advance(clk(1_000_000_000));
    let mut ticks = 0;
    while pit.take_irq() {
        pit.ack();
        ticks += 1;
    }
    assert_eq!(ticks, MAX_BACKLOG);
    pit.set_reinject(false);
    pit.advance(clk(1_000_010_000));
    assert!(pit.take_irq());
    assert!(!pit.take_irq());
    pit.advance(clk(1_000_011_000));
    assert!(pit.take_irq(), "without waiting for the acknowledge");
}

#[test]
fn a_tiny_period_does_not_flood() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 2, 2);
    let edge = pit.next_edge().unwrap();
    assert!(edge >= 200_000, "{edge}");
    pit.advance(edge);
    assert!(pit.next_edge().unwrap() - edge >= 199_999);
}

#[test]
fn saved_state_restores_everything() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 2, 1000);
    program(&mut pit, 1, 1, 77);
    program(&mut pit, 2, 0, 5000);
    pit.write(0x61, 3, clk(10));
    pit.write(0x43, 0x00, clk(20));
    pit.write(0x61, 2, clk(110));
    let saved = pit.state(clk(200));
    assert_eq!(saved.flags, 2);
    let c0 = saved.channels[0];
    assert_eq!((c0.count, c0.mode, c0.rw_mode, c0.gate), (1000, 2, 3, 1));
    assert_eq!((c0.count_latched, c0.latched_count), (3, 980));
    let mut copy = Pit::new();
    copy.set_state(&saved, clk(200));
    assert_eq!(copy.state(clk(200)), saved);
    assert_eq!(copy.next_edge(), Some(clk(1000)));
    assert_eq!(read_word(&mut copy, 0, clk(300)), 980);
    assert_eq!(read_word(&mut copy, 2, clk(300)), 4900, "the gate is low");
}

#[test]
fn powered_up_channels_do_not_interrupt() {
    let mut pit = Pit::new();
    assert_eq!(pit.next_edge(), None);
    let mut copy = Pit::new();
    copy.set_state(&pit.state(5), 5);
    assert_eq!(copy.next_edge(), None);
    // KVM's power-up state has no mode.
    let mut state = pit.state(0);
    state.channels[0].mode = 0xff;
    state.channels[0].count = 0x10000;
    copy.set_state(&state, 5);
    assert_eq!(copy.next_edge(), None);
}
