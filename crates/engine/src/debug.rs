//! Host debugging of the guest (`KVM_SET_GUEST_DEBUG`).
//!
//! Translated code stays in use with breakpoints on instructions: INT3 is the
//! interpreter's anyway, and the code cache knows where hardware breakpoints are.
//! Watching data and single-stepping means interpreting.

use crate::run::Next;
use crate::translated;
use crate::vcpu::SoftVcpu;
use hv::abi::*;
use hv::{DebugExit, VcpuExit};
use iced_x86::{Code, Instruction};
use isa::{Flow, Stop};
use x86::paging::PAGE_MASK;
use x86::{Events, Pending, Shadow, dr};

impl SoftVcpu {
    /// Takes over what the VMM wants to have debugged.
    pub(crate) fn set_debug(&mut self, debug: kvm_guest_debug) {
        self.debug = debug;
        let offsets = self.code_breakpoints().map(|la| (la & PAGE_MASK) as u16);
        let offsets: Vec<u16> = offsets.collect();
        if !offsets.is_empty() {
            self.local.jumps.clear();
        }
        self.vm.break_at(self.index, offsets);
    }

    /// The VMM debugs the guest.
    pub(crate) fn is_debugged(&self) -> bool {
        self.debug.control & KVM_GUESTDBG_ENABLE != 0
    }

    fn wants(&self, control: u32) -> bool {
        self.is_debugged() && self.debug.control & control != 0
    }

    /// Breakpoints of the VMM that are enabled: address, and whether it is that
    /// of an instruction (SDM vol 3, 19.2.4).
    fn breakpoints(&self) -> impl Iterator<Item = (u64, bool)> {
        let on = self.wants(KVM_GUESTDBG_USE_HW_BP);
        let dr = self.debug.arch.debugreg;
        (0..4).filter_map(move |i| {
            let enabled = dr[7] >> (2 * i) & 3 != 0;
            (on && enabled).then_some((dr[i], dr[7] >> (16 + 4 * i) & 3 == 0))
        })
    }

    fn code_breakpoints(&self) -> impl Iterator<Item = u64> {
        self.breakpoints()
            .filter_map(|(la, code)| code.then_some(la))
    }

    /// Every instruction is to be looked at.
    pub(crate) fn steps_for_debugger(&self) -> bool {
        self.is_debugged()
            && (self.wants(KVM_GUESTDBG_SINGLESTEP)
                || !self.vm.options.translate
                || !translated::translatable(self.cpu())
                || self.breakpoints().any(|(_, code)| !code))
    }

    /// An instruction that translated code leaves to the interpreter may be a
    /// breakpoint.
    pub(crate) fn stops_at(&self, insn: &Instruction) -> bool {
        self.is_debugged()
            && (insn.code() == Code::Int3 || self.code_breakpoints().any(|la| la == insn.ip()))
    }

    /// A single step takes no interrupt.
    pub(crate) fn blocks_interrupts(&self) -> bool {
        self.wants(KVM_GUESTDBG_SINGLESTEP) && self.wants(KVM_GUESTDBG_BLOCKIRQ)
    }

    /// What follows an instruction that was finished elsewhere, or an event that was
    /// delivered: a single step ends with it, too.
    pub(crate) fn has_stepped(&self, next: Next) -> Next {
        let done = matches!(next, Next::Again) && !self.replay.in_flight();
        match done && self.wants(KVM_GUESTDBG_SINGLESTEP) {
            true => {
                let pc = self.cpu().linear_rip();
                Next::Exit(self.debug_exit(x86::vector::DB, pc, dr::DR6_BS))
            }
            false => next,
        }
    }

    /// The VMM said that the next INT3 is the guest's own.
    fn takes_int3(&mut self) -> bool {
        let before = self.debug.control;
        self.debug.control &= !KVM_GUESTDBG_INJECT_BP;
        before & KVM_GUESTDBG_INJECT_BP != 0
    }

    /// One instruction with the VMM's breakpoints and single-step.
    pub(crate) fn debugged_step(&mut self) -> Next {
        let hardware = self.wants(KVM_GUESTDBG_USE_HW_BP);
        let saved = self.cpu().dr;
        if hardware {
            let host = self.debug.arch.debugreg;
            let cpu = self.cpu_mut();
            cpu.dr[..4].copy_from_slice(&host[..4]);
            cpu.dr[7] = host[7];
        }
        self.replay.begin();
        let step = self.wants(KVM_GUESTDBG_SINGLESTEP);
        let software = self.wants(KVM_GUESTDBG_USE_SW_BP);
        let (cpu, mut world) = self.parts();
        let fetched = isa::fetch(cpu, &mut world);
        let int3 = matches!(&fetched, Ok(insn) if insn.code() == Code::Int3);
        if software && int3 && !self.takes_int3() {
            let cpu = self.cpu_mut();
            cpu.dr = saved;
            let pc = cpu.linear_rip();
            return Next::Exit(self.debug_exit(x86::vector::BP, pc, 0));
        }
        let (cpu, mut world) = self.parts();
        let result = fetched.and_then(|insn| isa::execute_only(cpu, &mut world, &insn));
        let cpu = self.cpu_mut();
        if hardware {
            let seen = cpu.dr[6];
            cpu.dr = saved;
            cpu.dr[6] = seen;
        }
        let hit = debug_hit(&result, &mut cpu.events, hardware);
        let pc = cpu.linear_rip();
        match (hit, result) {
            (Some(dr6), _) => {
                self.replay.commit();
                Next::Exit(self.debug_exit(x86::vector::DB, pc, dr6))
            }
            (None, Ok(_)) if step => {
                self.replay.commit();
                Next::Exit(self.debug_exit(x86::vector::DB, pc, dr::DR6_BS))
            }
            (None, Err(Stop::Fault(e))) => {
                let events = &mut self.cpu_mut().events;
                events.pending = Some(Pending::Exception(e));
                events.shadow = Shadow::None;
                self.replay.commit();
                Next::Again
            }
            (None, result) => self.finish(result),
        }
    }

    fn debug_exit(&self, exception: u8, pc: u64, dr6: u64) -> VcpuExit {
        let dr6 = dr::DR6_FIXED1 | dr6;
        VcpuExit::Debug(DebugExit {
            exception,
            pc,
            dr6,
            dr7: self.debug.arch.debugreg[7],
        })
    }
}

/// DR6 bits of a host breakpoint that was hit; takes the trap from `events`.
fn debug_hit(result: &Result<Flow, Stop>, events: &mut Events, hardware: bool) -> Option<u64> {
    if !hardware {
        return None;
    }
    if let Err(Stop::Fault(e)) = result {
        return (e.vector == x86::vector::DB).then_some(e.payload);
    }
    match events.due() {
        Some(Pending::Exception(e)) if e.vector == x86::vector::DB => {
            events.pending = None;
            Some(e.payload)
        }
        _ => None,
    }
}
