//! SYSCALL, far transfers and segment loads in 64-bit mode.

use super::*;

#[test]
fn syscall_and_sysret() {
    let (mut cpu, mut w) = long(3);
    cpu.msr.star = 0x001b_0008_0000_0000;
    cpu.msr.lstar = 0xffff_8000_0000_1000;
    cpu.msr.sfmask = flags::IF | flags::TF;
    cpu.rflags |= flags::CF;
    run(&mut cpu, &mut w, &[0x0f, 0x05]).unwrap();
    assert_eq!(cpu.rip, 0xffff_8000_0000_1000);
    assert_eq!((cpu.gpr[gpr::RCX], cpu.gpr[gpr::R11]), (CODE + 2, 0x203));
    assert_eq!(cpu.rflags, flags::FIXED1 | flags::CF);
    assert_eq!(cpu.cpl(), 0);
    assert_eq!(cpu.seg(Seg::Cs).selector, 8);
    assert_eq!(cpu.seg(Seg::Ss).selector, 0x10);
    assert!(cpu.code64());
    cpu.rip = CODE;
    cpu.gpr[gpr::RCX] = 0x1234;
    run(&mut cpu, &mut w, &[0x48, 0x0f, 0x07]).unwrap();
    assert_eq!((cpu.rip, cpu.cpl()), (0x1234, 3));
    assert_eq!(cpu.seg(Seg::Cs).selector, 0x2b);
    assert_eq!(cpu.seg(Seg::Ss).selector, 0x23);
    assert_eq!(cpu.rflags, 0x203);
}

#[test]
fn sysret_to_compatibility_mode() {
    let (mut cpu, mut w) = long(0);
    cpu.msr.star = 0x001b_0008_0000_0000;
    cpu.gpr[gpr::RCX] = 0x5_0000_1234;
    cpu.gpr[gpr::R11] = 2;
    run(&mut cpu, &mut w, &[0x0f, 0x07]).unwrap();
    assert_eq!((cpu.rip, cpu.bitness()), (0x1234, 32));
    assert_eq!(cpu.seg(Seg::Cs).selector, 0x1b);
}

#[test]
fn syscall_without_sce_and_sysret_to_a_bad_address() {
    let (mut cpu, mut w) = long(3);
    cpu.efer &= !efer::SCE;
    assert_eq!(fault(&mut cpu, &mut w, &[0x0f, 0x05]), Some(Exception::UD));
    let (mut cpu, mut w) = long(0);
    cpu.gpr[gpr::RCX] = 0x8000_0000_0000;
    let sysretq = [0x48, 0x0f, 0x07];
    assert_eq!(fault(&mut cpu, &mut w, &sysretq), Some(Exception::GP0));
    assert_eq!(cpu.cpl(), 0);
}

#[test]
fn sysenter_and_sysexit() {
    let (mut cpu, mut w) = long(3);
    let sysenter = [0x0f, 0x34];
    assert_eq!(fault(&mut cpu, &mut w, &sysenter), Some(Exception::GP0));
    cpu.msr.sysenter_cs = 8;
    cpu.msr.sysenter_esp = STACK0;
    cpu.msr.sysenter_eip = HANDLER;
    run(&mut cpu, &mut w, &sysenter).unwrap();
    assert_eq!(
        (cpu.rip, cpu.gpr[gpr::RSP], cpu.cpl()),
        (HANDLER, STACK0, 0)
    );
    assert!(cpu.code64());
    cpu.rip = CODE;
    (cpu.gpr[gpr::RDX], cpu.gpr[gpr::RCX]) = (0x1111, 0x2222);
    run(&mut cpu, &mut w, &[0x48, 0x0f, 0x35]).unwrap();
    assert_eq!((cpu.rip, cpu.gpr[gpr::RSP], cpu.cpl()), (0x1111, 0x2222, 3));
    assert_eq!(cpu.seg(Seg::Cs).selector, 8 + 32 + 3);
}

#[test]
fn retfq_to_user_and_compatibility_far_jump() {
    let (mut cpu, mut w) = long(0);
    for (i, v) in [CODE + 0x100, 0x1b, 0x6000, 0x23].into_iter().enumerate() {
        w.put(STACK + 8 * i as u64, 8, v);
    }
    run(&mut cpu, &mut w, &[0x48, 0xcb]).unwrap();
    assert_eq!((cpu.rip, cpu.bitness(), cpu.cpl()), (CODE + 0x100, 32, 3));
    assert_eq!(cpu.gpr[gpr::RSP], 0x6000);
    // Back to 64-bit code at the same level: jmp 0x28:0x1234.
    let jmp = [0xea, 0x34, 0x12, 0, 0, 0x2b, 0];
    w.mem[CODE as usize + 0x100..CODE as usize + 0x107].copy_from_slice(&jmp);
    crate::step(&mut cpu, &mut w).unwrap();
    assert_eq!((cpu.rip, cpu.bitness()), (0x1234, 64));
    assert_eq!(cpu.seg(Seg::Cs).selector, 0x2b);
}

/// A 64-bit call gate pushes SS, RSP, CS, RIP and no parameters (SDM vol 3,
/// 5.8.5.1).
#[test]
fn call_gate_to_ring_0() {
    let (mut cpu, mut w) = long(3);
    w.gdt(sel::FREE, gate(sel::CODE0, HANDLER, 0xec, 3));
    w.put(DATA, 4, 0x1111_2222);
    w.put(DATA + 4, 2, u64::from(sel::FREE | 3));
    cpu.gpr[gpr::RAX] = DATA;
    run(&mut cpu, &mut w, &[0xff, 0x18]).unwrap();
    assert_eq!((cpu.rip, cpu.cpl()), (HANDLER, 0));
    assert_eq!(cpu.gpr[gpr::RSP], STACK0 - 32);
    let expected = [CODE + 2, 0x2b, STACK, 0x23];
    assert_eq!(w.words(STACK0 - 32, 8, 4), expected);
    assert_eq!(cpu.seg(Seg::Ss).selector, 0);
    // And back with RETFQ.
    w.mem[HANDLER as usize..HANDLER as usize + 2].copy_from_slice(&[0x48, 0xcb]);
    crate::step(&mut cpu, &mut w).unwrap();
    assert_eq!((cpu.rip, cpu.cpl()), (CODE + 2, 3));
    assert_eq!(cpu.gpr[gpr::RSP], STACK);
}

#[test]
fn call_gate_refusals() {
    let cases = [
        (0x8c, Exception::gp(sel::FREE as u32)), // DPL 0
        (0x6c, Exception::np(sel::FREE as u32)), // not present
        (0xe4, Exception::gp(sel::FREE as u32)), // 16-bit
        (0xe9, Exception::gp(sel::FREE as u32)), // TSS
    ];
    for (access, expected) in cases {
        let (mut cpu, mut w) = long(3);
        w.gdt(sel::FREE, gate(sel::CODE0, HANDLER, access, 0));
        w.put(DATA + 4, 2, u64::from(sel::FREE | 3));
        cpu.gpr[gpr::RAX] = DATA;
        assert_eq!(fault(&mut cpu, &mut w, &[0xff, 0x18]), Some(expected));
    }
}

/// SDM vol 2, MOV: loading segment registers.
#[test]
fn segment_load_faults() {
    let mov_ds = [0x8e, 0xd8];
    let mov_ss = [0x8e, 0xd0];
    let cases: &[(u8, &[u8], u16, Option<Exception>)] = &[
        (3, &mov_ds, 0, None),
        (3, &mov_ds, sel::DATA3, None),
        (3, &mov_ds, sel::DATA0, Some(Exception::gp(0x10))),
        (0, &mov_ds, sel::DATA0 | 3, Some(Exception::gp(0x10))),
        (3, &mov_ds, 0x80, Some(Exception::gp(0x80))), // beyond the limit
        (3, &mov_ds, 0x14, Some(Exception::gp(0x14))), // no LDT
        (0, &mov_ds, sel::TSS, Some(Exception::gp(0x30))),
        (0, &mov_ds, sel::FREE, Some(Exception::np(0x40))),
        (0, &mov_ss, sel::FREE, Some(Exception::ss(0x40))),
        (0, &mov_ss, 0, None),
        (3, &mov_ss, 3, Some(Exception::GP0)),
        (0, &mov_ss, 3, Some(Exception::GP0)),
        (0, &mov_ss, sel::DATA3, Some(Exception::gp(0x20))),
        (0, &mov_ss, sel::CODE0, Some(Exception::gp(0x08))),
        (0, &[0x8e, 0xc8], sel::CODE0, Some(Exception::UD)),
    ];
    for (cpl, code, selector, expected) in cases {
        let (mut cpu, mut w) = long(*cpl);
        w.gdt(sel::FREE, descriptor(0, 0xf_ffff, 0x13, 0xc));
        cpu.gpr[gpr::RAX] = u64::from(*selector);
        let got = fault(&mut cpu, &mut w, code);
        assert_eq!(got, *expected, "cpl {cpl} {code:x?} {selector:#x}");
    }
}

#[test]
fn loading_sets_the_accessed_bit_and_null_clears_the_base() {
    let (mut cpu, mut w) = long(0);
    w.gdt(sel::FREE, descriptor(0x1234, 0xf_ffff, 0x92, 0xc));
    cpu.gpr[gpr::RAX] = u64::from(sel::FREE);
    run(&mut cpu, &mut w, &[0x8e, 0xe0]).unwrap();
    assert_eq!(w.get(GDT + u64::from(sel::FREE) + 5, 1), 0x93);
    assert_eq!(cpu.seg(Seg::Fs).base, 0x1234);
    cpu.gpr[gpr::RAX] = 3;
    cpu.rip = CODE;
    run(&mut cpu, &mut w, &[0x8e, 0xe0]).unwrap();
    assert_eq!(cpu.seg(Seg::Fs).base, 0);
    assert_eq!(cpu.seg(Seg::Fs).selector, 3);
    assert!(!cpu.seg(Seg::Fs).present());
}

#[test]
fn return_to_user_drops_privileged_data_segments() {
    let (mut cpu, mut w) = long(0);
    *cpu.seg_mut(Seg::Ds) = data_segment(sel::DATA0);
    *cpu.seg_mut(Seg::Fs) = Segment {
        base: 0x7777,
        ..Segment::default()
    };
    for (i, v) in [0x1234, 0x2b, 2, 0x6000, 0x23].into_iter().enumerate() {
        w.put(STACK + 8 * i as u64, 8, v);
    }
    run(&mut cpu, &mut w, &[0x48, 0xcf]).unwrap();
    assert_eq!(cpu.seg(Seg::Ds).selector, 0);
    assert!(!cpu.seg(Seg::Ds).present());
    assert_eq!(cpu.seg(Seg::Es).selector, sel::DATA3);
    assert_eq!(cpu.seg(Seg::Fs).base, 0x7777);
}

#[test]
fn swapgs_and_base_instructions() {
    let (mut cpu, mut w) = long(0);
    cpu.seg_mut(Seg::Gs).base = 0x11;
    cpu.msr.kernel_gs_base = 0x22;
    run(&mut cpu, &mut w, &[0x0f, 0x01, 0xf8]).unwrap();
    assert_eq!(
        (cpu.seg(Seg::Gs).base, cpu.msr.kernel_gs_base),
        (0x22, 0x11)
    );
    let wrfsbase = [0xf3, 0x48, 0x0f, 0xae, 0xd0];
    cpu.rip = CODE;
    assert_eq!(fault(&mut cpu, &mut w, &wrfsbase), Some(Exception::UD));
    cpu.cr4 |= cr4::FSGSBASE;
    cpu.gpr[gpr::RAX] = 0x8000_0000_0000;
    cpu.rip = CODE;
    assert_eq!(fault(&mut cpu, &mut w, &wrfsbase), Some(Exception::GP0));
    cpu.gpr[gpr::RAX] = 0x7fff_0000_0000;
    run(&mut cpu, &mut w, &wrfsbase).unwrap();
    assert_eq!(cpu.seg(Seg::Fs).base, 0x7fff_0000_0000);
    let (mut cpu, mut w) = long(3);
    let swapgs = [0x0f, 0x01, 0xf8];
    assert_eq!(fault(&mut cpu, &mut w, &swapgs), Some(Exception::GP0));
}

/// LTR marks the descriptor busy and reads 16 bytes (SDM vol 2, LTR).
#[test]
fn ltr_and_lldt() {
    let (mut cpu, mut w) = long(0);
    let ltr = [0x0f, 0x00, 0xd8];
    cpu.gpr[gpr::RAX] = u64::from(sel::TSS);
    assert_eq!(fault(&mut cpu, &mut w, &ltr), Some(Exception::gp(0x30)));
    w.gdt(sel::TSS, descriptor(TSS as u32, 0x67, 0x89, 0));
    w.gdt(sel::TSS + 8, 0xffff_8000);
    run(&mut cpu, &mut w, &ltr).unwrap();
    assert_eq!(cpu.seg(Seg::Tr).base, 0xffff_8000_0000_0000 | TSS);
    assert_eq!(w.get(GDT + 0x35, 1), 0x8b);
    cpu.rip = CODE;
    cpu.gpr[gpr::RAX] = 0;
    run(&mut cpu, &mut w, &[0x0f, 0x00, 0xd0]).unwrap();
    assert!(!cpu.seg(Seg::Ldtr).present());
}
