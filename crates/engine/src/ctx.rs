//! The memory of one vCPU that generated code addresses through GS.
#![allow(
    unsafe_code,
    reason = "shared between a vCPU's thread, generated code and kickers"
)]

use jit::cache::JumpCache;
use jit::{GateLayout, JitCtx, Layout};
use softmmu::tlb::{Entry, Tlb};
use std::cell::UnsafeCell;
use std::mem::offset_of;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use x86::{CpuState, DescTable, Events, Msrs, Seg, Segment};

/// One vCPU's memory. `jit` is first: the signal handler relies on it.
#[repr(C, align(64))]
pub struct Ctx {
    /// What generated code and its driver use.
    pub jit: JitCtx,
    /// Architectural state; exact whenever generated code is not running.
    pub cpu: CpuState,
    /// TLBs.
    pub tlb: Tlb,
    /// What the slow path needs and leaves.
    pub slow: crate::slow::Slow,
}

/// Offsets of [`Ctx`] for the translator.
pub const LAYOUT: Layout = {
    let cpu = offset_of!(Ctx, cpu);
    let msr = cpu + offset_of!(CpuState, msr);
    let gdtr = cpu + offset_of!(CpuState, gdtr);
    Layout {
        jit: offset_of!(Ctx, jit) as u32,
        gpr: (cpu + offset_of!(CpuState, gpr)) as u32,
        rip: (cpu + offset_of!(CpuState, rip)) as u32,
        rflags: (cpu + offset_of!(CpuState, rflags)) as u32,
        fs_base: seg_base(Seg::Fs) as u32,
        gs_base: seg_base(Seg::Gs) as u32,
        kernel_gs_base: (msr + offset_of!(Msrs, kernel_gs_base)) as u32,
        tsc_aux: (msr + offset_of!(Msrs, tsc_aux)) as u32,
        control: [
            (cpu + offset_of!(CpuState, cr0)) as u32,
            (cpu + offset_of!(CpuState, cr2)) as u32,
            (cpu + offset_of!(CpuState, cr3)) as u32,
            (cpu + offset_of!(CpuState, cr4)) as u32,
        ],
        selectors: (cpu + offset_of!(CpuState, seg) + offset_of!(Segment, selector)) as u32,
        seg_stride: size_of::<Segment>() as u32,
        gates: GateLayout {
            efer: (cpu + offset_of!(CpuState, efer)) as u32,
            lstar: (msr + offset_of!(Msrs, lstar)) as u32,
            sfmask: (msr + offset_of!(Msrs, sfmask)) as u32,
            gdt_base: (gdtr + offset_of!(DescTable, base)) as u32,
            gdt_limit: (gdtr + offset_of!(DescTable, limit)) as u32,
            cs: seg(Seg::Cs) as u32,
            ss: seg(Seg::Ss) as u32,
            nmi_blocked: (cpu + offset_of!(CpuState, events) + offset_of!(Events, nmi_blocked))
                as u32,
        },
        xsave: (cpu + offset_of!(CpuState, xsave)) as u32,
        tlb: (offset_of!(Ctx, tlb) + offset_of!(Tlb, arrays)) as u32,
        array_size: softmmu::tlb::BETWEEN_ARRAYS as u32,
        entry: [
            offset_of!(Entry, read) as u32,
            offset_of!(Entry, write) as u32,
            offset_of!(Entry, host) as u32,
        ],
        entry_shift: size_of::<Entry>().trailing_zeros() as u8,
        entries: softmmu::tlb::L1_ENTRIES as u32,
        other_shift: softmmu::tlb::OTHER_SHIFT,
    }
};

const fn seg(s: Seg) -> usize {
    offset_of!(Ctx, cpu) + offset_of!(CpuState, seg) + s as usize * size_of::<Segment>()
}

const fn seg_base(s: Seg) -> usize {
    seg(s) + offset_of!(Segment, base)
}

/// Owner of a [`Ctx`]. The vCPU has exclusive use of everything but the poll
/// word, which kickers write.
pub struct CtxCell(UnsafeCell<Box<Ctx>>);

// SAFETY: only `poll` (an atomic) is reached from other threads; the rest is
// used by the one owner of the vCPU, see `get`.
unsafe impl Send for CtxCell {}
// SAFETY: as above.
unsafe impl Sync for CtxCell {}

impl CtxCell {
    /// Wraps a vCPU's memory.
    pub fn new(ctx: Box<Ctx>) -> Self {
        Self(UnsafeCell::new(ctx))
    }
    /// Address of the memory.
    pub fn ptr(&self) -> *mut Ctx {
        // SAFETY: reads the box's pointer, which never changes.
        unsafe { &raw mut **self.0.get() }
    }
    /// Asks generated code to return.
    pub fn ask(&self) {
        self.poll().store(1, SeqCst);
        // SAFETY: atomics inside the box, alive as long as `self`.
        let jumps = unsafe { &(*self.ptr()).jit.jump_caches };
        JumpCache::lead_nowhere(jumps);
    }
    /// The poll word.
    pub fn poll(&self) -> &AtomicU32 {
        // SAFETY: an atomic inside the box, alive as long as `self`.
        unsafe { &(*self.ptr()).jit.poll }
    }
}
