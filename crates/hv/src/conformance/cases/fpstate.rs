//! x87, SSE and AVX state: contents, control bits, what survives exits and
//! TLB misses (SDM vol 1, chapters 8, 10, 13).

use super::in_modes;
use crate::Hypervisor;
use crate::conformance::guest::{Guest, Mode, Stop};
use crate::conformance::layout::*;
use crate::conformance::{Failure, ensure, expect};
use iced_x86::code_asm::*;
use x86::paging::pte;
use x86::{cr0, cr4, flags};

group! { "fpstate":
    reset_values "SDM 3 table 9-1, SDM 1 8.1.8",
    sse_registers_survive_exits "SDM 1 10.2",
    avx_registers_survive_exits "SDM 1 14.1",
    flush_to_zero_across_a_tlb_miss "SDM 1 10.2.3.3",
    flush_to_zero_across_an_interrupt "SDM 1 10.2.3.3",
    rounding_control_across_exits "SDM 1 8.1.5.3, 10.2.3.1",
    pending_x87_error_before_a_page_fault "SDM 3 table 6-2, SDM 1 8.3.12",
    pending_x87_error_across_a_tlb_miss "SDM 1 8.7",
    store_that_an_x87_error_keeps "SDM 1 8.5.1.1",
    unmasked_simd_error_after_a_tlb_miss "SDM 1 11.5",
    alignment_flag_across_a_tlb_miss "SDM 3 6.15 #AC",
    alignment_flag_across_an_interrupt "SDM 3 6.15 #AC",
    direction_flag_across_exits "SDM 1 3.4.3.2",
    fxsave_contents "SDM 1 10.5",
    fxsave_pointers_are_the_guests "SDM 1 8.1.8, 10.5.1",
    fnstenv_pointers_are_the_guests "SDM 1 8.1.10",
    fxsave_alignment "SDM 2 FXSAVE",
    fxrstor_reserved_mxcsr "SDM 2 FXRSTOR",
    ldmxcsr_reserved_bits "SDM 2 LDMXCSR",
    misaligned_movaps "SDM 2 MOVAPS",
    xsave_and_xrstor "SDM 1 13.7, 13.8",
    xrstor_reserved_header "SDM 1 13.8.1",
    mmx_marks_the_x87_tags "SDM 1 9.5",
    emulation_bit_hides_sse "SDM 3 2.5, CR0.EM",
    clts_ends_device_not_available "SDM 2 CLTS",
}

/// A page no program touched yet: its first access misses the TLB.
const COLD: u64 = 0x4000_0000;

fn map_cold(g: &mut Guest) -> Result<(), Failure> {
    for i in 0..4 {
        g.map(COLD + i * 0x1000, USER_DATA + i * 0x1000, pte::P | pte::RW);
    }
    g.flush_tlb()
}

/// Touches all four cold pages.
fn touch(a: &mut CodeAssembler) -> Result<(), iced_x86::IcedError> {
    for i in 0..4 {
        a.mov(edx, dword_ptr((COLD + i * 0x1000) as u32))?;
    }
    Ok(())
}

fn reset_values(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| {
        a.fnstcw(word_ptr(DATA as u32))?;
        a.fnstsw(ax)?;
        a.stmxcsr(dword_ptr(DATA as u32 + 4))?;
        a.fninit()?;
        a.fnstcw(word_ptr(DATA as u32 + 8))?;
        a.hlt()
    })?;
    g.run_to_end()?;
    expect("FSW", g.regs()?.rax, 0)?;
    expect("MXCSR", g.read_u32(DATA + 4), 0x1f80)?;
    expect("FCW after FNINIT", g.read_uint(DATA + 8, 2), 0x037f)
}

fn sse_registers_survive_exits(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    let registers = [
        xmm0, xmm1, xmm2, xmm3, xmm4, xmm5, xmm6, xmm7, xmm8, xmm9, xmm10, xmm11, xmm12, xmm13,
        xmm14, xmm15,
    ];
    for i in 0..32 {
        g.write_u64(DATA + i * 8, 0x0101_0101_0101_0101 * (i + 1));
    }
    g.asm(|a| {
        for (i, register) in registers.into_iter().enumerate() {
            a.movups(register, ptr(DATA as u32 + 16 * i as u32))?;
        }
        a.out(0x10, al)?;
        a.mov(dword_ptr(MMIO as u32), eax)?;
        a.cpuid()?;
        for (i, register) in registers.into_iter().enumerate() {
            a.movups(ptr(DATA as u32 + 0x200 + 16 * i as u32), register)?;
        }
        a.hlt()
    })?;
    g.run_to_end()?;
    for i in 0..32 {
        let want = 0x0101_0101_0101_0101 * (i + 1);
        expect(
            "half register",
            (i, g.read_u64(DATA + 0x200 + i * 8)),
            (i, want),
        )?;
    }
    Ok(())
}

/// Switches on AVX: CR4.OSXSAVE and XCR0.
fn enable_avx(g: &mut Guest) -> Result<(), Failure> {
    g.need(1, 0, |e| e.ecx, 28, "AVX")?;
    g.set_sregs(|s| s.cr4 |= cr4::OSXSAVE)?;
    Ok(g.cpu.set_xcr0(7)?)
}

fn avx_registers_survive_exits(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    enable_avx(&mut g)?;
    for i in 0..4 {
        g.write_u64(DATA + i * 8, 0x1111_1111_1111_1111 * (i + 1));
    }
    g.asm(|a| {
        a.vmovups(ymm9, ymmword_ptr(DATA as u32))?;
        a.out(0x10, al)?;
        a.vmovups(ymmword_ptr(DATA as u32 + 0x40), ymm9)?;
        a.vzeroupper()?;
        a.out(0x10, al)?;
        a.vmovups(ymmword_ptr(DATA as u32 + 0x80), ymm9)?;
        a.hlt()
    })?;
    g.run_to_end()?;
    expect(
        "upper quarter",
        g.read_u64(DATA + 0x58),
        0x4444_4444_4444_4444,
    )?;
    expect(
        "low quarter after VZEROUPPER",
        g.read_u64(DATA + 0x80),
        0x1111_1111_1111_1111,
    )?;
    expect("upper quarter after VZEROUPPER", g.read_u64(DATA + 0x98), 0)
}

/// `xmm0 = 2^-100 * 2^-40`, a denormal that FTZ turns into 0.
fn make_denormal(a: &mut CodeAssembler) -> Result<(), iced_x86::IcedError> {
    a.movss(xmm0, dword_ptr(DATA as u32))?;
    a.mulss(xmm0, dword_ptr(DATA as u32 + 4))?;
    a.movd(eax, xmm0)
}

fn denormal_data(g: &Guest) {
    g.write_uint(DATA, 4, (127 - 100) << 23);
    g.write_uint(DATA + 4, 4, (127 - 40) << 23);
    g.write_uint(DATA + 8, 4, 0x9f80); // MXCSR with FTZ
}

fn flush_to_zero_across_a_tlb_miss(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Pae, Mode::Long], |g| {
        map_cold(g)?;
        denormal_data(g);
        g.asm(|a| {
            make_denormal(a)?;
            a.mov(ebx, eax)?;
            a.ldmxcsr(dword_ptr(DATA as u32 + 8))?;
            touch(a)?;
            make_denormal(a)?;
            a.stmxcsr(dword_ptr(DATA as u32 + 12))?;
            a.hlt()
        })?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("2^-140 without, with FTZ", (r.rbx, r.rax), (1 << 9, 0))?;
        expect("MXCSR.FTZ", g.read_u32(DATA + 12) & 0x8000, 0x8000)
    })
}

fn flush_to_zero_across_an_interrupt(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    denormal_data(&g);
    g.set_gate(0x31, SPARE);
    g.code_at(SPARE, SPARE, 64, |a| {
        a.inc(ebp)?;
        a.iretq()
    })?;
    g.asm(|a| {
        a.ldmxcsr(dword_ptr(DATA as u32 + 8))?;
        a.sti()?;
        a.hlt()?;
        make_denormal(a)?;
        a.cli()?;
        a.hlt()
    })?;
    g.run_to_end()?;
    g.cpu.inject_irq(0x31)?;
    g.run_to_end()?;
    let r = g.regs()?;
    expect("interrupts, result", (r.rbp, r.rax), (1, 0))
}

fn rounding_control_across_exits(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Long], |g| {
        g.write_uint(DATA, 4, 0x5f80); // MXCSR: round up
        g.write_uint(DATA + 4, 2, 0x0b7f); // FCW: round up
        g.write_uint(DATA + 8, 4, 0x3fc0_0000); // 1.5
        g.asm(|a| {
            a.ldmxcsr(dword_ptr(DATA as u32))?;
            a.fldcw(word_ptr(DATA as u32 + 4))?;
            a.out(0x10, al)?;
            a.mov(dword_ptr(MMIO as u32), eax)?;
            a.cvtss2si(ecx, dword_ptr(DATA as u32 + 8))?;
            a.fld(dword_ptr(DATA as u32 + 8))?;
            a.fchs()?;
            a.fistp(dword_ptr(DATA as u32 + 12))?;
            a.hlt()
        })?;
        g.run_to_end()?;
        expect("1.5 rounded up", g.regs()?.rcx, 2)?;
        expect("-1.5 rounded up", g.read_u32(DATA + 12), u32::MAX)
    })
}

fn pending_x87_error_across_a_tlb_miss(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Pae, Mode::Long], |g| {
        map_cold(g)?;
        g.write_uint(DATA, 2, 0x037b); // zero divide unmasked
        let len = g.asm(|a| {
            a.fldcw(word_ptr(DATA as u32))?;
            a.fldz()?;
            a.fld1()?;
            a.fdiv_2(st0, st1)?;
            touch(a)?;
            a.fnstsw(ax) // does not wait
        })?;
        let bits = g.mode.bits();
        g.code_at(CODE + len, CODE + len, bits, |a| a.wait())?;
        g.run_to_exception()?.expect(16, None, CODE + len)?;
        expect("FSW: ES, ZE", g.regs()?.rax & 0x84, 0x84)
    })
}

fn pending_x87_error_before_a_page_fault(hv: &dyn Hypervisor) -> Result<(), Failure> {
    type Store = fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>;
    const MISSING: u32 = USER_DATA as u32 + 0x4000;
    let cases: [(Store, u8, &str); 5] = [
        (|a| a.fstp(dword_ptr(MISSING)), 16, "FSTP"),
        (|a| a.fld(qword_ptr(MISSING)), 16, "FLD"),
        (|a| a.movq(qword_ptr(MISSING), mm1), 16, "MOVQ"),
        (|a| a.fnstsw(word_ptr(MISSING)), 14, "FNSTSW"),
        (|a| a.movaps(xmm1, xmmword_ptr(MISSING)), 14, "MOVAPS"),
    ];
    in_modes(hv, &[Mode::Pae, Mode::Long], |g| {
        g.map(MISSING.into(), 0, 0);
        g.write_uint(DATA, 2, 0x037b); // zero divide unmasked
        for (store, vector, what) in cases {
            let len = g.asm(|a| {
                a.fninit()?;
                a.fldcw(word_ptr(DATA as u32))?;
                a.fldz()?;
                a.fld1()?;
                a.fdiv_2(st0, st1)
            })?;
            g.code_at(CODE + len, CODE + len, g.mode.bits(), store)?;
            g.enter_kernel()?;
            let frame = g.run_to_exception()?;
            expect(what, (frame.vector, frame.ip), (vector, CODE + len))?;
        }
        Ok(())
    })
}

fn store_that_an_x87_error_keeps(hv: &dyn Hypervisor) -> Result<(), Failure> {
    type Store = fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>;
    const MISSING: u32 = USER_DATA as u32 + 0x4000;
    let cases: [(Store, &str); 4] = [
        (|a| a.fstp(dword_ptr(MISSING)), "FSTP m32"),
        (|a| a.fstp(tbyte_ptr(MISSING)), "FSTP m80"),
        (|a| a.fistp(qword_ptr(MISSING)), "FISTP m64"),
        (|a| a.fbstp(tbyte_ptr(MISSING)), "FBSTP"),
    ];
    in_modes(hv, &[Mode::Pae, Mode::Long], |g| {
        g.map(MISSING.into(), 0, 0);
        g.write_uint(DATA, 2, 0x037e); // invalid operation unmasked
        for (store, what) in cases {
            let len = g.asm(|a| {
                a.fninit()?;
                a.fldcw(word_ptr(DATA as u32))
            })?;
            // The register stack is empty: nothing is stored, no page missed.
            let bits = g.mode.bits();
            let len = len + g.code_at(CODE + len, CODE + len, bits, store)?;
            g.code_at(CODE + len, CODE + len, bits, |a| a.wait())?;
            g.enter_kernel()?;
            let frame = g.run_to_exception()?;
            expect(what, (frame.vector, frame.ip), (16, CODE + len))?;
        }
        Ok(())
    })
}

fn unmasked_simd_error_after_a_tlb_miss(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Pae, Mode::Long], |g| {
        map_cold(g)?;
        g.write_uint(DATA, 4, 0x1d80); // zero divide unmasked
        g.write_uint(USER_DATA + 0x3000, 4, 0); // the cold divisor, +0
        g.write_uint(DATA + 4, 4, 0x3f80_0000);
        let len = g.asm(|a| {
            a.ldmxcsr(dword_ptr(DATA as u32))?;
            a.movss(xmm1, dword_ptr(DATA as u32 + 4))
        })?;
        let bits = g.mode.bits();
        g.code_at(CODE + len, CODE + len, bits, |a| {
            a.divss(xmm1, dword_ptr(COLD as u32 + 0x3000))
        })?;
        g.run_to_exception()?.expect(19, None, CODE + len)
    })
}

fn alignment_flag_across_a_tlb_miss(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // Ring 0 with AC = 1: no check, and the flag is still there afterwards.
    in_modes(hv, &[Mode::Pae, Mode::Long], |g| {
        map_cold(g)?;
        g.set_sregs(|s| s.cr0 |= cr0::AM)?;
        g.asm(|a| {
            touch(a)?;
            a.mov(ecx, dword_ptr(COLD as u32 + 0xffe))?; // unaligned, two pages
            a.mov(dword_ptr(COLD as u32 + 0x1fff), ecx)?;
            a.hlt()
        })?;
        g.set(|r| r.rflags |= flags::AC)?;
        g.run_to_end()?;
        expect("AC", g.regs()?.rflags & flags::AC, flags::AC)
    })
}

fn alignment_flag_across_an_interrupt(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.set_gate(0x31, SPARE);
    g.code_at(SPARE, SPARE, 64, |a| {
        a.mov(ecx, dword_ptr(DATA as u32 + 1))?;
        a.pushfq()?;
        a.pop(rbx)?;
        a.iretq()
    })?;
    g.asm(|a| {
        a.sti()?;
        a.hlt()?;
        a.cli()?;
        a.hlt()
    })?;
    g.set(|r| r.rflags |= flags::AC)?;
    g.run_to_end()?;
    g.cpu.inject_irq(0x31)?;
    g.run_to_end()?;
    let r = g.regs()?;
    expect("AC in the handler", r.rbx & flags::AC, flags::AC)?;
    expect("AC afterwards", r.rflags & flags::AC, flags::AC)
}

fn direction_flag_across_exits(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Long], |g| {
        g.asm(|a| {
            a.std()?;
            a.out(0x10, al)?;
            a.mov(dword_ptr(MMIO as u32), eax)?;
            a.stosb()?;
            a.hlt()
        })?;
        g.set(|r| r.rdi = DATA + 8)?;
        g.run_to_end()?;
        expect("EDI", g.regs()?.rdi, DATA + 7)
    })
}

fn fxsave_contents(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Long], |g| {
        g.write_u64(DATA + 0x800, 0x1122_3344_5566_7788);
        g.asm(|a| {
            a.fninit()?;
            a.fld1()?;
            a.fldz()?;
            a.movq(xmm3, qword_ptr(DATA as u32 + 0x800))?;
            a.fxsave(ptr(DATA as u32))?;
            a.hlt()
        })?;
        g.run_to_end()?;
        expect("FCW", g.read_uint(DATA, 2), 0x037f)?;
        expect("FSW: top is 6", g.read_uint(DATA + 2, 2), 0x3000)?;
        expect("tags of registers 6 and 7", g.read_uint(DATA + 4, 1), 0xc0)?;
        expect("MXCSR", g.read_u32(DATA + 24), 0x1f80)?;
        expect("ST0 = 0", g.read_uint(DATA + 40, 2), 0)?;
        expect("ST1 = 1", g.read_uint(DATA + 56, 2), 0x3fff)?;
        expect("XMM3", g.read_u64(DATA + 160 + 48), 0x1122_3344_5566_7788)
    })
}

fn fxsave_pointers_are_the_guests(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // Processors may leave the pointers 0 without an unmasked error (AMD), or
    // FDP alone (CPUID.7.EBX[6]); a host address may never appear.
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| {
        a.fninit()?;
        a.fld(qword_ptr(DATA as u32 + 0x800))?; // at CODE + 2
        a.nop()?;
        a.fxsave64(ptr(DATA as u32))?;
        a.hlt()
    })?;
    g.run_to_end()?;
    let (fip, fdp) = (g.read_u64(DATA + 8), g.read_u64(DATA + 16));
    ensure(
        "FIP is neither 0 nor the guest's",
        fip == 0 || fip == CODE + 2,
    )?;
    ensure(
        "FDP is neither 0 nor the guest's",
        fdp == 0 || fdp == DATA + 0x800,
    )
}

fn fnstenv_pointers_are_the_guests(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Compat], |g| {
        g.write_uint(DATA, 2, 0x037b); // zero divide unmasked: pointers count
        g.asm(|a| {
            a.fldcw(word_ptr(DATA as u32))?;
            a.fld1()?;
            a.fdiv(dword_ptr(DATA as u32 + 0x800))?; // at CODE + 8
            a.fnstenv(ptr(DATA as u32 + 0x40))?;
            a.hlt()
        })?;
        g.run_to_end()?;
        expect("FIP", g.read_u32(DATA + 0x4c), (CODE + 8) as u32)?;
        expect("FDP", g.read_u32(DATA + 0x54), (DATA + 0x800) as u32)
    })
}

fn fxsave_alignment(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| a.fxsave(ptr(DATA as u32 + 8)))?;
    g.run_to_exception()?.expect(13, Some(0), CODE)
}

fn fxrstor_reserved_mxcsr(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.write_uint(DATA, 2, 0x037f);
    g.write_uint(DATA + 24, 4, 0x8000_0000);
    g.asm(|a| a.fxrstor(ptr(DATA as u32)))?;
    g.run_to_exception()?.expect(13, Some(0), CODE)
}

fn ldmxcsr_reserved_bits(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.write_uint(DATA, 4, 0x1_1f80);
    g.asm(|a| a.ldmxcsr(dword_ptr(DATA as u32)))?;
    g.run_to_exception()?.expect(13, Some(0), CODE)
}

fn misaligned_movaps(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Long], |g| {
        g.asm(|a| a.movaps(xmm0, ptr(DATA as u32 + 4)))?;
        g.run_to_exception()?.expect(13, Some(0), CODE)
    })
}

fn xsave_and_xrstor(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    enable_avx(&mut g)?;
    for i in 0..4 {
        g.write_u64(DATA + 0x800 + i * 8, 0x1111_1111_1111_1111 * (i + 1));
    }
    g.asm(|a| {
        a.vmovups(ymm6, ymmword_ptr(DATA as u32 + 0x800))?;
        a.mov(eax, 7)?;
        a.xor(edx, edx)?;
        a.xsave64(ptr(DATA as u32))?;
        a.vzeroall()?;
        a.mov(eax, 4)?; // upper halves alone
        a.xrstor64(ptr(DATA as u32))?;
        a.vmovups(ymmword_ptr(DATA as u32 + 0x840), ymm6)?;
        a.hlt()
    })?;
    g.run_to_end()?;
    expect("XSTATE_BV", g.read_u64(DATA + 512) & 6, 6)?;
    expect(
        "XMM6 in the image",
        g.read_u64(DATA + 160 + 96),
        0x1111_1111_1111_1111,
    )?;
    expect(
        "upper YMM6 in the image",
        g.read_u64(DATA + 576 + 96),
        0x3333_3333_3333_3333,
    )?;
    let halves = (g.read_u64(DATA + 0x840), g.read_u64(DATA + 0x858));
    expect(
        "low, high quarter restored",
        halves,
        (0, 0x4444_4444_4444_4444),
    )
}

fn xrstor_reserved_header(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    enable_avx(&mut g)?;
    g.write_u64(DATA + 512, 1 << 40);
    let len = g.asm(|a| {
        a.mov(eax, 7)?;
        a.xor(edx, edx)
    })?;
    g.code_at(CODE + len, CODE + len, 64, |a| a.xrstor64(ptr(DATA as u32)))?;
    g.run_to_exception()?.expect(13, Some(0), CODE + len)
}

fn mmx_marks_the_x87_tags(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Long], |g| {
        g.asm(|a| {
            a.fninit()?;
            a.mov(eax, 0x1234)?;
            a.movd(mm2, eax)?;
            a.fxsave(ptr(DATA as u32))?;
            a.emms()?;
            a.fxsave(ptr(DATA as u32 + 0x200))?;
            a.hlt()
        })?;
        g.run_to_end()?;
        expect("all tags valid", g.read_uint(DATA + 4, 1), 0xff)?;
        expect("MM2", g.read_u64(DATA + 64), 0x1234)?;
        expect("exponent all ones", g.read_uint(DATA + 72, 2), 0xffff)?;
        expect("all tags empty", g.read_uint(DATA + 0x204, 1), 0)
    })
}

fn emulation_bit_hides_sse(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Long], |g| {
        g.set_sregs(|s| s.cr0 |= cr0::EM)?;
        g.asm(|a| a.movaps(xmm0, xmm1))?;
        g.run_to_exception()?.expect(6, None, CODE)?;
        g.asm(|a| a.fld1())?;
        g.enter_kernel()?;
        g.run_to_exception()?.expect(7, None, CODE)
    })
}

fn clts_ends_device_not_available(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.set_sregs(|s| s.cr0 |= cr0::TS)?;
    g.set_gate(7, SPARE);
    g.code_at(SPARE, SPARE, 64, |a| {
        a.inc(ebp)?;
        a.clts()?;
        a.iretq()
    })?;
    g.asm(|a| {
        a.xorps(xmm0, xmm0)?;
        a.xorps(xmm1, xmm1)?;
        a.hlt()
    })?;
    expect("stop", g.run()?, Stop::Halt)?;
    expect("faults", g.regs()?.rbp, 1)
}
