//! System instructions that stand by themselves, in every operand size.

use super::{absolute, in_modes, on};
use crate::Hypervisor;
use crate::abi::kvm_cpuid_entry2;
use crate::conformance::guest::{Guest, Mode};
use crate::conformance::layout::*;
use crate::conformance::{Failure, ensure, expect};
use iced_x86::code_asm::*;
use iced_x86::{Code, Instruction, Register};
use x86::{cr4, flags, msr};

group! { "processor":
    int1_is_a_trap "SDM 2 INT n, SDM 3 6.15 #DB",
    undefined_instructions "SDM 2 UD",
    rdpmc_of_a_missing_counter "SDM 2 RDPMC",
    cache_instructions "SDM 2 INVD, WBINVD, WBNOINVD",
    monitor_and_mwait_as_offered "SDM 2 MONITOR, MWAIT",
    unknown_hypercall "Linux Documentation/virt/kvm/x86/hypercalls.rst",
    rdpid_reads_tsc_aux "SDM 2 RDPID",
    serialize_changes_nothing "SDM 2 SERIALIZE",
    random_numbers "SDM 2 RDRAND, RDSEED",
    invpcid_in_protected_mode "SDM 2 INVPCID",
    base_instructions_with_32_bits "SDM 2 RDFSBASE, WRFSBASE",
    debug_registers_in_32_bit_code "SDM 2 MOV",
    sysexit_to_64_bit_mode "SDM 2 SYSEXIT",
    sixteen_bit_port_read "SDM 2 IN",
}

const EBX: fn(&kvm_cpuid_entry2) -> u32 = |e| e.ebx;
const ECX: fn(&kvm_cpuid_entry2) -> u32 = |e| e.ecx;
const EDX: fn(&kvm_cpuid_entry2) -> u32 = |e| e.edx;

fn int1_is_a_trap(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::ALL, |g| {
        let start = g.regs()?.rip;
        g.asm(|a| a.int1())?;
        g.run_to_exception()?.expect(1, None, start + 1)?;
        // No condition of DR6 stands for it.
        expect("DR6", g.cpu.debug_regs()?.dr6 & 0xe00f, 0)
    })
}

fn undefined_instructions(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // With a 66 prefix, without, and in 64-bit mode with REX.W.
    let codes: [&[u8]; 7] = [
        &[0x0f, 0x0b],
        &[0x66, 0x0f, 0xff, 0xc0],
        &[0x0f, 0xff, 0xc0],
        &[0x66, 0x0f, 0xb9, 0xc0],
        &[0x0f, 0xb9, 0xc0],
        &[0x48, 0x0f, 0xff, 0xc0],
        &[0x48, 0x0f, 0xb9, 0xc0],
    ];
    in_modes(hv, &Mode::ALL, |g| {
        let start = g.regs()?.rip;
        let known = if g.mode == Mode::Long { 7 } else { 5 };
        for code in &codes[..known] {
            g.write(CODE, code);
            g.enter_kernel()?;
            g.run_to_exception()?.expect(6, None, start)?;
        }
        Ok(())
    })
}

fn rdpmc_of_a_missing_counter(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Long], |g| {
        g.asm(|a| {
            a.mov(ecx, 0x1234_5678)?;
            a.rdpmc()
        })?;
        g.run_to_exception()?.expect(13, Some(0), CODE + 5)
    })
}

fn cache_instructions(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::ALL, |g| {
        g.asm(|a| {
            a.wbinvd()?;
            a.wbnoinvd()?; // without its CPUID bit it is WBINVD
            a.invd()?;
            a.hlt()
        })?;
        g.run_to_end()
    })?;
    in_modes(hv, &[Mode::Pae, Mode::Long], |g| {
        g.user_asm(|a| a.invd())?;
        g.enter_user()?;
        g.run_to_exception()?.expect(13, Some(0), USER_CODE)
    })
}

fn monitor_and_mwait_as_offered(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let modes = [
        (Mode::Real, Code::Monitorw),
        (Mode::Prot32, Code::Monitord),
        (Mode::Long, Code::Monitorq),
    ];
    for (mode, monitor) in modes {
        let mut g = Guest::new(hv, mode)?;
        let offered = g.need(1, 0, ECX, 3, "MONITOR").is_ok();
        if !offered && hv.name() == "kvm" {
            // KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS is on unless disabled.
            return Err(Failure::Skipped("MONITOR (KVM runs it as NOP without)"));
        }
        let start = g.regs()?.rip;
        for code in [monitor, Code::Mwait] {
            g.asm(|a| {
                a.add_instruction(Instruction::with(code))?;
                a.hlt()
            })?;
            g.enter_kernel()?;
            g.set(|r| (r.rax, r.rcx, r.rdx) = (0, 0, 0))?;
            match offered {
                true => g.run_to_end()?,
                false => g.run_to_exception()?.expect(6, None, start)?,
            }
        }
    }
    Ok(())
}

fn unknown_hypercall(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Long], |g| {
        for code in [Code::Vmcall, Code::Vmmcall] {
            g.asm(|a| {
                a.mov(eax, 0x7777)?;
                a.add_instruction(Instruction::with(code))?;
                a.hlt()
            })?;
            g.enter_kernel()?;
            g.run_to_end()?;
            let mask = if g.mode == Mode::Long {
                u64::MAX
            } else {
                0xffff_ffff
            };
            let unknown = (-1000i64).cast_unsigned(); // -KVM_ENOSYS
            expect(&format!("{code:?}"), g.regs()?.rax, unknown & mask)?;
        }
        Ok(())
    })
}

fn rdpid_reads_tsc_aux(hv: &dyn Hypervisor) -> Result<(), Failure> {
    for (mode, code, register) in [
        (Mode::Prot32, Code::Rdpid_r32, Register::EBX),
        (Mode::Long, Code::Rdpid_r64, Register::RBX),
    ] {
        let mut g = Guest::new(hv, mode)?;
        g.need(7, 0, ECX, 22, "RDPID")?;
        g.cpu.set_msr(msr::TSC_AUX, 0x8765_4321)?;
        let insn = on(code, register)?;
        g.asm(|a| {
            a.mov(ebx, -1)?;
            a.add_instruction(insn)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        expect(&format!("{code:?}"), g.regs()?.rbx, 0x8765_4321)?;
    }
    Ok(())
}

fn serialize_changes_nothing(hv: &dyn Hypervisor) -> Result<(), Failure> {
    for mode in [Mode::Prot32, Mode::Pae, Mode::Long] {
        let mut g = Guest::new(hv, mode)?;
        g.need(7, 0, EDX, 14, "SERIALIZE")?;
        g.asm(|a| {
            a.mov(eax, -1)?;
            a.add(eax, 1)?;
            a.serialize()?;
            a.hlt()
        })?;
        g.run_to_end()?;
        let expected = flags::CF | flags::PF | flags::AF | flags::ZF;
        expect("flags", g.regs()?.rflags & flags::ARITH, expected)?;
    }
    // It is not privileged: the HLT after it is.
    in_modes(hv, &[Mode::Pae, Mode::Long], |g| {
        g.user_asm(|a| {
            a.serialize()?;
            a.hlt()
        })?;
        g.enter_user()?;
        g.run_to_exception()?.expect(13, Some(0), USER_CODE + 3)
    })
}

fn random_numbers(hv: &dyn Hypervisor) -> Result<(), Failure> {
    use Register as R;
    let rdrand = [
        (Code::Rdrand_r16, R::DX, 2),
        (Code::Rdrand_r32, R::EDX, 4),
        (Code::Rdrand_r64, R::RDX, 8),
    ];
    let rdseed = [
        (Code::Rdseed_r16, R::DX, 2),
        (Code::Rdseed_r32, R::EDX, 4),
        (Code::Rdseed_r64, R::RDX, 8),
    ];
    let mut g = Guest::new(hv, Mode::Long)?;
    g.need(1, 0, ECX, 30, "RDRAND")?;
    rdrand.iter().try_for_each(|&f| random_number(&mut g, f))?;
    g.need(7, 0, EBX, 18, "RDSEED")?;
    rdseed.iter().try_for_each(|&f| random_number(&mut g, f))
}

/// Draws until 16 numbers came; they must not all be alike.
fn random_number(g: &mut Guest, (code, r, width): (Code, Register, u64)) -> Result<(), Failure> {
    let insn = on(code, r)?;
    g.write(DATA, &[0; 128]);
    g.asm(|a| {
        let mut again = a.create_label();
        a.mov(edi, DATA as u32)?;
        a.mov(ecx, 16)?;
        a.set_label(&mut again)?;
        a.mov(rdx, u64::MAX)?;
        a.cmp(ecx, 100)?; // CF = 1, so that RDRAND must set it, and SF = 1
        a.add_instruction(insn)?;
        a.pushfq()?;
        a.pop(rbx)?;
        a.jnc(again)?;
        a.mov(qword_ptr(rdi), rdx)?;
        a.add(edi, 8)?;
        a.dec(ecx)?;
        a.jne(again)?;
        a.hlt()
    })?;
    g.enter_kernel()?;
    g.run_to_end()?;
    // Of the arithmetic flags only CF can be set.
    expect(
        &format!("{code:?}: flags"),
        g.regs()?.rbx & flags::ARITH,
        flags::CF,
    )?;
    let numbers: Vec<u64> = (0..16).map(|i| g.read_u64(DATA + 8 * i)).collect();
    ensure(
        "every number is alike",
        numbers.iter().any(|n| *n != numbers[0]),
    )?;
    let above = match width {
        2 => 0xffff_ffff_ffff_0000,
        _ => 0,
    };
    let mask = u64::MAX.checked_shl(8 * width as u32).unwrap_or(0);
    ensure(
        "the upper part of RDX",
        numbers.iter().all(|n| n & mask == above),
    )
}

fn invpcid_in_protected_mode(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Pae], |g| {
        g.need(7, 0, EBX, 10, "INVPCID")?;
        for (kind, fault) in [(2, None), (4, Some(13))] {
            let insn =
                Instruction::with2(Code::Invpcid_r32_m128, Register::EAX, absolute(32, DATA))?;
            g.asm(|a| {
                a.mov(eax, kind)?;
                a.add_instruction(insn)?;
                a.hlt()
            })?;
            g.enter_kernel()?;
            match fault {
                None => g.run_to_end()?,
                Some(vector) => g.run_to_exception()?.expect(vector, Some(0), CODE + 5)?,
            }
        }
        Ok(())
    })
}

fn base_instructions_with_32_bits(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.need(7, 0, EBX, 0, "FSGSBASE")?;
    g.set_sregs(|s| s.cr4 |= cr4::FSGSBASE)?;
    g.asm(|a| {
        a.mov(rax, 0x1234_5678_8765_4321_u64)?;
        a.wrfsbase(eax)?; // zero-extends
        a.mov(rax, 0x0000_5678_8765_4000_u64)?;
        a.wrgsbase(rax)?;
        a.mov(rbx, u64::MAX)?;
        a.mov(rcx, u64::MAX)?;
        a.rdfsbase(ebx)?;
        a.rdgsbase(ecx)?;
        a.hlt()
    })?;
    g.run_to_end()?;
    let r = g.regs()?;
    expect(
        "RDFSBASE, RDGSBASE",
        (r.rbx, r.rcx),
        (0x8765_4321, 0x8765_4000),
    )?;
    let s = g.cpu.sregs()?;
    let bases = (s.fs.base, s.gs.base);
    expect("bases", bases, (0x8765_4321, 0x5678_8765_4000))
}

fn debug_registers_in_32_bit_code(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Pae, Mode::Compat], |g| {
        g.asm(|a| {
            a.mov(eax, 0x8765_4320_u32)?;
            a.mov(dr1, eax)?;
            a.mov(ebx, dr1)?;
            a.mov(ecx, dr7)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("DR1, DR7", (r.rbx, r.rcx), (0x8765_4320, 0x400))
    })
}

fn sysexit_to_64_bit_mode(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    // The selectors are the MSR's plus 32 and plus 40, RPL 3.
    g.cpu
        .set_msr(msr::SYSENTER_CS, u64::from(sel::USER64 & !3) - 32)?;
    g.asm(|a| {
        a.mov(rcx, USER_STACK_TOP - 0x40)?;
        a.mov(rdx, USER_CODE + 0x80)?;
        a.sysexitq()
    })?;
    if g.is_amd() {
        // APM vol 3, SYSEXIT: not in long mode.
        return g.run_to_exception()?.expect(6, None, CODE + 20);
    }
    g.code_at(USER_CODE + 0x80, USER_CODE + 0x80, 64, |a| a.ud2())?;
    let frame = g.run_to_exception()?;
    frame.expect(6, None, USER_CODE + 0x80)?;
    let data = u64::from(sel::USER64 + 8);
    expect("CS, SS", (frame.cs, frame.ss), (sel::USER64.into(), data))?;
    expect("RSP", frame.sp, USER_STACK_TOP - 0x40)
}

fn sixteen_bit_port_read(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::ALL, |g| {
        g.asm(|a| {
            a.mov(eax, 0x1111_1111)?;
            a.in_(ax, 0x22)?;
            a.hlt()
        })?;
        g.reads.push_back(0x8765_4321);
        g.run_to_end()?;
        expect("EAX", g.regs()?.rax, 0x1111_4321)
    })
}
