//! Running translated code: which state allows it, finding and making
//! translations, entering them.
#![allow(unsafe_code, reason = "enters generated code")]

use crate::blocks::Place;
use crate::ctx::Ctx;
use crate::jumps::Now;
use crate::slow;
use crate::stress::Stress;
use crate::vcpu::SoftVcpu;
use iced_x86::{Code, Instruction};
use isa::Stop;
use jit::cache::{CodeCache, JumpCache};
use jit::classify::{Allowed, Copyable};
use jit::translate::stack_change;
use jit::{ExitKind, FlatSegments, Gathered, JitCtx, Realm, moved};
use softmmu::tlb::Bank;
use std::sync::atomic::{Ordering, fence};
use x86::cpu::XsaveArea;
use x86::paging::PAGE_SIZE;
use x86::segment::attr;
use x86::{CpuState, Exception, Seg, Segment, Shadow, canonical48, cr0, cr4, dr, flags, xstate};

/// Mode bit of translations without windows ([`jit::windows`]).
pub(crate) const NARROW: u32 = 1 << 31;
/// Mode bit: RDTSC does not fault.
const TSC: u32 = 1 << 11;
/// Mode bits of the bank.
pub(crate) const BANK: u32 = 3;

/// Mode bits of a translation's key.
pub(crate) fn mode_of(cpu: &CpuState) -> (u32, Bank, Allowed) {
    let bank = Bank::of(cpu);
    let allowed = allowed(cpu);
    let bits = u32::from(allowed.x87)
        | u32::from(allowed.sse) << 1
        | u32::from(allowed.avx) << 2
        | u32::from(allowed.avx512) << 3
        | u32::from(allowed.wide) << 4
        | u32::from(allowed.fs) << 5
        | u32::from(allowed.gs) << 6
        | u32::from(allowed.smap) << 7
        | u32::from(allowed.fsgsbase) << 8
        | u32::from(allowed.tsc) << 9;
    let mode = bank as u32 | bits << BANK.count_ones();
    (mode, bank, allowed)
}

/// Register files usable without #NM, #UD or emulated x87 errors.
fn allowed(cpu: &CpuState) -> Allowed {
    let on = cpu.cr0 & (cr0::EM | cr0::TS) == 0;
    let sse = on && cpu.cr4 & cr4::OSFXSR != 0 && cpu.cr4 & cr4::OSXMMEXCPT != 0;
    let xcr0 = if cpu.cr4 & cr4::OSXSAVE != 0 {
        cpu.xcr0
    } else {
        0
    };
    let wide = cpu.code64();
    Allowed {
        wide,
        fs: wide || unlimited(cpu.seg(Seg::Fs)),
        gs: wide || unlimited(cpu.seg(Seg::Gs)),
        cpl0: cpu.cpl() == 0,
        smap: cpu.cr4 & cr4::SMAP != 0,
        reaches_user: Bank::of(cpu) == Bank::KernelAc,
        fsgsbase: cpu.cr4 & cr4::FSGSBASE != 0,
        tsc: cpu.cpl() == 0 || cpu.cr4 & cr4::TSD == 0,
        x87: on && cpu.cr0 & cr0::NE != 0,
        sse,
        avx: sse && xcr0 & xstate::AVX != 0,
        avx512: sse && xcr0 & xstate::AVX512 == xstate::AVX512,
    }
}

/// A writable data segment that reaches to 4 GiB from whatever base: no
/// access through it needs a limit check.
fn unlimited(s: &Segment) -> bool {
    let data = s.attr & (attr::P | attr::S | attr::X | attr::RW | attr::EC);
    data == attr::P | attr::S | attr::RW && s.limit == u32::MAX
}

/// 32-bit protected-mode code in flat segments with a 32-bit stack.
fn flat32(cpu: &CpuState) -> bool {
    let cs = cpu.seg(Seg::Cs);
    let flat = |s: Seg| unlimited(cpu.seg(s)) && cpu.seg(s).base == 0;
    cpu.protected()
        && !cs.long()
        && cs.db()
        && cs.base == 0
        && cs.limit == u32::MAX
        && cpu.seg(Seg::Ss).db()
        && flat(Seg::Ds)
        && flat(Seg::Es)
        && flat(Seg::Ss)
}

/// True if translated code behaves exactly as the state demands. RF, which
/// only breakpoints mind, ends with the first instruction.
pub fn translatable(cpu: &CpuState) -> bool {
    let ac = cpu.cr0 & cr0::AM != 0 && cpu.rflags & flags::AC != 0;
    let cpl = cpu.cpl();
    (cpu.code64() || flat32(cpu))
        && (cpl == 0 || (cpl == 3 && !ac))
        && cpu.rflags & flags::TF == 0
        && cpu.dr[7] & dr::DR7_ENABLES == 0
        && cpu.events.shadow == Shadow::None
        && cpu.events.pending.is_none()
}

/// How a run of translated code ended.
pub enum Ended {
    /// Look at events and go on.
    Continue,
    /// The instruction is for the interpreter.
    Interpret(Instruction),
    /// The instruction at RIP is for the interpreter.
    InterpretHere,
    /// To be delivered.
    Fault(Exception),
}

/// The modes to which generated code may go from one, by [`Realm`].
pub(crate) type Modes = [u32; Realm::ALL.len()];

/// Those around `mode`, which is the present one. 32-bit code stays at its
/// privilege level.
pub(crate) fn modes_around(cpu: &CpuState, mode: u32) -> Modes {
    let user = mode & BANK == Bank::User as u32;
    Realm::ALL.map(|realm| {
        if !cpu.code64() && user != (realm == Realm::User) {
            return mode;
        }
        let (bank, tsc) = match realm {
            Realm::User => (Bank::User, cpu.cr4 & cr4::TSD == 0),
            Realm::Kernel if cpu.cr4 & cr4::SMAP != 0 => (Bank::Kernel, true),
            Realm::Kernel | Realm::KernelAc => (Bank::KernelAc, true),
        };
        mode & !(BANK | TSC) | bank as u32 | if tsc { TSC } else { 0 }
    })
}

/// Result of looking for the translation at RIP.
pub(crate) enum Found {
    /// Its code address.
    Code(u64),
    /// The vCPU did not run for a while: requests come first.
    LookAgain,
    /// Not to be translated.
    Nothing,
}

/// How translated code was left.
pub(crate) enum Left {
    /// For something else.
    Ended(Ended),
    /// RIP goes on in translated code, through this link if it can be made.
    At(Option<OpenLink>),
}

/// A link that does not lead anywhere yet.
pub(crate) struct OpenLink {
    /// Its number.
    pub(crate) id: u32,
    /// It leads into another page.
    pub(crate) crosses: bool,
    /// [`CodeCache::generation`] of its number.
    pub(crate) generation: u64,
}

impl SoftVcpu {
    /// Runs translated code from RIP until something else is needed.
    pub(crate) fn run_translated(&mut self) -> Ended {
        let stress = self.vm.options.stress != Stress::default();
        let mut known = (!stress).then(|| self.remembered_jump()).flatten();
        let mut link = None;
        loop {
            if stress && self.strain() {
                return Ended::Continue;
            }
            let code = match known.take() {
                Some(code) => code,
                None => match self.block_at_rip(link.take()) {
                    Ok(Found::Code(code)) => code,
                    Ok(Found::LookAgain) => return Ended::Continue,
                    Err(Stop::Fault(e)) => return Ended::Fault(e),
                    Ok(Found::Nothing) | Err(_) => return Ended::InterpretHere,
                },
            };
            match self.enter(code) {
                Left::Ended(ended) => return ended,
                Left::At(from) => link = from,
            }
        }
    }

    /// Enters a translation.
    pub(crate) fn enter(&mut self, code: u64) -> Left {
        crate::counters::bump(&self.vm.counters.exits);
        let ctx = self.ctx_mut();
        let returns = ctx.jit.returns.iter_mut();
        for (returns, forgot) in returns.zip(self.local.jumps.take_forgot()) {
            if forgot {
                returns.forget();
            }
        }
        ctx.jit.irq_waiting = u32::from(self.irq_waiting || self.want_window);
        ctx.jit.tsc_offset = self.local.clock.tsc_offset;
        ctx.jit.page = 0;
        ctx.jit.segments.follow(ctx.cpu.msr.star);
        ctx.cpu.rflags &= !flags::RF;
        // Whoever asks for a return from here on empties them himself.
        fence(Ordering::SeqCst);
        if ctx.jit.poll.load(Ordering::Relaxed) != 0 {
            JumpCache::lead_nowhere(&ctx.jit.jump_caches);
        }
        // SAFETY: `code` is the address of a translation for this mode, alive
        // since this vCPU runs (see `world_stop`), and GS base was set to its
        // memory when the run began. The code follows the System V ABI towards
        // us and touches only that memory and guest RAM.
        unsafe {
            let enter: extern "sysv64" fn(u64, u64) = std::mem::transmute(self.enter_address);
            enter(0, code);
        }
        self.hide_host_addresses();
        let ctx = self.ctx_mut();
        let kind = ExitKind::from_raw(ctx.jit.exit_kind);
        crate::counters::bump(self.vm.counters.exits_by_kind()[kind as usize]);
        if let Some(fault) = self.refused_branch(kind) {
            return Left::Ended(Ended::Fault(fault));
        }
        Left::Ended(match kind {
            ExitKind::Link => return self.leave_by_link(),
            ExitKind::Lookup if ctx.jit.poll.load(Ordering::Relaxed) == 0 => {
                return Left::At(None);
            }
            ExitKind::Lookup | ExitKind::Poll => Ended::Continue,
            ExitKind::Access => Ended::InterpretHere,
            ExitKind::Fault => {
                let fault = ctx.slow.fault.take();
                fault.map_or(Ended::InterpretHere, Ended::Fault)
            }
            ExitKind::Interp => self.leave_for_interpreter(),
        })
    }

    /// The instruction that ended the block is for the interpreter.
    fn leave_for_interpreter(&mut self) -> Ended {
        let ctx = self.ctx_mut();
        let named = self.vm.code.lock().named(ctx.jit.exit_site).copied();
        let Some(insn) = named.map(|insn| moved(&insn, ctx.jit.page)) else {
            return Ended::InterpretHere;
        };
        ctx.cpu.rip = insn.ip();
        // An encoding the decoder gave up on may be too long rather than
        // undefined: that needs the bytes.
        if insn.is_invalid() {
            return Ended::InterpretHere;
        }
        Ended::Interpret(insn)
    }

    /// Left through a link that was not made yet.
    fn leave_by_link(&mut self) -> Left {
        let ctx = self.ctx_mut();
        let id = ctx.jit.exit_site;
        let code = self.vm.code.lock();
        let Some(link) = code.link_named(id) else {
            return Left::Ended(Ended::InterpretHere);
        };
        ctx.cpu.rip = ctx.jit.page.wrapping_add(link.target);
        self.local.narrow_at = link.narrow.then_some(ctx.cpu.rip);
        Left::At(Some(OpenLink {
            id,
            crosses: link.crosses,
            generation: code.generation(),
        }))
    }

    /// #GP(0) if an indirect branch led to an address that is not canonical:
    /// the branch has not happened (SDM vol 2, RET, CALL, JMP).
    fn refused_branch(&mut self, kind: ExitKind) -> Option<Exception> {
        let ctx = self.ctx_mut();
        if kind != ExitKind::Lookup || canonical48(ctx.cpu.rip) {
            return None;
        }
        let code = self.vm.code.lock();
        let branch = code.named(ctx.jit.exit_site)?;
        ctx.cpu.rip = ctx.jit.page.wrapping_add(branch.ip());
        let rsp = &mut ctx.cpu.gpr[x86::gpr::RSP];
        *rsp = rsp.wrapping_add_signed(-stack_change(branch));
        Some(Exception::GP0)
    }

    /// The code address of RIP if the jump cache has it, as an indirect jump
    /// in translated code would find it.
    fn remembered_jump(&mut self) -> Option<u64> {
        let ctx = self.ctx_mut();
        let now = Now::new(&ctx.cpu, &ctx.tlb, &self.map);
        let cache = self.local.jumps.select(&mut ctx.jit, &now);
        cache.find(ctx.cpu.rip)
    }

    /// Enters the code address of RIP, which is at `place`, into the jump cache
    /// in use.
    pub(crate) fn remember_jump(&mut self, bank: Bank, place: Place, address: u64) {
        let ctx = self.ctx_mut();
        self.local.kernel_jumps_local |= bank != Bank::User && !place.global();
        let now = Now::new(&ctx.cpu, &ctx.tlb, &self.map);
        let cache = self.local.jumps.select(&mut ctx.jit, &now);
        let rip = ctx.cpu.rip;
        for (page, la) in place.pages().zip([rip, rip.wrapping_add(PAGE_SIZE)]) {
            cache.note_page(la, page.gpa);
        }
        cache.insert(rip, address);
    }
}

/// The instructions that run as copies: unprivileged, offered to the guest,
/// with known operands; and those that run in place: SERIALIZE, and what reads
/// the TSC.
pub fn copyable(features: &crate::features::FeatureSet, lockstep: bool) -> Copyable {
    use isa::table::{Class, Int, class};
    Copyable::new(|code| {
        let time = matches!(code, Code::Rdtsc | Code::Rdtscp);
        let in_place = time || code == Code::Serialize;
        let random = class(code) == Class::Int(Int::Random);
        (in_place || matches!(class(code), Class::Int(_) | Class::Native(_)))
            // What differs from run to run is executed once only.
            && !(lockstep && (time || random))
            && code.cpuid_features().iter().all(|f| features.has(*f))
    })
}

/// Sets GS base to a vCPU's memory for this thread.
pub fn set_gs_base(ctx: *mut Ctx) {
    // SAFETY: user-space GS is unused by Rust and the C library on x86-64
    // Linux (thread-locals hang off FS).
    unsafe {
        if fsgsbase() {
            std::arch::asm!("wrgsbase {}", in(reg) ctx as u64, options(nomem, nostack));
        } else {
            const ARCH_SET_GS: i64 = 0x1001;
            libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, ctx as u64);
        }
    }
}

/// The kernel lets user space use WRGSBASE (AT_HWCAP2 bit 1).
fn fsgsbase() -> bool {
    use std::sync::OnceLock;
    static HAVE: OnceLock<bool> = OnceLock::new();
    // SAFETY: getauxval has no preconditions.
    *HAVE.get_or_init(|| unsafe { libc::getauxval(libc::AT_HWCAP2) } & 2 != 0)
}

/// The generated code's part of a vCPU's memory.
pub fn jit_ctx(code: &CodeCache) -> JitCtx {
    let wide = crate::cpuid::xcr0_offered();
    JitCtx {
        poll: 0.into(),
        vec_loaded: 0,
        irq_waiting: 0,
        exit_kind: 0,
        exit_site: 0,
        until_moved: 0,
        host_rsp: 0,
        frame: 0,
        temp: 0,
        page: 0,
        jump_caches: [0; Realm::ALL.len()].map(Into::into),
        tsc_offset: 0,
        this: std::ptr::null_mut(),
        slow: slow::access_path as *const () as u64,
        string: slow::string_path as *const () as u64,
        found: 0,
        aside: XsaveArea::default(),
        segments: FlatSegments::default(),
        gathered: Gathered([0; _]),
        xsave_mask: wide,
        host_xsave: host_image(),
        faults: code.fault_table(),
        rip: std::ptr::null_mut(),
        returns: code.no_returns(),
    }
}

/// An initial XSAVE image: what Rust code expects of MXCSR and x87. With the
/// XSTATE_BV of 0, XRSTOR puts every component into its initial state; FXRSTOR
/// loads the same from the legacy region.
fn host_image() -> u64 {
    use std::sync::OnceLock;
    static IMAGE: OnceLock<Box<x86::cpu::XsaveArea>> = OnceLock::new();
    let image = IMAGE.get_or_init(|| {
        let mut area = Box::<x86::cpu::XsaveArea>::default();
        area.0[512] = 0;
        area
    });
    &raw const **image as u64
}
