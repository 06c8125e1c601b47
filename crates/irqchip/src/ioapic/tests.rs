//! Expected values follow the 82093AA data sheet.

use super::*;
use crate::message::Destination;

fn write_register(ioapic: &mut IoApic, register: u8, value: u32) -> u32 {
    assert_eq!(ioapic.write(0, register.into()), 0);
    ioapic.write(0x10, value)
}

fn read_register(ioapic: &mut IoApic, register: u8) -> u32 {
    ioapic.write(0, register.into());
    ioapic.read(0x10)
}

fn program(ioapic: &mut IoApic, pin: u8, low: u32, high: u32) -> u32 {
    write_register(ioapic, 0x11 + 2 * pin, high);
    write_register(ioapic, 0x10 + 2 * pin, low)
}

#[test]
fn power_up() {
    let mut ioapic = IoApic::new();
    assert_eq!(read_register(&mut ioapic, 0), 0);
    assert_eq!(read_register(&mut ioapic, 1), 0x0017_0020, "24 entries");
    for pin in 0..24 {
        assert_eq!(read_register(&mut ioapic, 0x10 + 2 * pin), 0x0001_0000);
        assert!(ioapic.is_masked(pin));
        ioapic.set_pin(pin, true);
        assert_eq!(ioapic.service(pin), None);
    }
    assert_eq!(read_register(&mut ioapic, 0x40), 0);
    assert_eq!(read_register(&mut ioapic, 0xff), 0);
}

#[test]
fn id_has_four_bits() {
    let mut ioapic = IoApic::new();
    write_register(&mut ioapic, 0, 0xffff_ffff);
    assert_eq!(read_register(&mut ioapic, 0), 0x0f00_0000);
    assert_eq!(read_register(&mut ioapic, 2), 0x0f00_0000);
}

#[test]
fn status_bits_are_read_only() {
    let mut ioapic = IoApic::new();
    program(&mut ioapic, 3, 0xffff_ffff, 0xff00_0000);
    assert_eq!(read_register(&mut ioapic, 0x16), 0x0001_afff);
    assert_eq!(read_register(&mut ioapic, 0x17), 0xff00_0000);
}

#[test]
fn edge_messages() {
    let mut ioapic = IoApic::new();
    program(&mut ioapic, 4, 0x0031, 0x0200_0000);
    assert!(ioapic.set_pin(4, true));
    let message = ioapic.service(4).unwrap();
    assert_eq!(message.destination, Destination::Physical(2));
    assert_eq!(message.delivery, Delivery::Fixed);
    assert_eq!((message.vector, message.level), (0x31, false));
    ioapic.accepted(4);
    assert!(!ioapic.set_pin(4, true), "no new edge");
    ioapic.set_pin(4, false);
    assert!(ioapic.set_pin(4, true));
}

#[test]
fn logical_lowest_priority() {
    let mut ioapic = IoApic::new();
    program(&mut ioapic, 9, 0x0942, 0x0300_0000);
    ioapic.set_pin(9, true);
    let message = ioapic.service(9).unwrap();
    assert_eq!(message.destination, Destination::Logical(3));
    assert_eq!(message.delivery, Delivery::LowestPriority);
}

#[test]
fn level_waits_for_eoi() {
    let mut ioapic = IoApic::new();
    program(&mut ioapic, 16, 0xa050, 0);
    assert!(ioapic.set_pin(16, true));
    assert!(ioapic.service(16).unwrap().level);
    ioapic.accepted(16);
    assert_eq!(read_register(&mut ioapic, 0x30), 0xe050, "remote IRR");
    assert_eq!(ioapic.service(16), None);
    assert_eq!(ioapic.eoi(0x51), 0);
    assert_eq!(ioapic.eoi(0x50), 1 << 16);
    assert!(ioapic.service(16).is_some(), "still asserted");
    ioapic.accepted(16);
    ioapic.set_pin(16, false);
    ioapic.eoi(0x50);
    assert_eq!(ioapic.service(16), None);
    assert_eq!(read_register(&mut ioapic, 0x30), 0xa050);
}

#[test]
fn eoi_register() {
    let mut ioapic = IoApic::new();
    program(&mut ioapic, 20, 0x8060, 0);
    ioapic.set_pin(20, true);
    ioapic.accepted(20);
    assert_eq!(ioapic.write(0x40, 0x60), 1 << 20);
    assert!(ioapic.service(20).is_some());
}

#[test]
fn switching_to_edge_clears_remote_irr() {
    let mut ioapic = IoApic::new();
    program(&mut ioapic, 5, 0x8070, 0);
    ioapic.set_pin(5, true);
    ioapic.accepted(5);
    program(&mut ioapic, 5, 0x1_0070, 0);
    assert_eq!(program(&mut ioapic, 5, 0x8070, 0), 1 << 5);
    assert!(ioapic.service(5).is_some());
}

#[test]
fn unmasking_an_asserted_level_pin_sends() {
    let mut ioapic = IoApic::new();
    program(&mut ioapic, 5, 0x1_8070, 0);
    ioapic.set_pin(5, true);
    assert_eq!(ioapic.service(5), None);
    assert_eq!(program(&mut ioapic, 5, 0x8070, 0), 1 << 5);
    assert!(ioapic.service(5).is_some());
}

#[test]
fn an_edge_on_a_masked_pin_is_lost() {
    let mut ioapic = IoApic::new();
    ioapic.set_pin(7, true);
    assert_eq!(program(&mut ioapic, 7, 0x0033, 0), 0);
}

#[test]
fn nmi_is_never_level() {
    let mut ioapic = IoApic::new();
    program(&mut ioapic, 6, 0x8400, 0);
    ioapic.set_pin(6, true);
    let message = ioapic.service(6).unwrap();
    assert_eq!((message.delivery, message.level), (Delivery::Nmi, false));
    ioapic.accepted(6);
    assert_eq!(read_register(&mut ioapic, 0x1c), 0x8400, "no remote IRR");
}

#[test]
fn extended_destination() {
    let mut ioapic = IoApic::new();
    program(&mut ioapic, 1, 0x40, 0x2c02_0000);
    ioapic.set_pin(1, true);
    let message = ioapic.service(1).unwrap();
    assert_eq!(message.destination, Destination::Physical(0x12c));
    program(&mut ioapic, 1, 0x40, 0xff00_0000);
    let message = ioapic.service(1).unwrap();
    assert_eq!(message.destination, Destination::All);
}

#[test]
fn saved_state_restores_everything() {
    let mut ioapic = IoApic::new();
    program(&mut ioapic, 5, 0xa070, 0x0100_0000);
    program(&mut ioapic, 6, 0xa071, 0x0100_0000);
    ioapic.set_pin(5, true);
    ioapic.accepted(5);
    ioapic.set_pin(6, true);
    let saved = ioapic.state();
    assert_eq!(saved.irr, 3 << 5);
    assert_eq!(saved.redirtbl[5], 0x0100_0000_0000_e070);
    let mut copy = IoApic::new();
    let pins = copy.set_state(&saved);
    assert_eq!(copy.state(), saved);
    assert_eq!(pins & 1 << 6, 1 << 6);
    assert_eq!(copy.service(5), None, "waits for its EOI");
    assert!(copy.service(6).is_some());
}

#[test]
fn pins_that_do_not_exist() {
    let mut ioapic = IoApic::new();
    assert!(!ioapic.set_pin(24, true));
    assert_eq!(ioapic.service(255), None);
    ioapic.accepted(200);
    assert!(ioapic.is_masked(24));
}
