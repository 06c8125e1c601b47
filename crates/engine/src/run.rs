//! The run loop of a vCPU.

use crate::counters::bump;
use crate::profile::Sampler;
use crate::translated::{self, Ended};
use crate::vcpu::SoftVcpu;
use crate::world::Alone;
use hv::VcpuExit;
use iced_x86::Instruction;
use irqchip::Chipset;
use isa::{Event, Flow, PlainPort, Stop};
use std::sync::atomic::Ordering;
use x86::{MpState, Pending, Seg, Shadow, flags};

/// What the loop does after a piece of work.
pub enum Next {
    /// Goes on.
    Again,
    /// The instruction waits for the VMM: its recorded access is the exit.
    Suspended,
    /// Leaves.
    Exit(VcpuExit),
}

/// Interpreted instructions between looks at events when nothing is
/// translated.
const BURST: u32 = 64;

impl SoftVcpu {
    /// `KVM_RUN`.
    pub(crate) fn run_until_exit(&mut self) -> VcpuExit {
        self.prepare();
        let exit = loop {
            match self.turn() {
                Next::Again => {}
                Next::Exit(exit) => break exit,
                Next::Suspended if self.local.alone == Alone::Wanted => {
                    self.local.alone = Alone::Yes;
                }
                Next::Suspended => break self.suspended(),
            }
        };
        self.shared.stop();
        self.account(exit);
        exit
    }

    fn prepare(&mut self) {
        let ctx = self.ctx_mut();
        translated::set_gs_base(ctx);
        self.local.sampling.begin(self.shared.sampler());
        self.vm.world_stop.start(&self.shared);
        self.refresh_memory();
        let place = self.cpu().linear_rip();
        self.replay.absorb(place);
    }

    /// Takes over changed memory slots.
    fn refresh_memory(&mut self) {
        if self.vm.memory.version() != self.map_version {
            self.map_version = self.vm.memory.version();
            self.map = self.vm.memory.map();
            let ctx = self.ctx_mut();
            ctx.tlb.flush_all();
            self.local.jumps.clear();
        }
        let ctx = self.ctx_mut();
        ctx.slow.map = &raw const *self.map;
        ctx.slow.vm = &raw const *self.vm;
    }

    /// The exit of an instruction that waits for the VMM.
    fn suspended(&mut self) -> VcpuExit {
        if let Some(exit) = self.local.abort.take() {
            bump(&self.vm.counters.insn_emulation_fail);
            self.replay.commit();
            return exit;
        }
        let place = self.cpu().linear_rip();
        match self.replay.asked(place) {
            Some(op) => op.exit(),
            None => VcpuExit::Unknown(u32::MAX),
        }
    }

    fn account(&mut self, exit: VcpuExit) {
        let c = &self.vm.counters;
        bump(&c.exits);
        bump(&c.host_state_reload);
        match exit {
            VcpuExit::IoIn { .. } | VcpuExit::IoOut { .. } => bump(&c.io_exits),
            VcpuExit::MmioRead { .. } | VcpuExit::MmioWrite { .. } => bump(&c.mmio_exits),
            VcpuExit::Interrupted => bump(&c.signal_exits),
            VcpuExit::IrqWindowOpen => bump(&c.irq_window),
            _ => {}
        }
        let stats = std::mem::take(&mut self.ctx_mut().tlb.stats);
        for (counter, n) in [
            (&c.pf_fixed, stats.fills),
            (&c.mmu_cache_miss, stats.walks),
            (&c.tlb_flush, stats.flushes),
        ] {
            if n != 0 {
                counter.fetch_add(n, Ordering::Relaxed);
            }
        }
    }

    /// One turn: an instruction in flight is finished first, then requests,
    /// then events, then code.
    fn turn(&mut self) -> Next {
        if self.shared.sampler().is_some_and(Sampler::is_filling) {
            self.vm.count_samples(&self.vm.code.lock());
        }
        // Before the flags are looked at: what comes later sets it again.
        self.clear_poll();
        self.forget_what_is_asked();
        if self.local.alone == Alone::Yes {
            let next = self.interpret_alone();
            return self.has_stepped(next);
        }
        if self.replay.in_flight() {
            let next = match self.replay.take_plain() {
                Some((plain, value)) => {
                    plain.complete(self.cpu_mut(), value);
                    Next::Again
                }
                None => self.interpret_one(),
            };
            return self.has_stepped(next);
        }
        if self.shared.must_leave() {
            return Next::Exit(VcpuExit::Interrupted);
        }
        if self.shared.take_event() {
            self.look_at_chipset();
        }
        if self.cpu().mp_state != MpState::Runnable {
            return self.not_running();
        }
        if let Some(next) = self.inject() {
            return next;
        }
        self.execute()
    }

    /// Does what other threads want done before more guest code runs here.
    fn forget_what_is_asked(&mut self) {
        self.vm.world_stop.park(&self.shared);
        self.forget();
    }

    fn forget(&mut self) {
        let Some((forget, count)) = self.shared.take_forget() else {
            return;
        };
        let tlb = &mut self.ctx_mut().tlb;
        if forget.everything {
            tlb.drop_first_level();
            self.local.jumps.clear();
            self.refresh_memory();
        } else {
            forget.writes.iter().for_each(|gpa| tlb.write_protect(*gpa));
            self.local.jumps.forget(&forget.code);
        }
        self.shared.has_forgotten(count);
    }

    fn clear_poll(&mut self) {
        let poll = self.shared.ctx().poll();
        if poll.load(Ordering::Relaxed) != 0 {
            poll.store(0, Ordering::SeqCst);
            bump(&self.vm.counters.irq_exits);
        }
    }

    /// Takes INIT, SIPI and NMI from the local APIC and notes whether an
    /// interrupt waits.
    fn look_at_chipset(&mut self) {
        if !self.vm.has_irqchip() {
            return;
        }
        let me = self.index;
        let mut chipset = self.vm.chipset.lock();
        let (nmi, init, sipi) = (
            chipset.take_nmi(me),
            chipset.take_init(me),
            chipset.take_sipi(me),
        );
        self.irq_waiting = chipset.pending_interrupt(me);
        drop(chipset);
        let cpu = self.cpu_mut();
        if nmi {
            cpu.events.nmi_pending = (cpu.events.nmi_pending + 1).min(2);
        }
        if init {
            self.init_reset();
        }
        if let Some(vector) = sipi {
            self.start_up(vector);
        }
    }

    /// INIT (SDM vol 3, 9.1): power-up state except for caches, FPU and most
    /// MSRs; application processors then wait for a SIPI.
    fn init_reset(&mut self) {
        let bsp = self.index == 0;
        let cpu = self.cpu_mut();
        let mut fresh = x86::CpuState::reset(u32::from(!bsp));
        fresh.xsave = cpu.xsave.clone();
        fresh.xlayout = cpu.xlayout;
        fresh.msr = cpu.msr.clone();
        fresh.xcr0 = cpu.xcr0;
        fresh.cr0 |= cpu.cr0 & (x86::cr0::CD | x86::cr0::NW);
        fresh.mp_state = if bsp {
            MpState::Runnable
        } else {
            MpState::InitReceived
        };
        *cpu = fresh;
        let (cpu, mut world) = self.parts();
        isa::Env::mmu(&mut world, cpu, isa::MmuEvent::FlushAll);
    }

    fn start_up(&mut self, vector: u8) {
        let cpu = self.cpu_mut();
        if cpu.mp_state == MpState::InitReceived {
            let cs = cpu.seg_mut(Seg::Cs);
            cs.selector = u16::from(vector) << 8;
            cs.base = u64::from(vector) << 12;
            cpu.rip = 0;
            cpu.mp_state = MpState::Runnable;
        }
    }

    /// Halted or waiting for INIT/SIPI.
    fn not_running(&mut self) -> Next {
        let cpu = self.cpu();
        let halted = cpu.mp_state == MpState::Halted;
        let irq = self.irq_waiting && cpu.rflags & flags::IF != 0;
        let nmi = cpu.events.nmi_pending > 0 && !cpu.events.nmi_blocked;
        if halted && (irq || nmi || cpu.events.pending.is_some()) {
            self.cpu_mut().mp_state = MpState::Runnable;
            bump(&self.vm.counters.halt_wakeup);
            return Next::Again;
        }
        if halted && !self.vm.has_irqchip() {
            self.cpu_mut().mp_state = MpState::Runnable;
            return Next::Exit(VcpuExit::Hlt);
        }
        self.shared.stop();
        let shared = self.shared.clone();
        self.local.halt.wait(&shared, &self.vm);
        self.vm.world_stop.start(&self.shared);
        Next::Again
    }

    /// Delivers what is to be delivered before the next instruction.
    fn inject(&mut self) -> Option<Next> {
        let blocked = self.blocks_interrupts();
        let irq_waiting = self.irq_waiting;
        let events = &mut self.cpu_mut().events;
        if events.pending.is_none() && !blocked {
            if events.nmi_pending > 0 && !events.nmi_blocked && events.shadow == Shadow::None {
                events.nmi_pending -= 1;
                events.pending = Some(Pending::Nmi);
                bump(&self.vm.counters.nmi_injections);
            } else if crate::state::ready_for_irq(self.cpu()) {
                if irq_waiting {
                    self.acknowledge();
                } else if self.want_window {
                    return Some(Next::Exit(VcpuExit::IrqWindowOpen));
                }
            }
        }
        let due = self.cpu().events.due()?;
        if matches!(due, Pending::Interrupt(_)) {
            bump(&self.vm.counters.irq_injections);
        }
        let next = self.interpret_one();
        // Whatever it was, a step ends where its handler begins.
        Some(self.has_stepped(next))
    }

    /// Takes the interrupt that waits.
    fn acknowledge(&mut self) {
        let me = self.index;
        let (vector, more) = self
            .vm
            .with_chipset_on(me, |c| (c.ack_interrupt(me), c.pending_interrupt(me)));
        self.irq_waiting = more;
        self.cpu_mut().events.pending = vector.map(Pending::Interrupt);
    }

    fn execute(&mut self) -> Next {
        if self.steps_for_debugger() {
            return self.debugged_step();
        }
        if !self.vm.options.translate || !translated::translatable(self.cpu()) {
            return self.interpret_burst();
        }
        let ended = match self.lockstep.take() {
            None => self.run_translated(),
            Some(mut lockstep) => {
                let ended = self.run_lockstep(&mut lockstep);
                self.lockstep = Some(lockstep);
                match ended {
                    Some(ended) => ended,
                    None => return Next::Exit(VcpuExit::Unknown(0)),
                }
            }
        };
        match ended {
            Ended::Continue => Next::Again,
            Ended::InterpretHere if self.is_debugged() => self.debugged_step(),
            Ended::Interpret(insn) if self.stops_at(&insn) => self.debugged_step(),
            Ended::InterpretHere => self.interpret_one(),
            Ended::Interpret(insn) => {
                if self.lockstep.is_none() && self.bulk_string(&insn) {
                    return Next::Again;
                }
                if self.asks_plainly(&insn) {
                    return Next::Suspended;
                }
                self.replay.insn = Some(insn);
                self.interpret_one()
            }
            Ended::Fault(e) => {
                if e.vector == x86::vector::PF {
                    bump(&self.vm.counters.pf_guest);
                }
                self.replay.begin();
                let (cpu, mut world) = self.parts();
                match isa::deliver(cpu, &mut world, Event::Exception(e)) {
                    Ok(()) => {
                        self.replay.commit();
                        Next::Again
                    }
                    Err(Stop::Suspend) => {
                        self.cpu_mut().events.pending = Some(Pending::Exception(e));
                        Next::Suspended
                    }
                    Err(stop) => stop.into(),
                }
            }
        }
    }

    /// Asks the VMM for the access of an IN or OUT that is nothing more. It comes
    /// from translated code, so no trap follows it; an instruction in lockstep is
    /// executed.
    fn asks_plainly(&mut self, insn: &Instruction) -> bool {
        let plain = PlainPort::of(self.cpu(), insn).filter(|plain| {
            self.lockstep.is_none() && !(self.vm.has_irqchip() && Chipset::may_own_port(plain.port))
        });
        plain.map(|plain| self.replay.ask_plain(plain)).is_some()
    }

    /// Interprets while nothing else asks for attention.
    fn interpret_burst(&mut self) -> Next {
        for _ in 0..BURST {
            match self.interpret_one() {
                Next::Again => {}
                other => return other,
            }
            let translate = self.vm.options.translate && translated::translatable(self.cpu());
            let stop = translate
                || self.shared.ctx().poll().load(Ordering::Relaxed) != 0
                || self.shared.anything_pending()
                || self.cpu().mp_state != MpState::Runnable
                || self.cpu().events.nmi_pending > 0
                || self.irq_waiting
                || self.want_window;
            if stop {
                break;
            }
        }
        Next::Again
    }

    /// One instruction or pending event through the interpreter: the
    /// instruction in flight, or the one at RIP.
    pub(crate) fn interpret_one(&mut self) -> Next {
        bump(&self.vm.counters.insn_emulation);
        self.replay.begin();
        let mut kept = self.replay.insn.take();
        let (cpu, mut world) = self.parts();
        let result = isa::resume(cpu, &mut world, &mut kept);
        self.replay.insn = kept;
        self.finish(result)
    }

    /// One instruction while no other vCPU runs.
    fn interpret_alone(&mut self) -> Next {
        let vm = self.vm.clone();
        self.shared.stop();
        let stopped = vm.stop_world(self.index);
        self.shared.start();
        self.forget();
        let next = self.interpret_one();
        self.local.alone = Alone::No;
        drop(stopped);
        next
    }

    pub(crate) fn finish(&mut self, result: Result<Flow, Stop>) -> Next {
        match result {
            Ok(flow) => {
                self.replay.commit();
                if flow == Flow::Halt {
                    bump(&self.vm.counters.halt_exits);
                }
                Next::Again
            }
            Err(Stop::Shutdown) => {
                self.replay.commit();
                Next::Exit(VcpuExit::Shutdown)
            }
            Err(stop) => stop.into(),
        }
    }
}
