//! Real, protected and virtual-8086 mode: gates, returns and tasks.

use super::*;
use crate::{Event, deliver};

#[test]
fn real_mode_interrupt_and_iret() {
    let (mut cpu, mut w) = real();
    cpu.rflags |= flags::TF | flags::CF;
    deliver(&mut cpu, &mut w, Event::Interrupt(0x21)).unwrap();
    assert_eq!(cpu.rip, 0x21);
    assert_eq!(cpu.seg(Seg::Cs).selector, 0x50);
    assert_eq!(cpu.seg(Seg::Cs).base, 0x500);
    assert_eq!(cpu.rflags, flags::FIXED1 | flags::CF);
    assert_eq!(w.words(STACK - 6, 2, 3), [CODE, 0, 0x303]);
    w.mem[0x521] = 0xcf;
    crate::step(&mut cpu, &mut w).unwrap();
    assert_eq!((cpu.rip, cpu.rflags), (CODE, 0x303));
    assert_eq!(cpu.gpr[gpr::RSP], STACK);
}

#[test]
fn real_mode_far_jump_and_segment_load() {
    let (mut cpu, mut w) = real();
    run(&mut cpu, &mut w, &[0xea, 0x34, 0x12, 0x00, 0xf0]).unwrap();
    assert_eq!(cpu.rip, 0x1234);
    assert_eq!(cpu.seg(Seg::Cs).base, 0xf_0000);
    let (mut cpu, mut w) = real();
    // A limit loaded in protected mode survives ("unreal mode").
    cpu.seg_mut(Seg::Ds).limit = u32::MAX;
    cpu.gpr[gpr::RAX] = 0x1234;
    run(&mut cpu, &mut w, &[0x8e, 0xd8]).unwrap();
    assert_eq!(cpu.seg(Seg::Ds).base, 0x1_2340);
    assert_eq!(cpu.seg(Seg::Ds).limit, u32::MAX);
}

#[test]
fn switch_to_protected_mode_and_back() {
    let (mut cpu, mut w) = real();
    w.gdt(sel::CODE0, descriptor(0, 0xf_ffff, 0x9b, 0xc));
    cpu.gdtr = DescTable {
        base: GDT,
        limit: 0x7f,
    };
    cpu.gpr[gpr::RAX] = 0x11;
    run(&mut cpu, &mut w, &[0x0f, 0x22, 0xc0]).unwrap();
    assert_eq!((cpu.bitness(), cpu.cpl()), (16, 0));
    // jmp dword 8:0x1100
    w.mem[CODE as usize + 3..CODE as usize + 11]
        .copy_from_slice(&[0x66, 0xea, 0, 0x11, 0, 0, 8, 0]);
    crate::step(&mut cpu, &mut w).unwrap();
    assert_eq!((cpu.bitness(), cpu.rip), (32, 0x1100));
}

#[test]
fn protected_gate_switches_to_the_tss_stack() {
    let (mut cpu, mut w) = protected(3);
    let gp = Exception::gp(0x1234);
    deliver(&mut cpu, &mut w, Event::Exception(gp)).unwrap();
    assert_eq!((cpu.rip, cpu.cpl()), (HANDLER + 13, 0));
    assert_eq!(cpu.seg(Seg::Ss).selector, sel::DATA0);
    let frame = [0x1234, CODE, 0x1b, 0x1_0202, STACK, 0x23];
    assert_eq!(w.words(STACK0 - 24, 4, 6), frame);
}

#[test]
fn sixteen_bit_gate_pushes_words() {
    let (mut cpu, mut w) = protected(0);
    w.idt32(0x30, sel::CODE0, HANDLER, 0x86);
    deliver(&mut cpu, &mut w, Event::Interrupt(0x30)).unwrap();
    assert_eq!(w.words(STACK - 6, 2, 3), [CODE, 8, 0x202]);
}

#[test]
fn bad_inner_stacks_are_ts() {
    let cases = [
        (0u16, 0x66, 1u64),                                 // null
        (sel::DATA3, 0x66, u64::from(sel::DATA3 & !3) | 1), // wrong DPL
        (sel::CODE0, 0x66, u64::from(sel::CODE0) | 1),      // not data
    ];
    for (ss, _, error) in cases {
        let (mut cpu, mut w) = protected(3);
        // #TS through a conforming handler needs no stack.
        w.gdt(sel::FREE, descriptor(0, 0xf_ffff, 0x9f, 0xc));
        w.idt32(10, sel::FREE, HANDLER, 0x8e);
        w.put(TSS + 8, 2, u64::from(ss));
        deliver(&mut cpu, &mut w, Event::Interrupt(0x30)).unwrap();
        assert_eq!((cpu.rip, cpu.cpl()), (HANDLER, 3));
        assert_eq!(w.get(STACK - 16, 4), error);
    }
}

/// Call gate with two parameters and RET 8 (SDM vol 3, 5.8.5 and 5.8.6).
#[test]
fn call_gate_copies_parameters() {
    let (mut cpu, mut w) = protected(3);
    w.gdt(sel::FREE, gate(sel::CODE0, HANDLER, 0xec, 2));
    w.put(STACK, 4, 0xaaaa);
    w.put(STACK + 4, 4, 0xbbbb);
    // call 0x40:0
    run(&mut cpu, &mut w, &[0x9a, 0, 0, 0, 0, 0x43, 0]).unwrap();
    assert_eq!((cpu.rip, cpu.cpl()), (HANDLER, 0));
    let frame = [CODE + 7, 0x1b, 0xaaaa, 0xbbbb, STACK, 0x23];
    assert_eq!(w.words(STACK0 - 24, 4, 6), frame);
    w.mem[HANDLER as usize..HANDLER as usize + 3].copy_from_slice(&[0xca, 8, 0]);
    crate::step(&mut cpu, &mut w).unwrap();
    assert_eq!((cpu.rip, cpu.cpl()), (CODE + 7, 3));
    assert_eq!(cpu.gpr[gpr::RSP], STACK + 8);
}

#[test]
fn conforming_code_keeps_the_privilege_level() {
    let (mut cpu, mut w) = protected(3);
    w.gdt(sel::FREE, descriptor(0, 0xf_ffff, 0x9e, 0xc));
    run(&mut cpu, &mut w, &[0xea, 0x00, 0x12, 0, 0, 0x40, 0]).unwrap();
    assert_eq!((cpu.rip, cpu.cpl()), (0x1200, 3));
    assert_eq!(cpu.seg(Seg::Cs).selector, sel::FREE | 3);
    let (mut cpu, mut w) = protected(3);
    let jmp_ring0 = [0xea, 0, 0x12, 0, 0, 0x08, 0];
    assert_eq!(fault(&mut cpu, &mut w, &jmp_ring0), Some(Exception::gp(8)));
}

fn enter_vm86(iopl: u64) -> (CpuState, World) {
    let (mut cpu, mut w) = protected(0);
    let image = flags::VM | flags::IF | iopl << flags::IOPL_SHIFT | 2;
    let frame = [
        0x100, 0x0100, image, 0x6000, 0x0010, 0x0200, 0x0300, 0x0400, 0x0500,
    ];
    for (i, v) in frame.into_iter().enumerate() {
        w.put(STACK + 4 * i as u64, 4, v);
    }
    w.code(&[0xcf]);
    crate::step(&mut cpu, &mut w).unwrap();
    (cpu, w)
}

#[test]
fn vm86_entry_and_exit() {
    let (mut cpu, mut w) = enter_vm86(0);
    assert_eq!((cpu.rip, cpu.cpl(), cpu.bitness()), (0x100, 3, 16));
    assert_eq!(cpu.seg(Seg::Cs).base, 0x1000);
    assert_eq!(cpu.seg(Seg::Ss).base, 0x100);
    assert_eq!(cpu.seg(Seg::Gs).selector, 0x500);
    deliver(&mut cpu, &mut w, Event::Interrupt(0x30)).unwrap();
    assert_eq!((cpu.rip, cpu.cpl()), (HANDLER + 0x30, 0));
    let image = flags::VM | flags::IF | 2;
    let frame = [
        0x100, 0x0100, image, 0x6000, 0x0010, 0x0200, 0x0300, 0x0400, 0x0500,
    ];
    assert_eq!(w.words(STACK0 - 36, 4, 9), frame);
    assert_eq!(cpu.rflags & flags::VM, 0);
    assert!(!cpu.seg(Seg::Gs).present());
    // IRETD goes back.
    w.mem[HANDLER as usize + 0x30] = 0xcf;
    crate::step(&mut cpu, &mut w).unwrap();
    assert_eq!(cpu.seg(Seg::Ds).base, 0x3000);
    assert_eq!(cpu.gpr[gpr::RSP], 0x6000);
}

#[test]
fn vm86_sensitive_instructions_need_iopl_3() {
    for code in [
        &[0xfa][..],
        &[0xfb],
        &[0x9c],
        &[0x9d],
        &[0xcf],
        &[0xcd, 0x20],
    ] {
        let (mut cpu, mut w) = enter_vm86(0);
        w.mem[0x1100..0x1100 + code.len()].copy_from_slice(code);
        crate::step(&mut cpu, &mut w).unwrap();
        assert_eq!(cpu.rip, HANDLER + 13, "{code:x?}");
        assert_eq!(w.get(STACK0 - 40, 4), 0);
    }
    let (mut cpu, mut w) = enter_vm86(3);
    w.mem[0x1100] = 0xfa;
    crate::step(&mut cpu, &mut w).unwrap();
    assert_eq!((cpu.rip, cpu.rflags & flags::IF), (0x101, 0));
}

#[test]
fn vme_redirects_int_n_and_keeps_vif() {
    let (mut cpu, mut w) = enter_vm86(0);
    cpu.cr4 |= cr4::VME;
    cpu.rflags |= flags::VIF;
    w.put(TSS + 0x66, 2, 0x60); // redirection bitmap at 0x40, all clear
    cpu.seg_mut(Seg::Tr).limit = 0x2067;
    w.put(0x20 * 4, 4, 0x0080_0010);
    w.mem[0x1100..0x1102].copy_from_slice(&[0xcd, 0x20]);
    crate::step(&mut cpu, &mut w).unwrap();
    assert_eq!((cpu.rip, cpu.seg(Seg::Cs).selector), (0x10, 0x80));
    assert_eq!(cpu.rflags & flags::VIF, 0);
    // The pushed image shows IOPL 3 and VIF as IF.
    assert_eq!(w.words(0x100 + 0x6000 - 6, 2, 3), [0x102, 0x100, 0x3202]);
}

/// The new task's TSS at `DATA` in `sel::FREE`.
fn second_task(w: &mut World, access: u8) {
    w.gdt(sel::FREE, descriptor(DATA as u32, 0x67, access, 0));
    let t = DATA;
    w.put(t + 32, 4, HANDLER);
    w.put(t + 36, 4, 2);
    w.put(t + 56, 4, STACK0);
    for (i, s) in [0x10, 0x08, 0x10, 0x10, 0, 0].into_iter().enumerate() {
        w.put(t + 72 + 4 * i as u64, 4, s);
    }
    w.put(t + 40, 4, 0x1111);
}

#[test]
fn call_to_a_task_and_back() {
    let (mut cpu, mut w) = protected(0);
    second_task(&mut w, 0x89);
    cpu.gpr[gpr::RBX] = 0x7777;
    run(&mut cpu, &mut w, &[0x9a, 0, 0, 0, 0, 0x40, 0]).unwrap();
    assert_eq!((cpu.rip, cpu.gpr[gpr::RSP]), (HANDLER, STACK0));
    assert_eq!(cpu.gpr[gpr::RAX], 0x1111);
    assert_eq!(cpu.rflags, flags::FIXED1 | flags::NT);
    assert_eq!(cpu.seg(Seg::Tr).selector, sel::FREE);
    assert_ne!(cpu.cr0 & cr0::TS, 0);
    assert_eq!(w.get(DATA, 2), u64::from(sel::TSS));
    assert_eq!(w.get(GDT + 0x45, 1), 0x8b);
    assert_eq!(w.get(GDT + 0x35, 1), 0x8b);
    assert_eq!(w.get(TSS + 32, 4), CODE + 7);
    w.mem[HANDLER as usize] = 0xcf;
    crate::step(&mut cpu, &mut w).unwrap();
    assert_eq!((cpu.rip, cpu.gpr[gpr::RBX]), (CODE + 7, 0x7777));
    assert_eq!(cpu.rflags & flags::NT, 0);
    assert_eq!(cpu.seg(Seg::Tr).selector, sel::TSS);
    assert_eq!(w.get(GDT + 0x45, 1), 0x89);
}

#[test]
fn jump_to_a_task_moves_the_busy_bit() {
    let (mut cpu, mut w) = protected(0);
    second_task(&mut w, 0x89);
    run(&mut cpu, &mut w, &[0xea, 0, 0, 0, 0, 0x40, 0]).unwrap();
    assert_eq!(cpu.rip, HANDLER);
    assert_eq!(cpu.rflags & flags::NT, 0);
    assert_eq!((w.get(GDT + 0x35, 1), w.get(GDT + 0x45, 1)), (0x89, 0x8b));
}

#[test]
fn busy_task_and_short_tss_are_refused() {
    let (mut cpu, mut w) = protected(0);
    second_task(&mut w, 0x8b);
    let jmp = [0xea, 0, 0, 0, 0, 0x40, 0];
    assert_eq!(fault(&mut cpu, &mut w, &jmp), Some(Exception::gp(0x40)));
    w.gdt(sel::FREE, descriptor(DATA as u32, 0x66, 0x89, 0));
    assert_eq!(fault(&mut cpu, &mut w, &jmp), Some(Exception::ts(0x40)));
    assert_eq!(cpu.rip, CODE);
}

#[test]
fn task_gate_pushes_the_error_code_on_the_new_stack() {
    let (mut cpu, mut w) = protected(3);
    second_task(&mut w, 0x89);
    w.idt32(8, sel::FREE, 0, 0x85);
    deliver(&mut cpu, &mut w, Event::Exception(Exception::DF)).unwrap();
    assert_eq!((cpu.rip, cpu.cpl()), (HANDLER, 0));
    assert_eq!(cpu.gpr[gpr::RSP], STACK0 - 4);
    assert_eq!(w.get(STACK0 - 4, 4), 0);
    assert_eq!(w.get(TSS + 32, 4), CODE);
    assert_eq!(w.get(TSS + 56, 4), STACK);
}

/// The T bit raises #DB in the new task before its first instruction.
#[test]
fn debug_trap_bit() {
    let (mut cpu, mut w) = protected(0);
    second_task(&mut w, 0x89);
    w.put(DATA + 100, 2, 1);
    run(&mut cpu, &mut w, &[0xea, 0, 0, 0, 0, 0x40, 0]).unwrap();
    assert_eq!(cpu.rip, HANDLER + 1);
    assert_eq!(cpu.dr[6], x86::dr::DR6_FIXED1 | x86::dr::DR6_BT);
    assert_eq!(w.get(STACK0 - 12, 4), HANDLER);
}

/// A bad selector of the new task faults in the new task.
#[test]
fn segment_fault_of_a_new_task() {
    let (mut cpu, mut w) = protected(0);
    second_task(&mut w, 0x89);
    w.put(DATA + 72, 4, 0x78);
    run(&mut cpu, &mut w, &[0xea, 0, 0, 0, 0, 0x40, 0]).unwrap();
    assert_eq!(cpu.rip, HANDLER + 10);
    assert_eq!(cpu.seg(Seg::Tr).selector, sel::FREE);
    assert_eq!(w.words(STACK0 - 16, 4, 2), [0x78, HANDLER]);
}

#[test]
fn sixteen_bit_task() {
    let (mut cpu, mut w) = protected(0);
    w.gdt(sel::FREE, descriptor(DATA as u32, 0x2b, 0x81, 0));
    let words = [
        HANDLER, 2, 1, 2, 3, 4, 0x8000, 5, 6, 7, 0x10, 0x08, 0x10, 0x10, 0,
    ];
    for (i, v) in words.into_iter().enumerate() {
        w.put(DATA + 14 + 2 * i as u64, 2, v);
    }
    run(&mut cpu, &mut w, &[0xea, 0, 0, 0, 0, 0x40, 0]).unwrap();
    assert_eq!(cpu.rip, HANDLER);
    assert_eq!(cpu.gpr[gpr::RSP] & 0xffff, 0x8000);
    assert_eq!(cpu.gpr[gpr::RDI] & 0xffff, 7);
}

#[test]
fn iret_in_a_nested_task_in_long_mode_is_gp() {
    let (mut cpu, mut w) = long(0);
    cpu.rflags |= flags::NT;
    let iretq = [0x48, 0xcf];
    assert_eq!(fault(&mut cpu, &mut w, &iretq), Some(Exception::GP0));
}
