//! Control, debug and model-specific registers, tables, flags, ports.

use super::*;

/// MOV CRn, RAX.
fn mov_cr(n: u8) -> [u8; 3] {
    [0x0f, 0x22, 0xc0 | n << 3]
}

#[test]
fn cr0_combinations() {
    let (cpu, _) = protected(0);
    let on = cr0::PE | cr0::ET;
    let cases = [
        (on, None),
        (cr0::PG | cr0::ET, Some(Exception::GP0)),
        (on | cr0::NW, Some(Exception::GP0)),
        (on | cr0::NW | cr0::CD, None),
        (on | cr0::PG, None),
        // A reserved bit below 32 is ignored.
        (on | 1 << 6, None),
    ];
    for (value, expected) in cases {
        let (mut cpu, mut w) = (cpu.clone(), protected(0).1);
        cpu.gpr[gpr::RAX] = value;
        assert_eq!(fault(&mut cpu, &mut w, &mov_cr(0)), expected, "{value:#x}");
        if expected.is_none() {
            assert_eq!(cpu.cr0, value & !(1 << 6));
        }
    }
    let (mut cpu, mut w) = protected(3);
    assert_eq!(fault(&mut cpu, &mut w, &mov_cr(0)), Some(Exception::GP0));
    assert_eq!(fault(&mut cpu, &mut w, &mov_cr(1)), Some(Exception::UD));
}

/// SDM vol 3, 9.8.5: LME, PAE, then PG sets LMA; PG cannot go in 64-bit code.
#[test]
fn paging_turns_long_mode_on_and_off() {
    let (mut cpu, mut w) = protected(0);
    cpu.efer = efer::LME;
    cpu.gpr[gpr::RAX] = cr0::PE | cr0::PG | cr0::ET;
    cpu.cr4 = 0;
    assert_eq!(fault(&mut cpu, &mut w, &mov_cr(0)), Some(Exception::GP0));
    cpu.cr4 = cr4::PAE;
    run(&mut cpu, &mut w, &mov_cr(0)).unwrap();
    assert_eq!(cpu.efer, efer::LME | efer::LMA);
    assert_eq!(cpu.bitness(), 32);
    assert!(w.mmu.contains(&MmuEvent::FlushAll));
    cpu.gpr[gpr::RAX] = cr0::PE | cr0::ET;
    cpu.rip = CODE;
    run(&mut cpu, &mut w, &mov_cr(0)).unwrap();
    assert_eq!(cpu.efer, efer::LME);
    let (mut cpu, mut w) = long(0);
    cpu.gpr[gpr::RAX] = cr0::PE | cr0::ET;
    assert_eq!(fault(&mut cpu, &mut w, &mov_cr(0)), Some(Exception::GP0));
}

#[test]
fn cr3_with_and_without_pcid() {
    let (mut cpu, mut w) = long(0);
    cpu.gpr[gpr::RAX] = 1 << 63 | 0x5000;
    assert_eq!(fault(&mut cpu, &mut w, &mov_cr(3)), Some(Exception::GP0));
    cpu.cr4 |= cr4::PCIDE;
    run(&mut cpu, &mut w, &mov_cr(3)).unwrap();
    assert_eq!(cpu.cr3, 0x5000);
    assert_eq!(w.mmu, [MmuEvent::Cr3 { keep: true }]);
    // Beyond MAXPHYADDR (40 here).
    cpu.gpr[gpr::RAX] = 1 << 40;
    cpu.rip = CODE;
    assert_eq!(fault(&mut cpu, &mut w, &mov_cr(3)), Some(Exception::GP0));
}

#[test]
fn cr4_checks() {
    let (mut cpu, mut w) = long(0);
    let gp = Some(Exception::GP0);
    for (value, cr3, expected) in [
        (0, 0, gp),                          // PAE in long mode
        (cr4::PAE | cr4::VMXE, 0, gp),       // not offered
        (cr4::PAE | 1 << 31, 0, gp),         // reserved
        (cr4::PAE | cr4::PCIDE, 0x5001, gp), // CR3[11:0]
        (cr4::PAE | cr4::PCIDE, 0x5000, None),
        (cr4::PAE | cr4::SMEP | cr4::SMAP | cr4::UMIP, 0, None),
    ] {
        cpu.rip = CODE;
        cpu.cr4 = cr4::PAE;
        cpu.cr3 = cr3;
        cpu.gpr[gpr::RAX] = value;
        assert_eq!(fault(&mut cpu, &mut w, &mov_cr(4)), expected, "{value:#x}");
    }
    assert_eq!(cpu.cr4, cr4::PAE | cr4::SMEP | cr4::SMAP | cr4::UMIP);
}

#[test]
fn cr8_and_cr2() {
    let (mut cpu, mut w) = long(0);
    cpu.gpr[gpr::RAX] = 16;
    let mov_cr8 = [0x44, 0x0f, 0x22, 0xc0];
    assert_eq!(fault(&mut cpu, &mut w, &mov_cr8), Some(Exception::GP0));
    cpu.gpr[gpr::RAX] = 15;
    run(&mut cpu, &mut w, &mov_cr8).unwrap();
    assert_eq!(cpu.cr8, 15);
    cpu.cr2 = 0xffff_8000_0000_0123;
    cpu.rip = CODE;
    run(&mut cpu, &mut w, &[0x0f, 0x20, 0xd3]).unwrap();
    assert_eq!(cpu.gpr[gpr::RBX], 0xffff_8000_0000_0123);
}

#[test]
fn lmsw_sets_but_never_clears_pe() {
    let (mut cpu, mut w) = protected(0);
    cpu.gpr[gpr::RAX] = cr0::TS | cr0::MP;
    run(&mut cpu, &mut w, &[0x0f, 0x01, 0xf0]).unwrap();
    assert_eq!(cpu.cr0, cr0::PE | cr0::ET | cr0::NE | cr0::TS | cr0::MP);
    cpu.rip = CODE;
    run(&mut cpu, &mut w, &[0x0f, 0x06]).unwrap();
    assert_eq!(cpu.cr0 & cr0::TS, 0);
    cpu.rip = CODE;
    run(&mut cpu, &mut w, &[0x0f, 0x01, 0xe3]).unwrap();
    assert_eq!(cpu.gpr[gpr::RBX], cpu.cr0);
}

#[test]
fn debug_registers_keep_their_fixed_bits() {
    let (mut cpu, mut w) = long(0);
    cpu.gpr[gpr::RAX] = 0xffff_ffff;
    run(&mut cpu, &mut w, &[0x0f, 0x23, 0xf0]).unwrap();
    assert_eq!(cpu.dr[6], 0xffff_eff0 | 0xf);
    cpu.rip = CODE;
    cpu.gpr[gpr::RAX] = 0;
    // DR5 is DR7 while CR4.DE is clear.
    run(&mut cpu, &mut w, &[0x0f, 0x23, 0xe8]).unwrap();
    assert_eq!(cpu.dr[7], 0x400);
    cpu.cr4 |= cr4::DE;
    cpu.rip = CODE;
    let mov_dr5 = [0x0f, 0x23, 0xe8];
    assert_eq!(fault(&mut cpu, &mut w, &mov_dr5), Some(Exception::UD));
    cpu.gpr[gpr::RAX] = 1 << 32;
    let mov_dr7 = [0x0f, 0x23, 0xf8];
    assert_eq!(fault(&mut cpu, &mut w, &mov_dr7), Some(Exception::GP0));
}

fn wrmsr(cpu: &mut CpuState, w: &mut World, index: u32, value: u64) -> Option<Exception> {
    cpu.rip = CODE;
    cpu.gpr[gpr::RCX] = u64::from(index);
    cpu.gpr[gpr::RAX] = value & 0xffff_ffff;
    cpu.gpr[gpr::RDX] = value >> 32;
    fault(cpu, w, &[0x0f, 0x30])
}

#[test]
fn msr_rules() {
    use x86::msr;
    let gp = Some(Exception::GP0);
    let hole = 0x8000_0000_0000;
    let cases = [
        (msr::LSTAR, hole, gp),
        (msr::LSTAR, 0xffff_8000_0000_0000, None),
        (msr::KERNEL_GS_BASE, hole, gp),
        (msr::FS_BASE, hole, gp),
        (msr::GS_BASE, 0x1234, None),
        (msr::PAT, 0x0007_0406_0007_0406, None),
        (msr::PAT, 2, gp),
        (msr::MTRR_FIX_64K_00000, 0x0606_0606_0606_0606, None),
        (msr::MTRR_FIX_64K_00000, 7, gp),
        (msr::MTRR_DEF_TYPE, 0xc06, None),
        (msr::MTRR_DEF_TYPE, 0x1000, gp),
        (msr::MTRR_PHYS_BASE0, 0x8000_0006, None),
        (msr::MTRR_PHYS_BASE0 + 1, 0xff_8000_0800, None),
        (msr::MTRR_PHYS_BASE0 + 1, 1 << 40, gp),
        (
            msr::EFER,
            efer::SCE | efer::LME | efer::LMA | efer::NXE,
            None,
        ),
        (msr::EFER, efer::SCE, gp), // LME under paging
        (msr::EFER, efer::LME | 1 << 16, gp),
        (0x1234_5678, 0, gp),
    ];
    let (mut cpu, mut w) = long(0);
    for (index, value, expected) in cases {
        let got = wrmsr(&mut cpu, &mut w, index, value);
        assert_eq!(got, expected, "{index:#x} {value:#x}");
        if expected.is_none() {
            assert_eq!(crate::read_msr(&cpu, index), Some(value), "{index:#x}");
        }
    }
    let (mut cpu, mut w) = long(3);
    assert_eq!(wrmsr(&mut cpu, &mut w, msr::GS_BASE, 0), gp);
}

#[test]
fn lgdt_sidt_and_umip() {
    let (mut cpu, mut w) = long(0);
    cpu.gpr[gpr::RBX] = DATA;
    w.put(DATA, 2, 0x1234);
    w.put(DATA + 2, 8, 0xffff_8000_1234_5678);
    run(&mut cpu, &mut w, &[0x0f, 0x01, 0x1b]).unwrap();
    assert_eq!(
        (cpu.idtr.limit, cpu.idtr.base),
        (0x1234, 0xffff_8000_1234_5678)
    );
    w.put(DATA + 2, 8, 0x8000_0000_0000);
    cpu.rip = CODE;
    let lgdt = [0x0f, 0x01, 0x13];
    assert_eq!(fault(&mut cpu, &mut w, &lgdt), Some(Exception::GP0));
    let (mut cpu, mut w) = long(3);
    cpu.gpr[gpr::RBX] = DATA;
    run(&mut cpu, &mut w, &[0x0f, 0x01, 0x0b]).unwrap();
    assert_eq!((w.get(DATA, 2), w.get(DATA + 2, 8)), (0xfff, IDT));
    cpu.cr4 |= cr4::UMIP;
    for code in [
        &[0x0f, 0x01, 0x0b][..], // sidt
        &[0x0f, 0x01, 0x03],     // sgdt
        &[0x0f, 0x00, 0x03],     // sldt
        &[0x0f, 0x00, 0x0b],     // str
        &[0x0f, 0x01, 0x23],     // smsw
    ] {
        cpu.rip = CODE;
        assert_eq!(fault(&mut cpu, &mut w, code), Some(Exception::GP0));
    }
}

#[test]
fn sixteen_bit_lgdt_takes_24_bits() {
    let (mut cpu, mut w) = real();
    w.put(DATA, 8, 0x1234_5678_ffff);
    cpu.gpr[gpr::RBX] = DATA;
    run(&mut cpu, &mut w, &[0x0f, 0x01, 0x17]).unwrap();
    assert_eq!(cpu.gdtr.base, 0x34_5678);
    cpu.rip = CODE;
    run(&mut cpu, &mut w, &[0x66, 0x0f, 0x01, 0x17]).unwrap();
    assert_eq!(cpu.gdtr.base, 0x1234_5678);
}

#[test]
fn lar_lsl_verr_verw() {
    let zf = |cpu: &CpuState| cpu.rflags & flags::ZF != 0;
    let (mut cpu, mut w) = long(3);
    let cases: &[(u16, &[u8], bool, Option<u64>)] = &[
        (sel::DATA3, &[0x0f, 0x02, 0xd8], true, Some(0xcf_f300)),
        (sel::DATA0, &[0x0f, 0x02, 0xd8], false, None),
        (sel::DATA3, &[0x0f, 0x03, 0xd8], true, Some(0xffff_ffff)),
        (0, &[0x0f, 0x03, 0xd8], false, None),
        (sel::DATA3, &[0x0f, 0x00, 0xe8], true, None), // verw
        (sel::CODE3, &[0x0f, 0x00, 0xe8], false, None),
        (sel::CODE3, &[0x0f, 0x00, 0xe0], true, None), // verr
        (0xfff8, &[0x0f, 0x00, 0xe0], false, None),
    ];
    for (selector, code, expected, result) in cases {
        cpu.rip = CODE;
        cpu.gpr[gpr::RAX] = u64::from(*selector);
        cpu.gpr[gpr::RBX] = 0x5555;
        run(&mut cpu, &mut w, code).unwrap();
        assert_eq!(zf(&cpu), *expected, "{selector:#x} {code:x?}");
        assert_eq!(cpu.gpr[gpr::RBX], result.unwrap_or(0x5555));
    }
    let (mut cpu, mut w) = real();
    let lar = [0x0f, 0x02, 0xd8];
    assert_eq!(fault(&mut cpu, &mut w, &lar), Some(Exception::UD));
}

#[test]
fn arpl_raises_the_rpl() {
    let (mut cpu, mut w) = protected(0);
    (cpu.gpr[gpr::RAX], cpu.gpr[gpr::RBX]) = (0x10, 0x1b);
    run(&mut cpu, &mut w, &[0x63, 0xd8]).unwrap();
    assert_eq!(
        (cpu.gpr[gpr::RAX], cpu.rflags & flags::ZF),
        (0x13, flags::ZF)
    );
    cpu.rip = CODE;
    run(&mut cpu, &mut w, &[0x63, 0xd8]).unwrap();
    assert_eq!((cpu.gpr[gpr::RAX], cpu.rflags & flags::ZF), (0x13, 0));
}

#[test]
fn cli_sti_popf_obey_iopl() {
    let (mut cpu, mut w) = long(3);
    assert_eq!(fault(&mut cpu, &mut w, &[0xfa]), Some(Exception::GP0));
    w.put(STACK, 8, 0x3002);
    run(&mut cpu, &mut w, &[0x9d]).unwrap();
    assert_eq!(cpu.rflags, flags::FIXED1 | flags::IF);
    cpu.rflags |= flags::IOPL;
    cpu.rip = CODE;
    run(&mut cpu, &mut w, &[0xfa]).unwrap();
    assert_eq!(cpu.rflags, flags::FIXED1 | flags::IOPL);
}

#[test]
fn pvi_uses_vif() {
    let (mut cpu, mut w) = protected(3);
    cpu.cr4 |= cr4::PVI;
    cpu.rflags |= flags::VIF;
    run(&mut cpu, &mut w, &[0xfa]).unwrap();
    assert_eq!(cpu.rflags & (flags::VIF | flags::IF), flags::IF);
    cpu.rflags |= flags::VIP;
    cpu.rip = CODE;
    assert_eq!(fault(&mut cpu, &mut w, &[0xfb]), Some(Exception::GP0));
}

#[test]
fn ports_need_iopl_or_the_bitmap() {
    let (mut cpu, mut w) = long(3);
    cpu.seg_mut(Seg::Tr).limit = 0x68 + 0x80;
    w.put(TSS + 0x66, 2, 0x68);
    for at in 0..0x80 {
        w.put(TSS + 0x68 + at, 1, 0xff);
    }
    w.put(TSS + 0x68 + 0x3f8 / 8, 1, 0xfe);
    cpu.gpr[gpr::RDX] = 0x3f8;
    // in al, dx; then in ax, dx covers the next port too.
    run(&mut cpu, &mut w, &[0xec]).unwrap();
    assert_eq!(cpu.gpr[gpr::RAX], 0x01);
    cpu.rip = CODE;
    let in_ax = [0x66, 0xed];
    assert_eq!(fault(&mut cpu, &mut w, &in_ax), Some(Exception::GP0));
    cpu.gpr[gpr::RDX] = 0x400; // beyond the map
    assert_eq!(fault(&mut cpu, &mut w, &[0xec]), Some(Exception::GP0));
    cpu.rflags |= flags::IOPL;
    cpu.rip = CODE;
    run(&mut cpu, &mut w, &[0xec]).unwrap();
}

#[test]
fn rep_outs_and_ins_commit_each_element() {
    let (mut cpu, mut w) = long(0);
    w.put(DATA, 4, 0x4433_2211);
    cpu.gpr[gpr::RSI] = DATA;
    cpu.gpr[gpr::RCX] = 3;
    cpu.gpr[gpr::RDX] = 0x80;
    run(&mut cpu, &mut w, &[0xf3, 0x6e]).unwrap();
    assert_eq!((cpu.rip, cpu.gpr[gpr::RCX]), (CODE, 2));
    crate::step(&mut cpu, &mut w).unwrap();
    crate::step(&mut cpu, &mut w).unwrap();
    assert_eq!((cpu.rip, cpu.gpr[gpr::RCX]), (CODE + 2, 0));
    assert_eq!(w.out, [(0x80, 1, 0x11), (0x80, 1, 0x22), (0x80, 1, 0x33)]);
    assert_eq!(w.commits, 3);
    let (mut cpu, mut w) = long(0);
    w.unmapped.insert(DATA);
    cpu.gpr[gpr::RDI] = DATA;
    let insb = [0x6c];
    assert_eq!(fault(&mut cpu, &mut w, &insb), Some(Exception::pf(DATA, 2)));
}

#[test]
fn invalidations() {
    let (mut cpu, mut w) = long(0);
    cpu.gpr[gpr::RBX] = 0xffff_8000_0000_1000;
    run(&mut cpu, &mut w, &[0x0f, 0x01, 0x3b]).unwrap();
    assert_eq!(w.mmu, [MmuEvent::Invlpg(0xffff_8000_0000_1000)]);
    w.mmu.clear();
    // invpcid rax, [rbx]
    let invpcid = [0x66, 0x0f, 0x38, 0x82, 0x03];
    cpu.gpr[gpr::RBX] = DATA;
    cpu.gpr[gpr::RAX] = 1;
    w.put(DATA, 8, 5);
    cpu.rip = CODE;
    assert_eq!(fault(&mut cpu, &mut w, &invpcid), Some(Exception::GP0));
    cpu.cr4 |= cr4::PCIDE;
    run(&mut cpu, &mut w, &invpcid).unwrap();
    let event = MmuEvent::Invpcid {
        kind: 1,
        pcid: 5,
        addr: 0,
    };
    assert_eq!(w.mmu, [event]);
    cpu.gpr[gpr::RAX] = 4;
    cpu.rip = CODE;
    assert_eq!(fault(&mut cpu, &mut w, &invpcid), Some(Exception::GP0));
}

#[test]
fn time_and_processor_identity() {
    let (mut cpu, mut w) = long(3);
    cpu.msr.tsc_aux = 7;
    run(&mut cpu, &mut w, &[0x0f, 0x01, 0xf9]).unwrap();
    assert_eq!(cpu.gpr[gpr::RAX], 0x2345_6789);
    assert_eq!((cpu.gpr[gpr::RDX], cpu.gpr[gpr::RCX]), (1, 7));
    cpu.cr4 |= cr4::TSD;
    cpu.rip = CODE;
    assert_eq!(fault(&mut cpu, &mut w, &[0x0f, 0x31]), Some(Exception::GP0));
    cpu.gpr[gpr::RAX] = 0xffff_ffff_8000_0008;
    run(&mut cpu, &mut w, &[0x0f, 0xa2]).unwrap();
    assert_eq!(cpu.gpr[gpr::RAX], 40);
    cpu.rip = CODE;
    run(&mut cpu, &mut w, &[0x0f, 0x01, 0xc1]).unwrap();
    assert_eq!(cpu.gpr[gpr::RAX], 0x1234);
}

#[test]
fn xsetbv_combinations() {
    let gp = Some(Exception::GP0);
    let xsetbv = [0x0f, 0x01, 0xd1];
    let (mut cpu, mut w) = long(0);
    assert_eq!(fault(&mut cpu, &mut w, &xsetbv), Some(Exception::UD));
    cpu.cr4 |= cr4::OSXSAVE;
    for (value, expected) in [
        (0, gp),
        (1, None),
        (3, None),
        (5, gp),
        (7, None),
        (0x27, gp),
        (0xe3, gp),
        (0xe7, None),
        (0x107, gp),
    ] {
        cpu.rip = CODE;
        cpu.gpr[gpr::RAX] = value;
        assert_eq!(fault(&mut cpu, &mut w, &xsetbv), expected, "{value:#x}");
    }
    assert_eq!(cpu.xcr0, 0xe7);
}

#[test]
fn virtualization_instructions_are_undefined() {
    for code in [
        &[0x0f, 0x01, 0xc2][..],   // vmlaunch
        &[0x0f, 0x78, 0xc3],       // vmread
        &[0xf3, 0x0f, 0xc7, 0x33], // vmxon
        &[0x0f, 0x01, 0xd8],       // vmrun
        &[0x0f, 0xaa],             // rsm
        &[0x0f, 0x37],             // getsec
        &[0x0f, 0x0b],             // ud2
        &[0x0f, 0x24, 0xc0],       // mov from tr
    ] {
        let (mut cpu, mut w) = long(0);
        assert_eq!(
            fault(&mut cpu, &mut w, code),
            Some(Exception::UD),
            "{code:x?}"
        );
    }
}
