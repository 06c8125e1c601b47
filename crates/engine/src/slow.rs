//! What generated code calls: accesses that miss its TLB checks, and strings that
//! are more than one page long or not in its TLB.
#![allow(unsafe_code, reason = "called by generated code")]

use crate::ctx::Ctx;
use crate::pointers::{Operand, note_operand};
use crate::ram::Ram;
use crate::strings::{self, Bulk};
use crate::vm::SoftVm;
use jit::translate::info;
use jit::{ExitKind, WIDEST};
use softmmu::SlotMap;
use std::sync::atomic::Ordering;
use x86::cpu::XsaveArea;
use x86::paging::{PAGE_MASK, PAGE_SIZE};
use x86::{CpuState, Exception, flags};

/// What the slow path needs, and what it leaves for its caller.
pub struct Slow {
    /// Memory slots; valid while generated code runs.
    pub map: *const SlotMap,
    /// The VM; valid likewise.
    pub vm: *const SoftVm,
    /// The exception behind [`ExitKind::Fault`].
    pub fault: Option<Exception>,
    /// What FDP named when an access last changed the TLB.
    pub operand: Operand,
}

/// Every which access to a page in its other place moves that.
const OTHER_HITS: u32 = 32;

/// Goes on in generated code.
const GO_ON: u32 = 0;
/// Leaves it.
const LEAVE: u32 = 1;

/// Called by generated code when an access misses its TLB check.
///
/// # Safety
/// `ctx` is the running vCPU's memory with guest registers stored, and its
/// `slow` pointers are valid.
pub unsafe extern "sysv64" fn access_path(ctx: *mut Ctx, la: u64, arg: u32, pc: u64) -> u32 {
    // SAFETY: the caller's contract; nobody else uses the vCPU's memory now.
    let ctx = unsafe { &mut *ctx };
    // SAFETY: as above.
    let (map, vm) = unsafe { (&*ctx.slow.map, &*ctx.slow.vm) };
    ctx.jit.until_moved = OTHER_HITS;
    note_operand(ctx, vm);
    let access = Access { la, arg };
    let kind = match access.find(ctx, map) {
        Ok(Some(host)) if !access.is_split_lock() => {
            ctx.jit.found = host;
            return GO_ON;
        }
        Ok(_) => ExitKind::Access,
        Err(_) if access.others_first(ctx) => ExitKind::Access,
        Err(e) => {
            ctx.slow.fault = Some(e);
            ExitKind::Fault
        }
    };
    if let Some(site) = vm.code.lock().access_at(pc) {
        ctx.cpu.rip = ctx.jit.page.wrapping_add(site.rip);
        bring_flags(ctx);
    }
    ctx.jit.exit_kind = kind as u32;
    LEAVE
}

/// Called by generated code for what it cannot do itself of a string instruction,
/// which `exit_site` names.
///
/// # Safety
/// As for [`access_path`].
pub unsafe extern "sysv64" fn string_path(ctx: *mut Ctx, _: u64, arg: u32, _: u64) -> u32 {
    // SAFETY: the caller's contract; nobody else uses the vCPU's memory now.
    let ctx = unsafe { &mut *ctx };
    // SAFETY: as above.
    let (map, vm) = unsafe { (&*ctx.slow.map, &*ctx.slow.vm) };
    note_operand(ctx, vm);
    let bulk = Bulk::from_info(arg);
    // A rehearsal does all of it or nothing.
    if !vm.options.lockstep {
        while ctx.jit.poll.load(Ordering::Relaxed) == 0 {
            if bulk.left(&ctx.cpu) == 0 {
                return GO_ON;
            }
            if !strings::plain_piece(ctx, map, bulk) {
                break;
            }
        }
    }
    bring_flags(ctx);
    ctx.jit.exit_kind = ExitKind::Interp as u32;
    LEAVE
}

/// The guest's flags, which generated code set aside, go where they belong.
fn bring_flags(ctx: &mut Ctx) {
    // SAFETY: generated code is our caller, and set its flags aside before.
    let aside = unsafe { ctx.jit.flags_aside() };
    ctx.cpu.rflags = ctx.cpu.rflags & !flags::ARITH | aside & flags::ARITH;
}

/// Where the guest's vector state is while generated code waits for us.
pub(crate) fn vector_state(ctx: &Ctx) -> &XsaveArea {
    match ctx.jit.vec_loaded {
        0 => &ctx.cpu.xsave,
        _ => &ctx.jit.aside,
    }
}

/// An access of generated code.
#[derive(Clone, Copy)]
struct Access {
    /// Linear address.
    la: u64,
    /// See [`info`].
    arg: u32,
}

impl Access {
    fn is(self, bit: u32) -> bool {
        self.arg & bit != 0
    }

    fn size(self) -> u32 {
        self.arg & info::SIZE
    }

    fn aligned(self) -> bool {
        self.la.is_multiple_of(u64::from(self.size()))
    }

    /// Its end is behind the last address of 32-bit code.
    fn wraps(self, cpu: &CpuState) -> bool {
        !cpu.code64() && self.la + u64::from(self.size()) > 1 << 32
    }

    /// Only the interpreter does it.
    fn is_split_lock(self) -> bool {
        self.is(info::LOCKED) && !self.aligned()
    }

    /// Other things than its fault may come first.
    fn others_first(self, ctx: &Ctx) -> bool {
        // An x87 error of an earlier instruction raises #MF.
        vector_state(ctx).x87_error_pending()
            // The part that faults may not be accessed at all.
            || self.is(info::MASKED)
    }

    /// Host address of the operand; none if it is for the interpreter.
    fn find(self, ctx: &mut Ctx, map: &SlotMap) -> Result<Option<u64>, Exception> {
        // Looking for a page to write to sets the dirty bit, which a store that
        // does not happen must not.
        let uncertain = self.is(info::MASKED) || vector_state(ctx).x87_unmasked();
        // So does looking at one that #GP comes before.
        let refused = self.is(info::ALIGNED) && !self.aligned();
        if refused || self.is(info::WRITE) && uncertain || self.wraps(&ctx.cpu) {
            return Ok(None);
        }
        // Of what is partly a device, the interpreter knows the order.
        let Some(first) = self.plain(ctx, map, self.la)? else {
            return Ok(None);
        };
        let room = PAGE_SIZE - (self.la & PAGE_MASK);
        if u64::from(self.size()) <= room {
            return Ok(Some(first));
        }
        let second = self.plain(ctx, map, self.la.wrapping_add(room))?;
        Ok(second.and_then(|second| self.join(ctx, first, second, room)))
    }

    /// Host address of the byte at `la` if it is RAM of which generated code may
    /// do as it likes.
    fn plain(self, ctx: &mut Ctx, map: &SlotMap, la: u64) -> Result<Option<u64>, Exception> {
        let write = self.is(info::WRITE);
        let ram = Ram::at(ctx, map, la, write)?;
        Ok(ram.filter(|r| r.plain || !write).map(|r| r.host))
    }

    /// An operand with its first `room` bytes at `first`, the others at `second`.
    fn join(self, ctx: &mut Ctx, first: u64, second: u64, room: u64) -> Option<u64> {
        if second == first + room {
            return Some(first);
        }
        let (size, room) = (self.size() as usize, room as usize);
        if self.is(info::WRITE) || self.is(info::NOTED) || size > WIDEST {
            return None;
        }
        let at = first as usize % WIDEST;
        let to = &mut ctx.jit.gathered.0[at..at + size];
        let (head, tail) = to.split_at_mut(room);
        // SAFETY: both are that many bytes of guest RAM, and `to` is not.
        unsafe {
            std::ptr::copy_nonoverlapping(first as *const u8, head.as_mut_ptr(), head.len());
            std::ptr::copy_nonoverlapping(second as *const u8, tail.as_mut_ptr(), tail.len());
        }
        Some(to.as_ptr() as u64)
    }
}
