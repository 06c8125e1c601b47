//! Expected values follow the 8259A data sheet's descriptions.

use super::*;

const MASTER: u16 = 0x20;
const SLAVE: u16 = 0xa0;

/// A pair initialised as the PC's firmware does: vectors 0x08 and 0x70 moved
/// to 0x20 and 0x28, ICW4 as given, nothing masked.
fn pair(icw4: u8) -> Pic {
    let mut pic = Pic::new();
    for (port, base, wiring) in [(MASTER, 0x20, 4), (SLAVE, 0x28, 2)] {
        pic.write(port, 0x11);
        pic.write(port + 1, base);
        pic.write(port + 1, wiring);
        pic.write(port + 1, icw4);
        pic.write(port + 1, 0);
    }
    pic
}

fn pulse(pic: &mut Pic, irq: u8) {
    pic.set_irq(irq, true);
    pic.set_irq(irq, false);
}

fn isr(pic: &mut Pic, port: u16) -> u8 {
    pic.write(port, 0x0b);
    pic.read(port)
}

fn irr(pic: &mut Pic, port: u16) -> u8 {
    pic.write(port, 0x0a);
    pic.read(port)
}

#[test]
fn an_edge_is_requested_acknowledged_and_ended() {
    let mut pic = pair(1);
    assert!(!pic.intr());
    pulse(&mut pic, 1);
    assert!(pic.intr());
    assert_eq!(irr(&mut pic, MASTER), 1 << 1);
    assert_eq!(pic.ack(), 0x21);
    assert!(!pic.intr());
    assert_eq!(irr(&mut pic, MASTER), 0);
    assert_eq!(isr(&mut pic, MASTER), 1 << 1);
    pic.write(MASTER, 0x20);
    assert_eq!(isr(&mut pic, MASTER), 0);
    assert_eq!(pic.take_acked(), 1 << 1);
    assert_eq!(pic.take_acked(), 0);
}

#[test]
fn a_line_held_high_is_one_edge() {
    let mut pic = pair(1);
    pic.set_irq(4, true);
    assert_eq!(pic.ack(), 0x24);
    pic.write(MASTER, 0x20);
    pic.set_irq(4, true);
    assert!(!pic.intr());
    pic.set_irq(4, false);
    pic.set_irq(4, true);
    assert!(pic.intr());
}

#[test]
fn fully_nested_priorities() {
    let mut pic = pair(1);
    pulse(&mut pic, 5);
    pulse(&mut pic, 3);
    assert_eq!(pic.ack(), 0x23);
    assert!(!pic.intr(), "5 waits for 3");
    pulse(&mut pic, 3);
    assert!(!pic.intr(), "3 waits for itself");
    pulse(&mut pic, 1);
    assert_eq!(pic.ack(), 0x21);
    pic.write(MASTER, 0x20);
    assert_eq!(isr(&mut pic, MASTER), 1 << 3, "1 ended first");
    pic.write(MASTER, 0x63);
    assert_eq!(pic.ack(), 0x23);
    pic.write(MASTER, 0x20);
    assert_eq!(pic.ack(), 0x25);
}

#[test]
fn the_slave_comes_through_input_2() {
    let mut pic = pair(1);
    pulse(&mut pic, 8);
    pulse(&mut pic, 3);
    assert_eq!(irr(&mut pic, MASTER), 1 << 2 | 1 << 3);
    assert_eq!(pic.ack(), 0x28);
    assert_eq!(isr(&mut pic, SLAVE), 1);
    assert_eq!(isr(&mut pic, MASTER), 1 << 2);
    assert!(!pic.intr());
    pic.write(SLAVE, 0x20);
    assert!(!pic.intr(), "the master still serves input 2");
    pic.write(MASTER, 0x20);
    assert_eq!(pic.ack(), 0x23);
}

#[test]
fn two_slave_requests_in_turn() {
    let mut pic = pair(1);
    pulse(&mut pic, 14);
    pulse(&mut pic, 12);
    assert_eq!(pic.ack(), 0x2c);
    pic.write(SLAVE, 0x20);
    pic.write(MASTER, 0x20);
    assert_eq!(pic.ack(), 0x2e);
}

#[test]
fn special_fully_nested_mode_lets_the_slave_nest() {
    for (icw4, nests) in [(0x01, false), (0x11, true)] {
        let mut pic = pair(icw4);
        pulse(&mut pic, 12);
        assert_eq!(pic.ack(), 0x2c);
        pulse(&mut pic, 9);
        assert_eq!(pic.intr(), nests);
    }
}

#[test]
fn the_cascade_is_no_input() {
    let mut pic = pair(1);
    pic.set_irq(2, true);
    pic.set_irq(16, true);
    pic.set_irq(255, true);
    assert!(!pic.intr());
}

#[test]
fn spurious_interrupt_has_no_service_bit() {
    let mut pic = pair(1);
    pic.write(0x4d0, 1 << 5);
    pic.set_irq(5, true);
    assert!(pic.intr());
    pic.set_irq(5, false);
    assert!(!pic.intr());
    assert_eq!(pic.ack(), 0x27);
    assert_eq!(isr(&mut pic, MASTER), 0);
}

#[test]
fn level_inputs_request_until_deasserted() {
    let mut pic = pair(1);
    pic.write(0x4d1, 1 << 2);
    pic.set_irq(10, true);
    for _ in 0..3 {
        assert_eq!(pic.ack(), 0x2a);
        assert!(!pic.intr());
        pic.write(SLAVE, 0x20);
        pic.write(MASTER, 0x20);
        assert!(pic.intr());
    }
    pic.set_irq(10, false);
    assert!(!pic.intr());
}

#[test]
fn elcr_has_only_the_bits_the_piix_has() {
    let mut pic = Pic::new();
    pic.write(0x4d0, 0xff);
    pic.write(0x4d1, 0xff);
    assert_eq!(pic.read(0x4d0), 0xf8, "not IRQ 0, 1, 2");
    assert_eq!(pic.read(0x4d1), 0xde, "not IRQ 8, 13");
}

#[test]
fn masked_requests_wait() {
    let mut pic = pair(1);
    pic.write(MASTER + 1, 0xff);
    pulse(&mut pic, 6);
    assert!(!pic.intr());
    assert!(pic.is_masked(6));
    assert_eq!(irr(&mut pic, MASTER), 1 << 6);
    assert_eq!(pic.read(MASTER + 1), 0xff);
    pic.write(MASTER + 1, 0xbf);
    assert_eq!(pic.ack(), 0x26);
}

#[test]
fn automatic_eoi() {
    let mut pic = pair(3);
    pulse(&mut pic, 1);
    pulse(&mut pic, 0);
    assert_eq!(pic.ack(), 0x20);
    assert_eq!(pic.take_acked(), 1);
    assert_eq!(isr(&mut pic, MASTER), 0);
    assert_eq!(pic.ack(), 0x21, "nothing is in service");
}

#[test]
fn rotation_in_automatic_eoi_mode() {
    let mut pic = pair(3);
    pic.write(MASTER, 0x80);
    pulse(&mut pic, 4);
    assert_eq!(pic.ack(), 0x24);
    for irq in [3, 4, 5] {
        pulse(&mut pic, irq);
    }
    assert_eq!(pic.ack(), 0x25, "4 is lowest, 5 highest now");
    pic.write(MASTER, 0x00);
    assert_eq!(pic.ack(), 0x23, "5 is lowest; order 6 7 0 1 2 3 4 5");
    assert_eq!(pic.ack(), 0x24);
}

#[test]
fn rotation_on_eoi() {
    // The data sheet's example: IR4 was served, 4 and 6 request and serve;
    // after the rotating EOI 4 is lowest and 5 highest.
    let mut pic = pair(1);
    pulse(&mut pic, 4);
    assert_eq!(pic.ack(), 0x24);
    pic.write(MASTER, 0xa0);
    pulse(&mut pic, 4);
    pulse(&mut pic, 6);
    assert_eq!(pic.ack(), 0x26);
    pic.write(MASTER, 0xe6);
    assert_eq!(isr(&mut pic, MASTER), 0);
    for irq in [5, 7] {
        pulse(&mut pic, irq);
    }
    assert_eq!(pic.ack(), 0x27, "6 is lowest, 7 highest");
}

#[test]
fn set_priority() {
    let mut pic = pair(1);
    pic.write(MASTER, 0xc5);
    for irq in [0, 5, 6] {
        pulse(&mut pic, irq);
    }
    assert_eq!(pic.ack(), 0x26, "programming 5 as lowest makes 6 highest");
    pic.write(MASTER, 0x20);
    assert_eq!(pic.ack(), 0x20);
    pic.write(MASTER, 0x20);
    assert_eq!(pic.ack(), 0x25);
}

#[test]
fn special_mask_mode_enables_lower_levels() {
    let mut pic = pair(1);
    pulse(&mut pic, 2 + 1);
    assert_eq!(pic.ack(), 0x23);
    pulse(&mut pic, 6);
    assert!(!pic.intr());
    pic.write(MASTER + 1, 1 << 3);
    assert!(!pic.intr(), "masking alone does not help");
    pic.write(MASTER, 0x68);
    assert!(pic.intr());
    assert_eq!(pic.ack(), 0x26);
    // A non-specific EOI leaves the masked in-service bit.
    pic.write(MASTER, 0x20);
    assert_eq!(isr(&mut pic, MASTER), 1 << 3);
    pic.write(MASTER, 0x48);
    pic.write(MASTER, 0x20);
    assert_eq!(isr(&mut pic, MASTER), 0);
}

#[test]
fn poll_is_an_acknowledge() {
    let mut pic = pair(1);
    pic.write(MASTER, 0x0c);
    assert_eq!(pic.read(MASTER), 0, "nothing requests");
    pulse(&mut pic, 4);
    pic.write(MASTER, 0x0c);
    assert_eq!(pic.read(MASTER), 0x84);
    assert!(!pic.intr());
    assert_eq!(isr(&mut pic, MASTER), 1 << 4);
}

#[test]
fn icw1_clears_mask_latches_and_service() {
    let mut pic = pair(3);
    pulse(&mut pic, 3);
    pic.set_irq(6, true);
    pic.write(MASTER + 1, 0xaa);
    pic.write(MASTER, 0x10);
    pic.write(MASTER + 1, 0x40);
    pic.write(MASTER + 1, 4);
    // IC4 was 0: no ICW4 follows and its functions are off.
    assert_eq!(pic.read(MASTER + 1), 0);
    assert!(!pic.intr(), "the edge sense circuit was reset");
    pulse(&mut pic, 3);
    assert_eq!(pic.ack(), 0x43);
    assert_eq!(isr(&mut pic, MASTER), 1 << 3, "not automatic EOI");
}

#[test]
fn saved_state_restores_everything() {
    let mut pic = pair(0x11);
    pic.write(0x4d1, 1 << 3);
    pic.set_irq(11, true);
    pulse(&mut pic, 3);
    pulse(&mut pic, 5);
    pic.write(MASTER, 0xc1);
    assert_eq!(pic.ack(), 0x2b);
    let saved = pic.state();
    assert_eq!(saved[1].irr, 1 << 3);
    assert_eq!(saved[1].isr, 1 << 3);
    assert_eq!(saved[0].elcr_mask, 0xf8);
    let mut copy = Pic::new();
    copy.set_state(0, &saved[0]);
    copy.set_state(1, &saved[1]);
    copy.set_state(2, &saved[0]);
    assert_eq!(copy.state(), saved);
    for pic in [&mut pic, &mut copy] {
        pic.write(SLAVE, 0x20);
        pic.write(MASTER, 0x20);
        assert_eq!(pic.ack(), 0x2b, "order 2 3 ... and the line is high");
        pic.set_irq(11, false);
        pic.write(MASTER, 0x20);
        assert_eq!(pic.ack(), 0x23);
    }
}
