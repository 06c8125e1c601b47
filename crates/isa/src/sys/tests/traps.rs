//! Single step, breakpoints, shadows, HLT and pending events (SDM vol 3, 17.3
//! and 6.8.3).

use super::*;
use crate::Flow;
use x86::{MpState, Pending, Shadow, dr};

const DB_HANDLER: u64 = HANDLER + 1;

#[test]
fn single_step_traps_after_the_instruction() {
    let (mut cpu, mut w) = long(0);
    cpu.rflags |= flags::TF;
    run(&mut cpu, &mut w, &[0x90]).unwrap();
    assert_eq!(cpu.rip, DB_HANDLER);
    assert_eq!(cpu.dr[6], dr::DR6_FIXED1 | dr::DR6_BS);
    assert_eq!(w.words(STACK - 40, 8, 1), [CODE + 1]);
    assert_eq!(w.get(STACK - 24, 8), 0x302);
}

#[test]
fn popf_that_sets_tf_traps_one_instruction_later() {
    let (mut cpu, mut w) = long(0);
    w.put(STACK, 8, 0x302);
    run(&mut cpu, &mut w, &[0x9d, 0x90]).unwrap();
    assert_eq!(cpu.rip, CODE + 1);
    crate::step(&mut cpu, &mut w).unwrap();
    assert_eq!(cpu.rip, DB_HANDLER);
}

#[test]
fn int_n_clears_tf_without_a_trap() {
    let (mut cpu, mut w) = long(0);
    cpu.rflags |= flags::TF;
    run(&mut cpu, &mut w, &[0xcd, 0x40]).unwrap();
    assert_eq!(cpu.rip, HANDLER + 0x40);
    assert_eq!(cpu.dr[6], dr::DR6_FIXED1);
}

#[test]
fn syscall_obeys_the_mask() {
    for (mask, trapped) in [(flags::TF, false), (0, true)] {
        let (mut cpu, mut w) = long(3);
        cpu.rflags |= flags::TF;
        cpu.msr.star = 8 << 32;
        cpu.msr.lstar = HANDLER + 0x800;
        cpu.msr.sfmask = mask;
        run(&mut cpu, &mut w, &[0x0f, 0x05]).unwrap();
        assert_eq!(cpu.rip == DB_HANDLER, trapped);
    }
}

#[test]
fn data_breakpoint_traps_with_its_number() {
    let (mut cpu, mut w) = long(0);
    cpu.dr[2] = DATA + 4;
    // L2, write, 4 bytes.
    cpu.dr[7] = dr::DR7_FIXED1 | 1 << 4 | 0b1101 << 24;
    cpu.gpr[gpr::RBX] = DATA;
    // mov al, [rbx+6]: a read does not match.
    run(&mut cpu, &mut w, &[0x8a, 0x43, 0x06]).unwrap();
    assert_eq!(cpu.rip, CODE + 3);
    cpu.rip = CODE;
    // mov [rbx+6], al
    run(&mut cpu, &mut w, &[0x88, 0x43, 0x06]).unwrap();
    assert_eq!(cpu.rip, DB_HANDLER);
    assert_eq!(cpu.dr[6], dr::DR6_FIXED1 | 4);
    assert_eq!(w.get(STACK - 40, 8), CODE + 3);
}

#[test]
fn instruction_breakpoint_is_a_fault_that_rf_suppresses() {
    let (mut cpu, mut w) = long(0);
    cpu.dr[0] = CODE;
    cpu.dr[7] = dr::DR7_FIXED1 | 2;
    run(&mut cpu, &mut w, &[0x90]).unwrap();
    assert_eq!(cpu.rip, DB_HANDLER);
    assert_eq!(cpu.dr[6], dr::DR6_FIXED1 | 1);
    assert_eq!(w.words(STACK - 40, 8, 3), [CODE, 8, 0x202]);
    let (mut cpu, mut w) = long(0);
    cpu.dr[0] = CODE;
    cpu.dr[7] = dr::DR7_FIXED1 | 2;
    cpu.rflags |= flags::RF;
    run(&mut cpu, &mut w, &[0x90]).unwrap();
    assert_eq!(cpu.rip, CODE + 1);
    assert_eq!(cpu.rflags & flags::RF, 0);
}

/// A fault pushes RF set; IRETQ brings it back for the retried instruction.
#[test]
fn iret_restores_rf() {
    let (mut cpu, mut w) = long(0);
    let frame = [CODE + 2, 8, 0x202 | flags::RF, STACK, 0x10];
    for (i, v) in frame.into_iter().enumerate() {
        w.put(STACK + 8 * i as u64, 8, v);
    }
    run(&mut cpu, &mut w, &[0x48, 0xcf]).unwrap();
    assert_ne!(cpu.rflags & flags::RF, 0);
}

#[test]
fn mov_ss_holds_off_traps_and_breakpoints() {
    let (mut cpu, mut w) = long(0);
    cpu.rflags |= flags::TF;
    cpu.gpr[gpr::RAX] = u64::from(sel::DATA0);
    cpu.dr[0] = CODE + 2;
    cpu.dr[7] = dr::DR7_FIXED1 | 2;
    run(&mut cpu, &mut w, &[0x8e, 0xd0, 0x90]).unwrap();
    assert_eq!((cpu.rip, cpu.events.shadow), (CODE + 2, Shadow::MovSs));
    crate::step(&mut cpu, &mut w).unwrap();
    assert_eq!(cpu.rip, DB_HANDLER);
    assert_eq!(cpu.dr[6], dr::DR6_FIXED1 | dr::DR6_BS);
    assert_eq!(cpu.events.shadow, Shadow::None);
}

#[test]
fn sti_shadow_lasts_one_instruction_and_only_if_it_changed_if() {
    let (mut cpu, mut w) = long(0);
    run(&mut cpu, &mut w, &[0xfb, 0x90]).unwrap();
    assert_eq!(cpu.events.shadow, Shadow::None);
    cpu.rip = CODE;
    cpu.rflags &= !flags::IF;
    crate::step(&mut cpu, &mut w).unwrap();
    assert_eq!(cpu.events.shadow, Shadow::Sti);
    crate::step(&mut cpu, &mut w).unwrap();
    assert_eq!(cpu.events.shadow, Shadow::None);
}

#[test]
fn hlt_halts_and_an_interrupt_wakes() {
    let (mut cpu, mut w) = long(0);
    assert_eq!(run(&mut cpu, &mut w, &[0xf4]), Ok(Flow::Halt));
    assert_eq!((cpu.rip, cpu.mp_state), (CODE + 1, MpState::Halted));
    crate::deliver(&mut cpu, &mut w, crate::Event::Interrupt(0x30)).unwrap();
    assert_eq!(cpu.mp_state, MpState::Runnable);
    let (mut cpu, mut w) = long(3);
    assert_eq!(fault(&mut cpu, &mut w, &[0xf4]), Some(Exception::GP0));
}

#[test]
fn pending_event_comes_before_the_instruction_and_survives_suspension() {
    let (mut cpu, mut w) = long(3);
    cpu.events.pending = Some(Pending::Interrupt(0x77));
    w.suspends.insert(STACK0 - 0x1000);
    assert_eq!(crate::step(&mut cpu, &mut w), Err(Stop::Suspend));
    assert_eq!(cpu.events.pending, Some(Pending::Interrupt(0x77)));
    w.suspends.clear();
    crate::step(&mut cpu, &mut w).unwrap();
    assert_eq!(cpu.events.pending, None);
    assert_eq!(cpu.rip, HANDLER + 0x77);
}

/// A trap whose delivery suspends must not run the instruction again.
#[test]
fn suspended_trap_is_kept() {
    let (mut cpu, mut w) = long(3);
    cpu.rflags |= flags::TF;
    w.suspends.insert(STACK0 - 0x1000);
    assert_eq!(run(&mut cpu, &mut w, &[0xff, 0xc0]), Err(Stop::Suspend));
    assert_eq!((cpu.gpr[0], cpu.rip), (1, CODE + 2));
    assert_eq!(w.commits, 1);
    w.suspends.clear();
    crate::step(&mut cpu, &mut w).unwrap();
    assert_eq!((cpu.gpr[0], cpu.rip), (1, DB_HANDLER));
    assert_eq!(w.get(STACK0 - 40, 8), CODE + 2);
}

#[test]
fn general_detect() {
    let (mut cpu, mut w) = long(0);
    cpu.dr[7] |= dr::DR7_GD;
    run(&mut cpu, &mut w, &[0x0f, 0x21, 0xc0]).unwrap();
    assert_eq!(cpu.rip, DB_HANDLER);
    assert_eq!(cpu.dr[6], dr::DR6_FIXED1 | dr::DR6_BD);
    assert_eq!(cpu.dr[7], dr::DR7_FIXED1);
    assert_eq!(w.get(STACK - 40, 8), CODE);
}
