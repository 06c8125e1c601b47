//! String instructions: restart points, direction, widths and bulk runs.

use super::{READ_ONLY, UNMAPPED, World, cpu16, cpu64, step};
use crate::env::Stop;
use crate::operand::Handled;
use x86::{CpuState, Exception, flags, gpr};

const REP_MOVSB: &[u8] = &[0xf3, 0xa4];
const REP_STOSD: &[u8] = &[0xf3, 0xab];

fn prepare(si: u64, di: u64, count: u64) -> (CpuState, World) {
    let mut cpu = cpu64();
    cpu.gpr[gpr::RSI] = si;
    cpu.gpr[gpr::RDI] = di;
    cpu.gpr[gpr::RCX] = count;
    let mut w = World::new();
    for i in 0..0x3000 {
        w.mem[0x2000 + i] = (i % 251) as u8;
    }
    (cpu, w)
}

#[test]
fn a_fault_keeps_the_completed_iterations() {
    for plain in [false, true] {
        let (mut cpu, mut w) = prepare(0x2000, UNMAPPED - 0x20, 0x40);
        w.plain = plain;
        let pf = Stop::Fault(Exception::pf(UNMAPPED, 2));
        assert_eq!(step(&mut cpu, &mut w, REP_MOVSB), Err(pf));
        assert_eq!(cpu.gpr[gpr::RCX], 0x20);
        assert_eq!(cpu.gpr[gpr::RSI], 0x2020);
        assert_eq!(cpu.gpr[gpr::RDI], UNMAPPED);
        assert_eq!(cpu.rip, 0x1000);
        assert_eq!(w.mem[0x7fe0..0x8000], w.mem[0x2000..0x2020]);
    }
}

#[test]
fn bulk_runs_equal_single_iterations() {
    // (source, target, count): apart, overlapping up, overlapping down, short
    for (si, di, n) in [
        (0x2000, 0x5003, 0x1234),
        (0x2000, 0x2001, 0x300),
        (0x2100, 0x2000, 0x300),
        (0x2ff8, 0x5ff9, 20),
    ] {
        let (mut slow_cpu, mut slow) = prepare(si, di, n);
        let (mut fast_cpu, mut fast) = prepare(si, di, n);
        fast.plain = true;
        for (cpu, w) in [(&mut slow_cpu, &mut slow), (&mut fast_cpu, &mut fast)] {
            while step(cpu, w, REP_MOVSB).expect("no fault") == Handled::Again {}
        }
        assert!(slow_cpu == fast_cpu);
        assert!(slow.mem == fast.mem, "{si:x} {di:x} {n:x}");
        assert_eq!(slow.bulk, 0);
    }
}

#[test]
fn a_bulk_fill_is_one_store_a_page() {
    let (mut cpu, mut w) = prepare(0, 0x3000, 0x800);
    w.plain = true;
    cpu.gpr[gpr::RAX] = 0x0403_0201;
    assert_eq!(step(&mut cpu, &mut w, REP_STOSD), Ok(Handled::Next));
    assert_eq!((w.bulk, cpu.gpr[gpr::RDI]), (2, 0x5000));
    assert_eq!(w.get(0x4ffc, 4), 0x0403_0201);
    assert_eq!(w.mem[0x5000], 0);
}

#[test]
fn long_repeats_stop_for_interrupts_after_a_committed_iteration() {
    let (mut cpu, mut w) = prepare(0x2000, 0x1_0000, 10_000);
    assert_eq!(step(&mut cpu, &mut w, REP_MOVSB), Ok(Handled::Again));
    let done = 10_000 - cpu.gpr[gpr::RCX];
    assert!(done > 0 && done < 10_000);
    assert_eq!(u64::from(w.commits), done);
    assert_eq!((cpu.rip, cpu.gpr[gpr::RDI]), (0x1000, 0x1_0000 + done));
}

#[test]
fn single_step_and_breakpoints_stop_after_one_iteration() {
    let (mut cpu, mut w) = prepare(0x2000, 0x5000, 3);
    cpu.rflags |= flags::TF;
    for left in [2, 1] {
        assert_eq!(step(&mut cpu, &mut w, REP_MOVSB), Ok(Handled::Again));
        assert_eq!(cpu.gpr[gpr::RCX], left);
    }
    assert_eq!(step(&mut cpu, &mut w, REP_MOVSB), Ok(Handled::Next));
    let (mut cpu, mut w) = prepare(0x2000, 0x5000, 9);
    cpu.dr[0] = 0x5002;
    cpu.dr[7] = 1 | 1 << 16; // L0, write, one byte
    assert_eq!(step(&mut cpu, &mut w, REP_MOVSB), Ok(Handled::Again));
    assert_eq!(cpu.gpr[gpr::RDI], 0x5003);
}

#[test]
fn repe_and_repne_end_on_zf() {
    let (mut cpu, mut w) = prepare(0x2000, 0x5000, 8);
    w.mem.copy_within(0x2000..0x2005, 0x5000);
    w.mem[0x5005] = 0xff;
    // repe cmpsb stops after the first difference, which it has consumed.
    assert_eq!(step(&mut cpu, &mut w, &[0xf3, 0xa6]), Ok(Handled::Next));
    assert_eq!((cpu.gpr[gpr::RCX], cpu.gpr[gpr::RSI]), (2, 0x2006));
    assert_eq!(cpu.rflags & flags::ZF, 0);
    assert_eq!(cpu.rflags & flags::CF, flags::CF); // 5 - 0xff borrows
    // repne scasb, as strlen does
    let (mut cpu, mut w) = prepare(0, 0x2001, 0x100);
    w.mem[0x2005] = 0;
    assert_eq!(step(&mut cpu, &mut w, &[0xf2, 0xae]), Ok(Handled::Next));
    assert_eq!((cpu.gpr[gpr::RCX], cpu.gpr[gpr::RDI]), (0xfb, 0x2006));
}

#[test]
fn a_count_of_zero_does_nothing() {
    let (mut cpu, mut w) = prepare(UNMAPPED, READ_ONLY, 0);
    let before = cpu.clone();
    assert_eq!(step(&mut cpu, &mut w, REP_MOVSB), Ok(Handled::Next));
    assert_eq!((cpu.gpr, cpu.rflags), (before.gpr, before.rflags));
}

#[test]
fn direction_and_address_size() {
    let (mut cpu, mut w) = prepare(0x2004, 0x5004, 2);
    cpu.rflags |= flags::DF;
    assert_eq!(step(&mut cpu, &mut w, &[0xf3, 0xa5]), Ok(Handled::Next)); // movsd
    assert_eq!((cpu.gpr[gpr::RSI], cpu.gpr[gpr::RDI]), (0x1ffc, 0x4ffc));
    assert_eq!(w.mem[0x5000..0x5008], w.mem[0x2000..0x2008]);
    // 16-bit: the index wraps inside its 64 KiB, upper halves are kept.
    let mut cpu = cpu16();
    cpu.gpr[gpr::RSI] = 0x1234_ffff;
    cpu.gpr[gpr::RDI] = 0x5678_2000;
    cpu.gpr[gpr::RCX] = 0x9abc_0002;
    w.mem[0xffff] = 0x11;
    w.mem[0] = 0x22;
    assert_eq!(step(&mut cpu, &mut w, REP_MOVSB), Ok(Handled::Next));
    assert_eq!(cpu.gpr[gpr::RSI], 0x1234_0001);
    assert_eq!(cpu.gpr[gpr::RDI], 0x5678_2002);
    assert_eq!(cpu.gpr[gpr::RCX], 0x9abc_0000);
    assert_eq!(w.get(0x2000, 2), 0x2211);
}

#[test]
fn a_segment_override_moves_the_source_only() {
    let (mut cpu, mut w) = prepare(0x1000, 0x5000, 0);
    cpu.seg_mut(x86::Seg::Fs).base = 0x1234;
    assert_eq!(step(&mut cpu, &mut w, &[0x64, 0xa4]), Ok(Handled::Next));
    assert_eq!(w.mem[0x5000], w.mem[0x2234]);
}
