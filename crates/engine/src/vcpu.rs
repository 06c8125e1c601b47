//! One vCPU: what it consists of and the contract's register groups.
#![allow(
    unsafe_code,
    reason = "the vCPU's memory is shared with generated code"
)]

use crate::ctx::{Ctx, CtxCell};
use crate::features::FeatureSet;
use crate::halt::HaltPoll;
use crate::jumps::Jumps;
use crate::lockstep::Lockstep;
use crate::msr::ClockMsrs;
use crate::pointers::Operand;
use crate::profile::{Sampler, Sampling};
use crate::replay::Replay;
use crate::shared::Shared;
use crate::slow::Slow;
use crate::state;
use crate::stress::Dice;
use crate::translated;
use crate::vm::SoftVm;
use crate::world::{Alone, Local, World};
use hv::abi::*;
use hv::{Error, Kicker, Result, VcpuExit};
use isa::{MmuEvent, Stop};
use jit::classify::Copyable;
use jit::native::NativeExec;
use softmmu::SlotMap;
use softmmu::tlb::Tlb;
use std::sync::Arc;
use x86::{CpuState, MpState};

/// A vCPU of the software backend.
pub struct SoftVcpu {
    pub(crate) vm: Arc<SoftVm>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) index: usize,
    pub(crate) map: Arc<SlotMap>,
    pub(crate) map_version: u64,
    pub(crate) replay: Replay,
    pub(crate) native: NativeExec,
    pub(crate) local: Local,
    pub(crate) copyable: Arc<Copyable>,
    pub(crate) enter_address: u64,
    /// An interrupt waits in the controllers.
    pub(crate) irq_waiting: bool,
    /// The VMM wants to know when an interrupt could be injected.
    pub(crate) want_window: bool,
    /// Host debugging of the guest.
    pub(crate) debug: kvm_guest_debug,
    /// Present if every block is compared.
    pub(crate) lockstep: Option<Box<Lockstep>>,
}

/// The memory and requests of a new vCPU with APIC id `id`.
fn shared(vm: &SoftVm, id: u32) -> Shared {
    let code = vm.code.lock();
    let mut tlb = Tlb::new(crate::cpuid::phys_bits());
    tlb.small = vm.options.stress.small_tlb;
    let mut ctx = Box::new(Ctx {
        jit: translated::jit_ctx(&code),
        cpu: CpuState::reset(id),
        tlb,
        slow: Slow {
            map: std::ptr::null(),
            vm: std::ptr::null(),
            fault: None,
            operand: Operand::default(),
        },
    });
    ctx.cpu.xlayout = jit::native::components().1;
    let ctx = CtxCell::new(ctx);
    let this = ctx.ptr();
    // SAFETY: no other thread knows this memory yet.
    unsafe {
        (*this).jit.this = this.cast();
        (*this).jit.rip = &raw mut (*this).cpu.rip;
    }
    let sampler = || Sampler::create(code.range(), this);
    let sampler = vm.options.profile.then(sampler);
    Shared::new(ctx, sampler)
}

impl SoftVcpu {
    /// vCPU number `index` of `vm` with APIC id `id`, in power-up state.
    pub fn create(vm: Arc<SoftVm>, id: u32, index: usize) -> Result<Self> {
        let shared = Arc::new(shared(&vm, id));
        let enter_address = vm.code.lock().enter_address();
        let native = NativeExec::new().map_err(|source| Error::Os {
            what: "native execution",
            source,
        })?;
        let features = FeatureSet::new(&[]);
        let mut vcpu = Self {
            map: vm.memory.map(),
            map_version: vm.memory.version(),
            shared: shared.clone(),
            index,
            replay: Replay::default(),
            native,
            copyable: Arc::new(translated::copyable(&features, vm.options.lockstep)),
            local: Local {
                cpuid: Vec::new(),
                features,
                xsave_areas: None,
                clock: ClockMsrs {
                    tsc_offset: vm.clock.tsc_start().wrapping_neg(),
                    ..ClockMsrs::default()
                },
                jumps: Jumps::default(),
                abort: None,
                kernel_jumps_local: false,
                halt: HaltPoll::default(),
                alone: Alone::No,
                pauses: 0,
                narrow_at: None,
                sampling: Sampling::default(),
                code_bytes: Box::new([0; _]),
                dice: Dice::default(),
            },
            enter_address,
            irq_waiting: false,
            want_window: false,
            debug: kvm_guest_debug::default(),
            lockstep: vm.options.lockstep.then(Lockstep::new),
            vm,
        };
        vcpu.vm.vcpus.write().push(shared);
        if vcpu.vm.has_irqchip() {
            vcpu.vm.with_chipset(|c| c.add_lapic(id));
        } else {
            vcpu.cpu_mut().mp_state = MpState::Runnable;
        }
        Ok(vcpu)
    }

    /// The vCPU's memory.
    pub(crate) fn ctx_mut(&self) -> &'static mut Ctx {
        // SAFETY: `&mut self` methods of the one owner use it, never two
        // references across a call that uses it too; the memory lives as long
        // as `shared`, which `self` holds. The lifetime is detached because
        // `ctx` and the other fields of `self` are used side by side.
        unsafe { &mut *self.shared.ctx().ptr() }
    }

    pub(crate) fn cpu(&self) -> &CpuState {
        &self.ctx_mut().cpu
    }

    pub(crate) fn cpu_mut(&mut self) -> &mut CpuState {
        &mut self.ctx_mut().cpu
    }

    /// Registers and world of the next instruction.
    pub(crate) fn parts(&mut self) -> (&mut CpuState, World<'_>) {
        let ctx = self.ctx_mut();
        let world = World {
            vm: &self.vm,
            index: self.index,
            tlb: &mut ctx.tlb,
            map: &self.map,
            replay: &mut self.replay,
            native: &mut self.native,
            local: &mut self.local,
        };
        (&mut ctx.cpu, world)
    }

    /// Everything derived from control registers is stale.
    fn forget_mappings(&mut self) {
        let (cpu, mut world) = self.parts();
        world.tlb.load_pdptes(cpu.cr3, world.map);
        isa::Env::mmu(&mut world, cpu, MmuEvent::FlushAll);
        isa::Env::mmu(&mut world, cpu, MmuEvent::Cr3 { keep: true });
    }
}

impl hv::Vcpu for SoftVcpu {
    fn run(&mut self) -> Result<VcpuExit> {
        let exit = self.run_until_exit();
        match self.lockstep.as_mut().and_then(|l| l.take_difference()) {
            Some(text) => Err(Error::SelfCheck(text)),
            None => Ok(exit),
        }
    }
    fn complete_read(&mut self, value: u64) {
        self.replay.supply(value);
    }
    fn kicker(&self) -> Arc<dyn Kicker> {
        self.shared.clone()
    }
    fn request_irq_window(&mut self, on: bool) {
        self.want_window = on;
        if on {
            crate::counters::bump(&self.vm.counters.request_irq);
        }
    }
    fn ready_for_irq(&self) -> bool {
        state::ready_for_irq(self.cpu())
    }
    fn inject_irq(&mut self, vector: u8) -> Result<()> {
        if self.vm.has_irqchip() {
            return Err(Error::Unsupported("inject_irq with an irqchip"));
        }
        self.cpu_mut().events.pending = Some(x86::Pending::Interrupt(vector));
        Ok(())
    }
    fn inject_nmi(&mut self) -> Result<()> {
        let events = &mut self.cpu_mut().events;
        events.nmi_pending = (events.nmi_pending + 1).min(2);
        Ok(())
    }
    fn regs(&self) -> Result<kvm_regs> {
        Ok(state::regs(self.cpu()))
    }
    fn set_regs(&mut self, regs: &kvm_regs) -> Result<()> {
        state::set_regs(self.cpu_mut(), regs);
        Ok(())
    }
    fn sregs(&self) -> Result<kvm_sregs> {
        let mut s = state::sregs(self.cpu());
        if self.vm.has_irqchip() {
            let chipset = self.vm.chipset.lock();
            s.cr8 = chipset.cr8(self.index);
            s.apic_base = chipset.apic_base(self.index);
        }
        Ok(s)
    }
    fn set_sregs(&mut self, sregs: &kvm_sregs) -> Result<()> {
        state::check_sregs(sregs, &self.local.cpuid)?;
        state::set_sregs(self.cpu_mut(), sregs);
        if self.vm.has_irqchip() {
            let (me, s) = (self.index, *sregs);
            self.vm
                .with_chipset(|c| {
                    c.set_cr8(me, s.cr8);
                    c.set_apic_base(me, s.apic_base)
                })
                .map_err(|_| Error::InvalidState {
                    group: "sregs",
                    why: "APIC base",
                })?;
        }
        self.forget_mappings();
        Ok(())
    }
    fn fpu(&self) -> Result<kvm_fpu> {
        Ok(state::fpu(self.cpu()))
    }
    fn set_fpu(&mut self, fpu: &kvm_fpu) -> Result<()> {
        state::set_fpu(self.cpu_mut(), fpu);
        Ok(())
    }
    fn xsave(&self) -> Result<kvm_xsave> {
        Ok(state::xsave(self.cpu()))
    }
    fn set_xsave(&mut self, xsave: &kvm_xsave) -> Result<()> {
        state::set_xsave(self.cpu_mut(), xsave)
    }
    fn xcr0(&self) -> Result<u64> {
        Ok(self.cpu().xcr0)
    }
    fn set_xcr0(&mut self, value: u64) -> Result<()> {
        if !isa::xcr0_valid(value, crate::cpuid::xcr0_offered()) {
            return Err(Error::InvalidState {
                group: "XCR0",
                why: "unsupported combination",
            });
        }
        self.cpu_mut().xcr0 = value;
        Ok(())
    }
    fn debug_regs(&self) -> Result<kvm_debugregs> {
        let dr = &self.cpu().dr;
        Ok(kvm_debugregs {
            db: [dr[0], dr[1], dr[2], dr[3]],
            dr6: dr[6],
            dr7: dr[7],
            ..Default::default()
        })
    }
    fn set_debug_regs(&mut self, r: &kvm_debugregs) -> Result<()> {
        if r.dr6 >> 32 != 0 || r.dr7 >> 32 != 0 {
            return Err(Error::InvalidState {
                group: "debug registers",
                why: "bits above 31",
            });
        }
        let dr = &mut self.cpu_mut().dr;
        dr[..4].copy_from_slice(&r.db);
        dr[6] = r.dr6 & 0xffff_efff | x86::dr::DR6_FIXED1;
        dr[7] = r.dr7 | x86::dr::DR7_FIXED1;
        Ok(())
    }
    fn msr(&self, index: u32) -> Result<u64> {
        let cpu = self.cpu();
        if let Some(value) = isa::read_msr(cpu, index) {
            return Ok(value);
        }
        self.special_msr(index)
    }
    fn set_msr(&mut self, index: u32, value: u64) -> Result<()> {
        if index == x86::msr::EFER {
            return self.set_efer(value);
        }
        let (cpu, mut world) = self.parts();
        let done = isa::write_msr(cpu, &mut world, index, value);
        match done {
            Ok(true) => Ok(()),
            Ok(false) => world
                .write_msr(cpu, index, value, true)
                .map_err(|_| Error::NoSuchMsr(index)),
            Err(_) => Err(Error::NoSuchMsr(index)),
        }
    }
    fn cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>> {
        Ok(self.local.cpuid.clone())
    }
    fn set_cpuid(&mut self, entries: &[kvm_cpuid_entry2]) -> Result<()> {
        self.local.cpuid = entries.to_vec();
        self.local.features = FeatureSet::new(entries);
        self.local.xsave_areas = None;
        let lockstep = self.vm.options.lockstep;
        self.copyable = Arc::new(translated::copyable(&self.local.features, lockstep));
        Ok(())
    }
    fn events(&self) -> Result<kvm_vcpu_events> {
        Ok(state::events(self.cpu()))
    }
    fn set_events(&mut self, events: &kvm_vcpu_events) -> Result<()> {
        state::set_events(self.cpu_mut(), events)
    }
    fn mp_state(&self) -> Result<u32> {
        Ok(self.cpu().mp_state as u32)
    }
    fn set_mp_state(&mut self, value: u32) -> Result<()> {
        self.cpu_mut().mp_state = match value {
            KVM_MP_STATE_RUNNABLE => MpState::Runnable,
            KVM_MP_STATE_UNINITIALIZED => MpState::Uninitialized,
            KVM_MP_STATE_INIT_RECEIVED => MpState::InitReceived,
            KVM_MP_STATE_HALTED => MpState::Halted,
            _ => {
                return Err(Error::InvalidState {
                    group: "MP state",
                    why: "unknown value",
                });
            }
        };
        Ok(())
    }
    fn lapic(&self) -> Result<kvm_lapic_state> {
        let chipset = self.vm.chipset.lock();
        let lapic = chipset
            .lapic(self.index)
            .ok_or(Error::Missing("lapic", "an irqchip"))?;
        let page = lapic.page(self.vm.clock.now_ns());
        Ok(kvm_lapic_state {
            regs: page.map(|b| b as std::ffi::c_char),
        })
    }
    fn set_lapic(&mut self, state: &kvm_lapic_state) -> Result<()> {
        if !self.vm.has_irqchip() {
            return Err(Error::Missing("set_lapic", "an irqchip"));
        }
        let page = state.regs.map(|b| b as u8);
        let (me, now) = (self.index, self.vm.clock.now_ns());
        self.vm.with_chipset(|c| c.set_lapic_page(me, &page, now));
        Ok(())
    }
    fn set_guest_debug(&mut self, debug: &kvm_guest_debug) -> Result<()> {
        self.set_debug(*debug);
        Ok(())
    }
    fn translate(&self, gva: u64) -> Result<Option<u64>> {
        let ctx = self.ctx_mut();
        let map = self.vm.memory.map();
        Ok(softmmu::walk::peek(&ctx.cpu, &map, gva, ctx.tlb.roots()))
    }
    fn tsc_khz(&self) -> Result<u32> {
        Ok(crate::clock::host_tsc_khz())
    }
}

impl SoftVcpu {
    /// An MSR with behaviour, read with host privilege.
    fn special_msr(&self, index: u32) -> Result<u64> {
        let cpu = self.cpu();
        let clock = &self.local.clock;
        let chipset = self.vm.chipset.lock();
        Ok(match index {
            x86::msr::TSC => crate::clock::host_tsc().wrapping_add(clock.tsc_offset),
            x86::msr::APIC_BASE if self.vm.has_irqchip() => chipset.apic_base(self.index),
            x86::msr::TSC_DEADLINE => chipset.tsc_deadline(self.index),
            x86::msr::X2APIC_FIRST..=x86::msr::X2APIC_LAST => chipset
                .x2apic_read(self.index, index, self.vm.clock.now_ns())
                .map_err(|_| Error::NoSuchMsr(index))?,
            _ => {
                drop(chipset);
                crate::msr::stored(cpu, clock, index).ok_or(Error::NoSuchMsr(index))?
            }
        })
    }

    /// EFER with host privilege: LMA may be set directly.
    fn set_efer(&mut self, value: u64) -> Result<()> {
        use x86::efer::{LMA, LME, NXE, SCE};
        if value & !(SCE | LME | LMA | NXE) != 0 {
            return Err(Error::InvalidState {
                group: "EFER",
                why: "reserved bits",
            });
        }
        self.cpu_mut().efer = value;
        self.forget_mappings();
        Ok(())
    }
}

impl From<Stop> for crate::run::Next {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Shutdown => Self::Exit(VcpuExit::Shutdown),
            Stop::Suspend | Stop::Fault(_) => Self::Suspended,
        }
    }
}
