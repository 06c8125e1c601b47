//! Delivery in long mode (SDM vol 3, 6.14) and the double-fault rules (6.15,
//! table 6-5).

use super::*;
use crate::{Event, deliver};

const FRAME0: u64 = STACK0 - 40;

#[test]
fn same_privilege_aligns_and_pushes_five_words() {
    let (mut cpu, mut w) = long(0);
    cpu.gpr[gpr::RSP] = STACK - 8;
    cpu.rflags |= flags::TF | flags::NT | flags::CF;
    let rflags = cpu.rflags;
    deliver(&mut cpu, &mut w, Event::Interrupt(0x30)).unwrap();
    assert_eq!(cpu.gpr[gpr::RSP], STACK - 16 - 40);
    let expected = [CODE, 8, rflags, STACK - 8, 0x10];
    assert_eq!(w.words(STACK - 56, 8, 5), expected);
    assert_eq!(cpu.rip, HANDLER + 0x30);
    assert_eq!(cpu.rflags, flags::FIXED1 | flags::CF);
    assert_eq!(cpu.seg(Seg::Ss).selector, sel::DATA0);
}

#[test]
fn trap_gate_keeps_if() {
    let (mut cpu, mut w) = long(0);
    w.idt64(0x30, HANDLER, 0x8f, 0);
    deliver(&mut cpu, &mut w, Event::Interrupt(0x30)).unwrap();
    assert_ne!(cpu.rflags & flags::IF, 0);
}

#[test]
fn user_to_kernel_switches_to_rsp0_and_a_null_ss() {
    let (mut cpu, mut w) = long(3);
    w.kernel_only.extend([STACK0 - 0x1000, GDT, IDT, TSS]);
    deliver(&mut cpu, &mut w, Event::Interrupt(0x30)).unwrap();
    assert_eq!(cpu.cpl(), 0);
    assert_eq!(cpu.seg(Seg::Ss).selector, 0);
    assert_eq!(cpu.seg(Seg::Cs).selector, sel::CODE0);
    assert_eq!(cpu.gpr[gpr::RSP], FRAME0);
    let expected = [CODE, 0x2b, 0x202, STACK, 0x23];
    assert_eq!(w.words(FRAME0, 8, 5), expected);
}

#[test]
fn ist_is_used_at_any_privilege() {
    for cpl in [0, 3] {
        let (mut cpu, mut w) = long(cpl);
        w.idt64(0x30, HANDLER, 0x8e, 1);
        deliver(&mut cpu, &mut w, Event::Nmi).unwrap();
        assert!(cpu.events.nmi_blocked);
        let (mut cpu, _) = long(cpl);
        deliver(&mut cpu, &mut w, Event::Interrupt(0x30)).unwrap();
        assert_eq!(cpu.gpr[gpr::RSP], IST1 - 40);
        assert_eq!(w.get(IST1 - 16, 8), STACK);
    }
}

#[test]
fn page_fault_pushes_its_error_code_and_rf() {
    let (mut cpu, mut w) = long(3);
    let pf = Exception::pf(0x1234_5678, 7);
    deliver(&mut cpu, &mut w, Event::Exception(pf)).unwrap();
    assert_eq!(cpu.cr2, 0x1234_5678);
    assert_eq!(cpu.gpr[gpr::RSP], STACK0 - 48);
    assert_eq!(w.get(STACK0 - 48, 8), 7);
    assert_eq!(w.get(STACK0 - 24, 8), 0x202 | flags::RF);
    assert_eq!(cpu.rflags & flags::RF, 0);
}

#[test]
fn iretq_undoes_a_delivery() {
    let (mut cpu, mut w) = long(3);
    let before = cpu.clone();
    deliver(&mut cpu, &mut w, Event::Nmi).unwrap();
    let at = HANDLER as usize + 2;
    w.mem[at..at + 2].copy_from_slice(&[0x48, 0xcf]);
    crate::step(&mut cpu, &mut w).unwrap();
    assert_eq!(cpu, before);
}

#[test]
fn iretq_at_cpl3_cannot_change_iopl_or_if() {
    let (mut cpu, mut w) = long(3);
    cpu.rflags &= !flags::IF;
    let frame = [
        0x1234,
        0x2b,
        flags::IOPL | flags::IF | flags::CF | flags::AC | 2,
        0x6ff0,
        0x23,
    ];
    for (i, v) in frame.into_iter().enumerate() {
        w.put(STACK + 8 * i as u64, 8, v);
    }
    run(&mut cpu, &mut w, &[0x48, 0xcf]).unwrap();
    assert_eq!(cpu.rflags, flags::FIXED1 | flags::CF | flags::AC);
    assert_eq!((cpu.rip, cpu.gpr[gpr::RSP]), (0x1234, 0x6ff0));
}

#[test]
fn fault_while_delivering_an_interrupt_is_delivered_itself() {
    let (mut cpu, mut w) = long(3);
    w.unmapped.insert(STACK0 - 0x1000);
    w.idt64(14, HANDLER, 0x8e, 1);
    deliver(&mut cpu, &mut w, Event::Interrupt(0x30)).unwrap();
    assert_eq!(cpu.rip, HANDLER);
    assert_eq!(cpu.cr2, STACK0 - 8);
    // Supervisor write to a page that is not present.
    assert_eq!(w.get(IST1 - 48, 8), 2);
    assert_eq!(w.get(IST1 - 40, 8), CODE);
}

#[test]
fn contributory_then_page_fault_is_that_page_fault() {
    let (mut cpu, mut w) = long(3);
    w.unmapped.insert(STACK0 - 0x1000);
    w.idt64(14, HANDLER, 0x8e, 1);
    deliver(&mut cpu, &mut w, Event::Exception(Exception::GP0)).unwrap();
    assert_eq!(cpu.rip, HANDLER);
}

#[test]
fn page_fault_while_delivering_a_page_fault_is_a_double_fault() {
    let (mut cpu, mut w) = long(3);
    w.unmapped.insert(STACK0 - 0x1000);
    w.idt64(8, HANDLER, 0x8e, 1);
    deliver(&mut cpu, &mut w, Event::Exception(Exception::pf(0x77, 4))).unwrap();
    assert_eq!(cpu.rip, HANDLER);
    assert_eq!(w.get(IST1 - 48, 8), 0);
    assert_eq!(cpu.cr2, STACK0 - 8);
}

#[test]
fn third_fault_shuts_down() {
    let (mut cpu, mut w) = long(3);
    w.unmapped.insert(STACK0 - 0x1000);
    let before = cpu.gpr;
    let end = deliver(&mut cpu, &mut w, Event::Exception(Exception::pf(0x77, 4)));
    assert_eq!(end, Err(Stop::Shutdown));
    assert_eq!((cpu.gpr, cpu.rip), (before, CODE));
}

#[test]
fn idt_limit_gives_gp_with_the_idt_bit_and_ext() {
    let (mut cpu, mut w) = long(0);
    cpu.idtr.limit = 16 * 0x30 - 1;
    deliver(&mut cpu, &mut w, Event::Interrupt(0x30)).unwrap();
    assert_eq!(cpu.rip, HANDLER + 13);
    assert_eq!(w.get(STACK - 48, 8), 0x30 * 8 + 3);
}

#[test]
fn soft_interrupt_checks_the_gate_dpl_without_ext() {
    let (mut cpu, mut w) = long(3);
    run(&mut cpu, &mut w, &[0xcd, 0x80]).unwrap();
    assert_eq!(cpu.rip, HANDLER + 13);
    assert_eq!(w.words(STACK0 - 48, 8, 2), [0x80 * 8 + 2, CODE]);
    let (mut cpu, mut w) = long(3);
    w.idt64(0x80, HANDLER, 0xee, 0);
    run(&mut cpu, &mut w, &[0xcd, 0x80]).unwrap();
    assert_eq!(cpu.rip, HANDLER);
    assert_eq!(w.get(FRAME0, 8), CODE + 2);
    assert_eq!(w.get(FRAME0 + 16, 8), 0x202);
}

#[test]
fn int1_ignores_the_dpl() {
    let (mut cpu, mut w) = long(3);
    run(&mut cpu, &mut w, &[0xf1]).unwrap();
    assert_eq!(cpu.rip, HANDLER + 1);
    assert_eq!(w.get(FRAME0, 8), CODE + 1);
}

#[test]
fn not_present_gate_and_segment() {
    let (mut cpu, mut w) = long(0);
    w.idt64(0x30, HANDLER, 0x0e, 0);
    deliver(&mut cpu, &mut w, Event::Interrupt(0x30)).unwrap();
    assert_eq!(cpu.rip, HANDLER + 11);
    assert_eq!(w.get(STACK - 48, 8), 0x30 * 8 + 3);
    let (mut cpu, mut w) = long(0);
    w.put(IDT + 0x300, 8, gate(sel::FREE, HANDLER, 0x8e, 0));
    w.gdt(sel::FREE, descriptor(0, 0xf_ffff, 0x1b, 0xa));
    deliver(&mut cpu, &mut w, Event::Interrupt(0x30)).unwrap();
    assert_eq!(cpu.rip, HANDLER + 11);
    assert_eq!(w.get(STACK - 48, 8), u64::from(sel::FREE) | 1);
}

#[test]
fn stack_that_is_not_canonical_is_ss() {
    let (mut cpu, mut w) = long(3);
    w.put(TSS + 4, 8, 0x10_0000_0000_0000);
    w.idt64(12, HANDLER, 0x8e, 1);
    deliver(&mut cpu, &mut w, Event::Interrupt(0x30)).unwrap();
    assert_eq!(cpu.rip, HANDLER);
    assert_eq!(w.get(IST1 - 48, 8), 1);
}

#[test]
fn suspension_changes_nothing_and_repeats() {
    let (mut cpu, mut w) = long(3);
    w.suspends.insert(STACK0 - 0x1000);
    let before = cpu.clone();
    assert_eq!(
        deliver(&mut cpu, &mut w, Event::Interrupt(0x30)),
        Err(Stop::Suspend)
    );
    assert_eq!(cpu, before);
    w.suspends.clear();
    deliver(&mut cpu, &mut w, Event::Interrupt(0x30)).unwrap();
    assert_eq!(cpu.gpr[gpr::RSP], FRAME0);
}

#[test]
fn faults_of_fetch_are_delivered() {
    let (mut cpu, mut w) = long(3);
    w.unmapped.insert(CODE);
    crate::step(&mut cpu, &mut w).unwrap();
    assert_eq!(cpu.rip, HANDLER + 14);
    assert_eq!(cpu.cr2, CODE);
    // Fifteen prefixes and an opcode: too long.
    let (mut cpu, mut w) = long(3);
    let mut bytes = [0x66; 16];
    bytes[15] = 0x90;
    run(&mut cpu, &mut w, &bytes).unwrap();
    assert_eq!(cpu.rip, HANDLER + 13);
    let (mut cpu, mut w) = long(3);
    run(&mut cpu, &mut w, &[0xf0, 0x90]).unwrap();
    assert_eq!(cpu.rip, HANDLER + 6);
}
