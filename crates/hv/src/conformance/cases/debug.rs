//! Debug exceptions in the guest, and debugging of the guest by the host
//! (SDM vol 3, chapter 17; KVM API, KVM_SET_GUEST_DEBUG).

use super::in_modes;
use crate::Hypervisor;
use crate::abi::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, KVM_GUESTDBG_USE_SW_BP,
    kvm_guest_debug,
};
use crate::conformance::guest::{Guest, Mode, Stop};
use crate::conformance::layout::*;
use crate::conformance::{Failure, ensure, expect};
use iced_x86::code_asm::*;
use x86::flags;

group! { "debug":
    trap_flag_steps "SDM 3 17.3.1.4",
    trap_flag_steps_rep_iterations "SDM 3 17.3.1.4",
    popf_sets_trap_flag_late "SDM 3 17.3.1.4",
    interrupt_clears_trap_flag "SDM 3 17.3.1.4, 6.12.1.3",
    mov_ss_holds_data_breakpoints_back "SDM 3 6.8.3",
    pop_ss_holds_data_breakpoints_back "SDM 3 6.8.3",
    a_held_breakpoint_follows_a_software_interrupt "SDM 3 6.8.3",
    mov_ss_delays_single_step "SDM 3 6.8.3",
    code_breakpoint_is_a_fault "SDM 3 17.3.1.1",
    resume_flag_passes_code_breakpoint "SDM 3 17.3.1.1",
    data_write_breakpoint "SDM 3 17.3.1.2",
    data_breakpoint_length "SDM 3 17.2.5",
    read_write_breakpoint "SDM 3 17.3.1.2",
    disabled_breakpoint "SDM 3 17.2.4",
    general_detect "SDM 3 17.2.4, 17.3.1.3",
    debug_register_access "SDM 3 17.2",
    dr4_and_dr5_with_de "SDM 3 17.2.2",
    guest_writes_debug_registers "KVM API 4.38",
    host_single_step "KVM API 4.87",
    host_single_step_hides_from_guest "KVM API 4.87",
    host_software_breakpoint "KVM API 4.87",
    host_code_breakpoint "KVM API 4.87",
    host_data_breakpoint "KVM API 4.87",
}

const MODES: [Mode; 5] = [
    Mode::Real,
    Mode::Prot32,
    Mode::Pae,
    Mode::Long,
    Mode::Compat,
];
const BS: u64 = 1 << 14;
const BD: u64 = 1 << 13;

/// DR6's event bits after a #DB.
fn events6(g: &Guest) -> Result<u64, Failure> {
    Ok(g.cpu.debug_regs()?.dr6 & 0xe00f)
}

fn trap_flag_steps(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &MODES, |g| {
        g.asm(|a| {
            a.nop()?;
            a.inc(cx)?;
            a.hlt()
        })?;
        let start = g.regs()?.rip;
        g.set(|r| r.rflags |= flags::TF)?;
        let frame = g.run_to_exception()?;
        frame.expect(1, None, start + 1)?;
        expect("DR6", events6(g)?, BS)?;
        expect("TF in the frame", frame.flags & flags::TF, flags::TF)?;
        expect("TF in the handler", g.regs()?.rflags & flags::TF, 0)
    })
}

fn trap_flag_steps_rep_iterations(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Long], |g| {
        g.asm(|a| {
            a.rep().stosb()?;
            a.hlt()
        })?;
        g.set(|r| {
            r.rdi = DATA;
            r.rcx = 3;
            r.rflags |= flags::TF;
        })?;
        g.run_to_exception()?.expect(1, None, CODE)?;
        expect("ECX", g.regs()?.rcx, 2)?;
        g.enter_kernel()?;
        g.set(|r| {
            r.rcx = 1;
            r.rflags |= flags::TF;
        })?;
        g.run_to_exception()?.expect(1, None, CODE + 2)
    })
}

fn popf_sets_trap_flag_late(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| {
        a.push(0x102)?;
        a.popfq()?;
        a.nop()?;
        a.nop()?;
        a.hlt()
    })?;
    // PUSH imm32 is five bytes, POPF one: the trap comes behind the NOP.
    g.run_to_exception()?.expect(1, None, CODE + 7)
}

fn interrupt_clears_trap_flag(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Long], |g| {
        // INT n with TF set: the handler's first instruction is not stepped.
        g.set_gate(0x33, SPARE);
        let bits = if g.mode.ia32e() { 64 } else { 32 };
        g.code_at(SPARE, SPARE, bits, |a| {
            a.nop()?;
            a.hlt()
        })?;
        g.asm(|a| a.int(0x33))?;
        g.set(|r| r.rflags |= flags::TF)?;
        g.run_to_end()?;
        expect("RIP", g.regs()?.rip, SPARE + 2)?;
        expect("TF", g.regs()?.rflags & flags::TF, 0)
    })
}

fn mov_ss_delays_single_step(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Long], |g| {
        g.asm(|a| {
            a.mov(ss, eax)?;
            a.nop()?;
            a.nop()?;
            a.hlt()
        })?;
        g.set(|r| {
            r.rax = sel::DATA.into();
            r.rflags |= flags::TF;
        })?;
        g.run_to_exception()?.expect(1, None, CODE + 3)
    })
}

/// Sets one breakpoint: register number, address, type (0 code, 1 write,
/// 3 read or write), length in bytes.
fn breakpoint(g: &mut Guest, n: usize, at: u64, kind: u64, len: u64) -> Result<(), Failure> {
    let mut regs = g.cpu.debug_regs()?;
    regs.db[n] = at;
    let len_bits = match len {
        1 => 0,
        2 => 1,
        8 => 2,
        _ => 3,
    };
    regs.dr7 |= 2 << (2 * n) | (kind | len_bits << 2) << (16 + 4 * n) | 0x400;
    Ok(g.cpu.set_debug_regs(&regs)?)
}

fn code_breakpoint_is_a_fault(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(
        hv,
        &[Mode::Prot32, Mode::Pae, Mode::Long, Mode::Compat],
        |g| {
            g.asm(|a| {
                a.mov(ecx, 1)?;
                a.mov(ecx, 2)?;
                a.hlt()
            })?;
            breakpoint(g, 1, CODE + 5, 0, 1)?;
            let frame = g.run_to_exception()?;
            frame.expect(1, None, CODE + 5)?;
            // The one fault that does not set RF in the pushed image.
            expect("RF in the frame", frame.flags & flags::RF, 0)?;
            expect("ECX", g.regs()?.rcx, 1)?;
            expect("DR6", events6(g)?, 2)
        },
    )
}

fn resume_flag_passes_code_breakpoint(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Long], |g| {
        // The handler sets RF in the frame before IRET, so each pass is one
        // fault.
        g.set_gate(1, SPARE);
        let bits = g.mode.bits();
        g.code_at(SPARE, SPARE, bits, |a| {
            a.inc(ebp)?;
            if bits == 64 {
                a.or(dword_ptr(rsp + 16), flags::RF as u32)?;
                a.iretq()
            } else {
                a.or(dword_ptr(esp + 8), flags::RF as u32)?;
                a.iretd()
            }
        })?;
        g.asm(|a| {
            a.mov(ecx, 3)?;
            let mut top = a.create_label();
            a.set_label(&mut top)?;
            a.dec(ecx)?; // the breakpoint
            a.jne(top)?;
            a.hlt()
        })?;
        breakpoint(g, 0, CODE + 5, 0, 1)?;
        g.run_to_end()?;
        expect("faults, ECX", (g.regs()?.rbp, g.regs()?.rcx), (3, 0))
    })
}

fn data_write_breakpoint(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(
        hv,
        &[Mode::Prot32, Mode::Pae, Mode::Long, Mode::Compat],
        |g| {
            g.asm(|a| {
                a.mov(ebx, ptr(esi_of(a.bitness())))?; // a read does not count
                a.mov(ptr(esi_of(a.bitness())), eax)?;
                a.mov(ecx, 1)?;
                a.hlt()
            })?;
            g.set(|r| {
                r.rsi = DATA + 0x40;
                r.rax = 0x77;
            })?;
            breakpoint(g, 2, DATA + 0x40, 1, 4)?;
            // A trap: the write is done, RIP is behind it.
            g.run_to_exception()?.expect(1, None, CODE + 4)?;
            expect("written", g.read_u32(DATA + 0x40), 0x77)?;
            expect("DR6", events6(g)?, 4)
        },
    )
}

/// `[esi]` or `[rsi]`: two-byte encodings in either mode.
fn esi_of(bits: u32) -> AsmMemoryOperand {
    if bits == 64 { rsi + 0 } else { esi + 0 }
}

fn data_breakpoint_length(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| {
        a.mov(byte_ptr(rsi + 1), 1)?; // before the range
        a.mov(byte_ptr(rsi + 4), 1)?; // behind it
        a.mov(byte_ptr(rsi + 3), 1)?; // its last byte
        a.hlt()
    })?;
    g.set(|r| r.rsi = DATA)?;
    breakpoint(&mut g, 0, DATA + 2, 1, 2)?;
    g.run_to_exception()?.expect(1, None, CODE + 12)?;
    // An unaligned wide write that only touches the range counts too.
    g.asm(|a| {
        a.mov(dword_ptr(rsi - 1), eax)?;
        a.hlt()
    })?;
    g.enter_kernel()?;
    g.set(|r| r.rsi = DATA)?;
    g.run_to_exception()?.expect(1, None, CODE + 3)
}

fn read_write_breakpoint(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Long], |g| {
        g.asm(|a| {
            a.mov(ebx, ptr(esi_of(a.bitness())))?;
            a.hlt()
        })?;
        g.set(|r| r.rsi = DATA)?;
        breakpoint(g, 3, DATA, 3, 4)?;
        g.run_to_exception()?.expect(1, None, CODE + 2)?;
        expect("DR6", events6(g)?, 8)
    })
}

/// Runs a load of SS from [`DATA`], where a read breakpoint is, and a counter
/// behind it: #DB comes behind the counter.
fn held_back(
    g: &mut Guest,
    load: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>,
) -> Result<(), Failure> {
    g.write_u64(DATA, sel::DATA.into());
    let len = g.asm(|a| {
        load(a)?;
        a.add(ebx, 1)
    })?;
    g.code_at(CODE + len, CODE + len, g.mode.bits(), |a| {
        a.add(ebx, 1)?;
        a.hlt()
    })?;
    breakpoint(g, 2, DATA, 3, 2)?;
    g.set(|r| {
        r.rbx = 0;
        r.rsi = DATA;
        r.rsp = STACK_TOP;
    })?;
    g.run_to_exception()?.expect(1, None, CODE + len)?;
    expect("EBX, DR6", (g.regs()?.rbx, events6(g)?), (1, 4))
}

fn mov_ss_holds_data_breakpoints_back(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Pae, Mode::Long], |g| {
        held_back(g, |a| {
            let at = esi_of(a.bitness());
            a.mov(ss, at)
        })
    })
}

fn pop_ss_holds_data_breakpoints_back(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Pae], |g| {
        g.write_u64(STACK_TOP - 4, sel::DATA.into());
        breakpoint(g, 1, STACK_TOP - 4, 3, 2)?;
        g.asm(|a| {
            a.pop(ss)?;
            a.add(ebx, 1)?;
            a.hlt()
        })?;
        g.set(|r| r.rsp = STACK_TOP - 4)?;
        g.run_to_exception()?.expect(1, None, CODE + 4)?;
        expect("EBX, DR6", (g.regs()?.rbx, events6(g)?), (1, 2))
    })
}

fn a_held_breakpoint_follows_a_software_interrupt(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // The #DB arrives in the handler, before its first instruction.
    in_modes(hv, &[Mode::Prot32, Mode::Long], |g| {
        g.set_gate(0x30, SPARE);
        g.code_at(SPARE, SPARE, g.mode.bits(), |a| {
            a.add(ebx, 1)?;
            a.hlt()
        })?;
        g.write_u64(DATA, sel::DATA.into());
        g.asm(|a| {
            let at = esi_of(a.bitness());
            a.mov(ss, at)?;
            a.int(0x30)
        })?;
        breakpoint(g, 0, DATA, 3, 2)?;
        g.set(|r| r.rsi = DATA)?;
        g.run_to_exception()?.expect(1, None, SPARE)?;
        expect("EBX, DR6", (g.regs()?.rbx, events6(g)?), (0, 1))
    })
}

fn disabled_breakpoint(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| {
        a.mov(byte_ptr(rsi), 1)?;
        a.hlt()
    })?;
    g.set(|r| r.rsi = DATA)?;
    breakpoint(&mut g, 0, DATA, 1, 1)?;
    let mut regs = g.cpu.debug_regs()?;
    regs.dr7 &= !0xff;
    g.cpu.set_debug_regs(&regs)?;
    g.run_to_end()
}

fn general_detect(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| {
        a.mov(rax, dr7)?;
        a.or(eax, 0x2000)?;
        a.mov(dr7, rax)?;
        a.mov(rbx, dr0)?;
        a.hlt()
    })?;
    g.run_to_exception()?.expect(1, None, CODE + 3 + 5 + 3)?;
    expect("DR6", events6(&g)?, BD)?;
    // The processor clears GD, so that the handler can work.
    expect("DR7.GD", g.cpu.debug_regs()?.dr7 & 0x2000, 0)
}

fn debug_register_access(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| {
        a.mov(rax, 0x7000_1234_5678_u64)?;
        a.mov(dr0, rax)?;
        a.mov(rbx, dr0)?;
        a.xor(eax, eax)?;
        a.mov(dr6, rax)?;
        a.mov(rcx, dr6)?;
        a.mov(dr7, rax)?;
        a.mov(rdx, dr7)?;
        a.hlt()
    })?;
    g.run_to_end()?;
    let r = g.regs()?;
    expect("DR0", r.rbx, 0x7000_1234_5678)?;
    // Bits 4..=11 and 16..=31 of DR6 read as 1; bit 11 (bus lock) and 16
    // (RTM) are active low where they exist.
    expect("DR6 fixed bits", r.rcx & !(1 << 11), 0xffff_07f0)?;
    expect("DR7 fixed bit", r.rdx, 0x400)?;
    // Upper halves of DR6 and DR7 must be 0.
    let at = g.asm(|a| {
        a.mov(rax, 1_u64 << 32)?;
        a.nop()
    })?;
    g.code_at(CODE + at, CODE + at, 64, |a| a.mov(dr7, rax))?;
    g.enter_kernel()?;
    g.run_to_exception()?.expect(13, Some(0), CODE + at)
}

fn dr4_and_dr5_with_de(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| {
        a.mov(rax, dr4)?;
        a.hlt()
    })?;
    g.run_to_end()?;
    expect("DR4 is DR6", g.regs()?.rax & 0xe00f, 0)?;
    g.set_sregs(|s| s.cr4 |= x86::cr4::DE)?;
    g.enter_kernel()?;
    g.run_to_exception()?.expect(6, None, CODE)
}

fn guest_writes_debug_registers(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| {
        a.mov(eax, DATA as u32)?;
        a.mov(dr2, rax)?;
        a.mov(eax, 0x0d00_0620)?; // global 2, write, 4 bytes; fixed bit; GE
        a.mov(dr7, rax)?;
        a.mov(dword_ptr(DATA as u32), 5)?;
        a.hlt()
    })?;
    let frame = g.run_to_exception()?;
    expect("vector", frame.vector, 1)?;
    expect("DR6", events6(&g)?, 4)?;
    expect("DR2", g.cpu.debug_regs()?.db[2], DATA)
}

/// Host debugging flags.
fn host_debug(g: &mut Guest, control: u32, dr: [u64; 8]) -> Result<(), Failure> {
    let mut debug = kvm_guest_debug {
        control: KVM_GUESTDBG_ENABLE | control,
        ..Default::default()
    };
    debug.arch.debugreg = dr;
    Ok(g.cpu.set_guest_debug(&debug)?)
}

fn need_guest_debug(hv: &dyn Hypervisor) -> Result<(), Failure> {
    if hv.capabilities().guest_debug {
        return Ok(());
    }
    Err(Failure::Skipped("guest debugging"))
}

fn host_single_step(hv: &dyn Hypervisor) -> Result<(), Failure> {
    need_guest_debug(hv)?;
    in_modes(
        hv,
        &[Mode::Prot32, Mode::Pae, Mode::Long, Mode::Compat],
        |g| {
            g.asm(|a| {
                a.nop()?;
                a.mov(ecx, 5)?;
                a.inc(ecx)?;
                a.hlt()
            })?;
            host_debug(g, KVM_GUESTDBG_SINGLESTEP, [0; 8])?;
            let inc = if g.mode == Mode::Long { 2 } else { 1 };
            for pc in [CODE + 1, CODE + 6, CODE + 6 + inc] {
                let debug = g.run_to_debug()?;
                expect("exception, pc", (debug.exception, debug.pc), (1, pc))?;
                expect("DR6.BS", debug.dr6 & BS, BS)?;
                expect("RIP", g.regs()?.rip, pc)?;
            }
            expect("ECX", g.regs()?.rcx, 6)
        },
    )
}

fn host_single_step_hides_from_guest(hv: &dyn Hypervisor) -> Result<(), Failure> {
    need_guest_debug(hv)?;
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| {
        a.nop()?;
        a.nop()?;
        a.hlt()
    })?;
    host_debug(&mut g, KVM_GUESTDBG_SINGLESTEP, [0; 8])?;
    g.run_to_debug()?;
    expect("TF as the guest has it", g.regs()?.rflags & flags::TF, 0)?;
    g.cpu.set_guest_debug(&kvm_guest_debug::default())?;
    g.run_to_end()?;
    expect("DR6 as the guest has it", events6(&g)?, 0)
}

fn host_software_breakpoint(hv: &dyn Hypervisor) -> Result<(), Failure> {
    need_guest_debug(hv)?;
    in_modes(hv, &[Mode::Prot32, Mode::Long], |g| {
        g.asm(|a| {
            a.nop()?;
            a.int3()?;
            a.hlt()
        })?;
        host_debug(g, KVM_GUESTDBG_USE_SW_BP, [0; 8])?;
        let debug = g.run_to_debug()?;
        expect("exception, pc", (debug.exception, debug.pc), (3, CODE + 1))?;
        // RIP stays on the breakpoint, so that the host can put back the byte.
        expect("RIP", g.regs()?.rip, CODE + 1)?;
        g.write(CODE + 1, &[0x90]);
        g.run_to_end()
    })
}

fn host_code_breakpoint(hv: &dyn Hypervisor) -> Result<(), Failure> {
    need_guest_debug(hv)?;
    in_modes(hv, &[Mode::Prot32, Mode::Long], |g| {
        g.asm(|a| {
            a.mov(ecx, 1)?;
            a.mov(ecx, 2)?;
            a.hlt()
        })?;
        let dr = [CODE + 5, 0, 0, 0, 0, 0, 0, 0x402];
        host_debug(g, KVM_GUESTDBG_USE_HW_BP, dr)?;
        let debug = g.run_to_debug()?;
        expect("exception, pc", (debug.exception, debug.pc), (1, CODE + 5))?;
        expect("DR6", debug.dr6 & 0xf, 1)?;
        expect("ECX", g.regs()?.rcx, 1)?;
        g.cpu.set_guest_debug(&kvm_guest_debug::default())?;
        expect("stop", g.run()?, Stop::Halt)
    })
}

fn host_data_breakpoint(hv: &dyn Hypervisor) -> Result<(), Failure> {
    need_guest_debug(hv)?;
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| {
        a.mov(byte_ptr(rsi), 1)?;
        a.nop()?;
        a.hlt()
    })?;
    g.set(|r| r.rsi = DATA)?;
    let dr = [0, DATA, 0, 0, 0, 0, 0, 0x10_0408];
    host_debug(&mut g, KVM_GUESTDBG_USE_HW_BP, dr)?;
    let debug = g.run_to_debug()?;
    expect("exception, pc", (debug.exception, debug.pc), (1, CODE + 3))?;
    expect("DR6", debug.dr6 & 0xf, 2)?;
    ensure("the write was not done", g.read_uint(DATA, 1) == 1)
}
