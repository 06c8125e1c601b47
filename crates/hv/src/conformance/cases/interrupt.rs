//! Interrupts and NMIs that the VMM injects (VMs without irqchip), and what
//! blocks them (SDM vol 3, 6.8).

use super::in_modes;
use crate::Hypervisor;
use crate::conformance::guest::{Guest, Mode, Stop};
use crate::conformance::layout::*;
use crate::conformance::{Failure, ensure, expect};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use x86::flags;

group! { "interrupt":
    injected_interrupt_is_delivered "KVM API 4.16, SDM 3 6.12",
    injected_interrupt_in_user_mode "SDM 3 6.12.1",
    not_ready_while_if_is_clear "KVM API 5, ready_for_interrupt_injection",
    window_opens_after_sti "KVM API 5, request_interrupt_window",
    sti_shadow_lasts_one_instruction "SDM 2 STI",
    mov_ss_shadow_lasts_one_instruction "SDM 3 6.8.3",
    interrupt_wakes_hlt "SDM 2 HLT",
    interrupt_in_the_middle_of_rep "SDM 2 REP",
    nmi_ignores_if "SDM 3 6.7",
    nmi_blocks_nmi_until_iret "SDM 3 6.7.1",
    nmi_wakes_hlt "SDM 2 HLT",
    nmi_in_real_mode "SDM 3 20.1.4",
    two_nmis_are_latched "SDM 3 6.7.1",
    real_mode_interrupt "SDM 3 20.1.4",
    popf_opens_the_window_at_once "SDM 2 POPF",
    cli_closes_the_window "SDM 2 CLI",
    poll_loop_is_interrupted "KVM API 5, KVM_EXIT_INTR",
}

const VECTOR: u8 = 0x31;
const MODES: [Mode; 5] = [
    Mode::Real,
    Mode::Prot32,
    Mode::Pae,
    Mode::Long,
    Mode::Compat,
];

/// The bare return from an interrupt in the mode's handler code.
fn iret(a: &mut CodeAssembler) -> Result<(), IcedError> {
    match a.bitness() {
        64 => a.iretq(),
        32 => a.iretd(),
        _ => a.iret(),
    }
}

/// Handler code runs in 64-bit mode under long mode.
fn handler_bits(mode: Mode) -> u32 {
    if mode.ia32e() { 64 } else { mode.bits() }
}

/// Installs a handler at [`SPARE`] that counts in EBP and returns.
fn counting_handler(g: &mut Guest, vector: u8) -> Result<(), Failure> {
    g.set_gate(vector, SPARE);
    let bits = handler_bits(g.mode);
    let ip = if g.mode == Mode::Real { 0 } else { SPARE };
    g.code_at(SPARE, ip, bits, |a| {
        a.inc(ebp)?;
        iret(a)
    })?;
    Ok(())
}

fn injected_interrupt_is_delivered(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &MODES, |g| {
        counting_handler(g, VECTOR)?;
        g.asm(|a| {
            a.mov(ecx, 5)?;
            a.hlt()
        })?;
        g.set(|r| r.rflags |= flags::IF)?;
        let start = g.regs()?;
        g.cpu.inject_irq(VECTOR)?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("count, ECX, RSP", (r.rbp, r.rcx, r.rsp), (1, 5, STACK_TOP))?;
        expect("IF after IRET", r.rflags & flags::IF, flags::IF)?;
        let width = match g.mode {
            Mode::Real => 2,
            Mode::Long | Mode::Compat => 8,
            _ => 4,
        };
        let slots = if g.mode.ia32e() { 5 } else { 3 };
        let at = STACK_TOP - slots * width;
        expect("return address", g.read_uint(at, width), start.rip)
    })
}

fn injected_interrupt_in_user_mode(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(
        hv,
        &[Mode::Prot32, Mode::Pae, Mode::Long, Mode::Compat],
        |g| {
            counting_handler(g, VECTOR)?;
            g.user_asm(|a| a.ud2())?;
            g.enter_user()?;
            g.set(|r| r.rflags |= flags::IF)?;
            g.cpu.inject_irq(VECTOR)?;
            g.run_to_exception()?.expect(6, None, USER_CODE)?;
            expect("count", g.regs()?.rbp, 1)
        },
    )
}

fn not_ready_while_if_is_clear(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &MODES, |g| {
        g.asm(|a| {
            a.hlt()?;
            a.sti()?;
            a.nop()?;
            a.hlt()
        })?;
        g.run_to_end()?;
        ensure("ready with IF = 0", !g.cpu.ready_for_irq())?;
        g.run_to_end()?;
        ensure("not ready with IF = 1", g.cpu.ready_for_irq())
    })
}

fn window_opens_after_sti(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &MODES, |g| {
        counting_handler(g, VECTOR)?;
        g.asm(|a| {
            a.mov(ecx, 1)?;
            a.sti()?;
            a.mov(ecx, 2)?;
            a.mov(ecx, 3)?;
            a.hlt()
        })?;
        g.cpu.request_irq_window(true);
        expect("stop", g.run()?, Stop::IrqWindow)?;
        // STI's shadow covers exactly one instruction.
        expect("ECX at the window", g.regs()?.rcx, 2)?;
        ensure("not ready in the window", g.cpu.ready_for_irq())?;
        g.cpu.request_irq_window(false);
        g.cpu.inject_irq(VECTOR)?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("count, ECX", (r.rbp, r.rcx), (1, 3))
    })
}

fn sti_shadow_lasts_one_instruction(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // STI; HLT with an interrupt pending halts first, then takes it: the
    // window opens only behind HLT, which a VM without irqchip reports as Hlt.
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| {
        a.sti()?;
        a.hlt()
    })?;
    g.cpu.request_irq_window(true);
    let stop = g.run()?;
    ensure(
        "the window opened before HLT",
        matches!(stop, Stop::Halt | Stop::IrqWindow) && g.regs()?.rip == CODE + 2,
    )
}

fn mov_ss_shadow_lasts_one_instruction(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Real, Mode::Prot32, Mode::Long], |g| {
        g.asm(|a| {
            a.mov(eax, ss)?;
            a.mov(ecx, 1)?;
            a.popf_()?;
            a.mov(ss, eax)?;
            a.mov(ecx, 2)?;
            a.mov(ecx, 3)?;
            a.hlt()
        })?;
        // POPF opens the window, so the request comes when IF is still 0 and
        // the flags on the stack keep it so until MOV SS.
        g.write_u64(STACK_TOP - 8, 2);
        g.set(|r| r.rsp = STACK_TOP - 8)?;
        g.run_to_end()?;
        expect("ECX", g.regs()?.rcx, 3)?;
        // Now with IF = 1 and host single-step: no step may stop between MOV
        // SS and the next instruction's end; see the debug group. Here the
        // shadow is read back as state.
        let step = g.mode;
        g.enter_kernel()?;
        g.asm(|a| {
            if step == Mode::Real {
                a.mov(ax, ss)?
            } else {
                a.mov(eax, ss)?
            }
            a.mov(ss, eax)?;
            a.out(0x10, al)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        expect("I/O in the shadow", g.log.len(), 1)
    })
}

fn interrupt_wakes_hlt(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &MODES, |g| {
        counting_handler(g, VECTOR)?;
        g.asm(|a| {
            a.sti()?;
            a.hlt()?;
            a.mov(ecx, 9)?;
            a.cli()?;
            a.hlt()
        })?;
        g.run_to_end()?;
        let halted = g.regs()?;
        expect("ECX while halted", halted.rcx, 0)?;
        g.cpu.inject_irq(VECTOR)?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("count, ECX", (r.rbp, r.rcx), (1, 9))
    })
}

fn interrupt_in_the_middle_of_rep(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // A backend may take the interrupt between two elements or behind the
    // last one; either way none is lost or done twice.
    let mut g = Guest::new(hv, Mode::Long)?;
    counting_handler(&mut g, VECTOR)?;
    g.asm(|a| {
        a.rep().movsb()?;
        a.hlt()
    })?;
    g.set(|r| {
        r.rsi = MMIO;
        r.rdi = DATA;
        r.rcx = 4;
        r.rflags |= flags::IF;
    })?;
    g.reads.extend([1, 2, 3, 4]);
    expect_mmio_read(&mut g)?;
    g.cpu.request_irq_window(true);
    let stop = g.run()?;
    expect("stop", stop, Stop::IrqWindow)?;
    g.cpu.request_irq_window(false);
    g.cpu.inject_irq(VECTOR)?;
    g.run_to_end()?;
    expect("count", g.regs()?.rbp, 1)?;
    expect("copied", g.read_u32(DATA), 0x0403_0201)
}

/// Runs to the first MMIO read and answers it.
fn expect_mmio_read(g: &mut Guest) -> Result<(), Failure> {
    let exit = g.cpu.run()?;
    ensure(
        "no MMIO read",
        matches!(exit, crate::VcpuExit::MmioRead { .. }),
    )?;
    let value = g.reads.pop_front().unwrap_or(0);
    g.cpu.complete_read(value);
    Ok(())
}

fn nmi_ignores_if(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &MODES, |g| {
        counting_handler(g, 2)?;
        g.asm(|a| {
            a.mov(ecx, 4)?;
            a.hlt()
        })?;
        g.cpu.inject_nmi()?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("count, ECX", (r.rbp, r.rcx), (1, 4))
    })
}

fn nmi_blocks_nmi_until_iret(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Long], |g| {
        // The handler exits by a port write, where a second NMI is sent.
        g.set_gate(2, SPARE);
        let bits = handler_bits(g.mode);
        g.code_at(SPARE, SPARE, bits, |a| {
            a.inc(ebp)?;
            a.out(0x55, al)?;
            a.mov(edx, ebp)?; // would be 2 if the second NMI came in here
            a.nop()?;
            iret(a)
        })?;
        g.asm(|a| {
            a.mov(ecx, 4)?;
            a.hlt()
        })?;
        g.cpu.inject_nmi()?;
        let exit = g.cpu.run()?;
        ensure(
            "no port write",
            matches!(exit, crate::VcpuExit::IoOut { port: 0x55, .. }),
        )?;
        g.cpu.inject_nmi()?;
        g.cpu.kicker().set_immediate_exit(true);
        expect("exit", g.cpu.run()?, crate::VcpuExit::Interrupted)?;
        g.cpu.kicker().set_immediate_exit(false);
        expect("NMI masked", g.cpu.events()?.nmi.masked, 1)?;
        let exit = g.cpu.run()?;
        ensure(
            "second NMI",
            matches!(exit, crate::VcpuExit::IoOut { port: 0x55, .. }),
        )?;
        let r = g.regs()?;
        expect("handler runs, EDX of the first", (r.rbp, r.rdx), (2, 1))?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("end", (r.rbp, r.rcx, r.rsp), (2, 4, STACK_TOP))?;
        expect("NMI unmasked", g.cpu.events()?.nmi.masked, 0)
    })
}

fn nmi_wakes_hlt(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Long], |g| {
        counting_handler(g, 2)?;
        g.asm(|a| {
            a.hlt()?;
            a.mov(ecx, 6)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        g.cpu.inject_nmi()?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("count, ECX", (r.rbp, r.rcx), (1, 6))
    })
}

fn nmi_in_real_mode(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Real)?;
    g.asm(|a| a.hlt())?;
    g.cpu.inject_nmi()?;
    g.run_to_exception()?.expect(2, None, 0)
}

fn two_nmis_are_latched(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    counting_handler(&mut g, 2)?;
    g.asm(|a| {
        a.nop()?;
        a.hlt()
    })?;
    // KVM holds two: one to deliver, one behind the blocking.
    for _ in 0..2 {
        g.cpu.inject_nmi()?;
    }
    g.run_to_end()?;
    expect("count", g.regs()?.rbp, 2)
}

fn real_mode_interrupt(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Real)?;
    counting_handler(&mut g, 8)?;
    g.asm(|a| {
        a.sti()?;
        a.hlt()?;
        a.cli()?;
        a.hlt()
    })?;
    g.run_to_end()?;
    g.cpu.inject_irq(8)?;
    g.run_to_end()?;
    expect("count", g.regs()?.rbp, 1)?;
    expect("frame: CS", g.read_uint(STACK_TOP - 4, 2), CODE >> 4)
}

fn popf_opens_the_window_at_once(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &MODES, |g| {
        g.asm(|a| {
            a.mov(ecx, 1)?;
            a.popf_()?;
            a.mov(ecx, 2)?;
            a.hlt()
        })?;
        g.write_u64(STACK_TOP - 8, flags::IF | 2);
        g.set(|r| r.rsp = STACK_TOP - 8)?;
        g.cpu.request_irq_window(true);
        expect("stop", g.run()?, Stop::IrqWindow)?;
        expect("ECX at the window", g.regs()?.rcx, 1)
    })
}

fn cli_closes_the_window(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &MODES, |g| {
        g.asm(|a| {
            a.sti()?;
            a.cli()?;
            a.mov(ecx, 7)?;
            a.hlt()
        })?;
        g.cpu.request_irq_window(true);
        // CLI is the instruction in STI's shadow: no window at all.
        expect("stop", g.run()?, Stop::Halt)?;
        expect("ECX", g.regs()?.rcx, 7)
    })
}

fn poll_loop_is_interrupted(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // A guest that spins leaves by a kick from another thread, and nothing
    // of it is lost.
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| {
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.inc(qword_ptr(DATA as u32))?;
        a.jmp(top)
    })?;
    let kicker = g.cpu.kicker();
    let thread = std::thread::spawn(move || kicker.kick());
    let stop = g.run()?;
    let joined = thread.join();
    ensure("the kicking thread failed", joined.is_ok())?;
    expect("stop", stop, Stop::Interrupted)?;
    g.asm(|a| a.hlt())?;
    g.enter_kernel()?;
    g.run_to_end()
}

/// POPF of the mode's natural width.
trait PopFlags {
    fn popf_(&mut self) -> Result<(), IcedError>;
}

impl PopFlags for CodeAssembler {
    fn popf_(&mut self) -> Result<(), IcedError> {
        match self.bitness() {
            64 => self.popfq(),
            32 => self.popfd(),
            _ => self.popf(),
        }
    }
}
