//! IRET in every mode (SDM vol 2, IRET).

use super::descriptor::{self, Descriptor, code, is_null, rpl};
use super::load;
use super::stack::{Stack, null_ss};
use super::task;
use crate::operand::{Ctx, Handled, mask};
use crate::{Env, MmuEvent, Stop};
use x86::{CpuState, Exception, Seg, Segment, canonical48, cr4, flags, gpr};

/// Flags every IRET loads.
const BASIC: u64 = flags::ARITH | flags::TF | flags::DF | flags::NT;
/// And those of a 32- or 64-bit one.
const WIDE: u64 = flags::RF | flags::AC | flags::ID;

/// What IRET finds on the stack.
struct Popped {
    rip: u64,
    cs: u16,
    rflags: u64,
    /// Operand size in bytes.
    size: u32,
}

/// Executes IRET, IRETD or IRETQ with operand size `size`.
pub(super) fn execute<E: Env>(ctx: &mut Ctx<'_, E>, size: u32) -> Result<Handled, Stop> {
    let rip = ctx.next_rip();
    let (cpu, env) = (&mut *ctx.cpu, &mut *ctx.env);
    if cpu.cr0 & x86::cr0::PE == 0 {
        paragraphs(cpu, env, size, true)?;
    } else if cpu.rflags & flags::VM != 0 {
        virtual_8086(cpu, env, size)?;
    } else if cpu.rflags & flags::NT != 0 {
        if cpu.long_mode() {
            return Err(Exception::GP0.into());
        }
        task::return_to_link(cpu, env, rip)?;
    } else {
        protected(cpu, env, size)?;
    }
    ctx.cpu.events.nmi_blocked = false;
    ctx.env.mmu(ctx.cpu, MmuEvent::Mode);
    Ok(Handled::Jump)
}

fn pop_return<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    stack: &mut Stack,
    size: u32,
) -> Result<Popped, Stop> {
    let rip = stack.pop(cpu, env, size)?;
    let cs = stack.pop(cpu, env, size)? as u16;
    let rflags = stack.pop(cpu, env, size)?;
    Ok(Popped {
        rip,
        cs,
        rflags,
        size,
    })
}

/// `rflags` with the bits of `writable` taken from `image`.
fn merged(rflags: u64, image: u64, writable: u64) -> u64 {
    (rflags & !writable) | (image & writable) | flags::FIXED1
}

fn paragraphs<E: Env>(cpu: &mut CpuState, env: &mut E, size: u32, iopl: bool) -> Result<(), Stop> {
    let mut stack = Stack::current(cpu);
    let popped = pop_return(cpu, env, &mut stack, size)?;
    if popped.rip > u64::from(cpu.seg(Seg::Cs).limit) {
        return Err(Exception::GP0.into());
    }
    let mut writable = BASIC | flags::IF;
    if size == 4 {
        writable |= WIDE;
    }
    if iopl {
        writable |= flags::IOPL;
    }
    load::set_real(cpu, Seg::Cs, popped.cs);
    cpu.gpr[gpr::RSP] = stack.sp;
    cpu.rip = popped.rip;
    cpu.rflags = merged(cpu.rflags & !flags::RF, popped.rflags, writable);
    Ok(())
}

/// In virtual-8086 mode IOPL decides, or VME for 16-bit IRET.
fn virtual_8086<E: Env>(cpu: &mut CpuState, env: &mut E, size: u32) -> Result<(), Stop> {
    if cpu.rflags & flags::IOPL == flags::IOPL {
        return paragraphs(cpu, env, size, false);
    }
    if cpu.cr4 & cr4::VME == 0 || size != 2 {
        return Err(Exception::GP0.into());
    }
    let mut stack = Stack::current(cpu);
    let popped = pop_return(cpu, env, &mut stack, size)?;
    let sets_if = popped.rflags & flags::IF != 0;
    let refused = (sets_if && cpu.rflags & flags::VIP != 0) || popped.rflags & flags::TF != 0;
    if refused || popped.rip > 0xffff {
        return Err(Exception::GP0.into());
    }
    load::set_real(cpu, Seg::Cs, popped.cs);
    cpu.gpr[gpr::RSP] = stack.sp;
    cpu.rip = popped.rip;
    let vif = if sets_if { flags::VIF } else { 0 };
    cpu.rflags = merged(cpu.rflags, popped.rflags, BASIC & !flags::TF);
    cpu.rflags = (cpu.rflags & !(flags::VIF | flags::RF)) | vif;
    Ok(())
}

fn protected<E: Env>(cpu: &mut CpuState, env: &mut E, size: u32) -> Result<(), Stop> {
    let mut stack = Stack::current(cpu);
    let popped = pop_return(cpu, env, &mut stack, size)?;
    if size == 4 && !cpu.long_mode() && popped.rflags & flags::VM != 0 && cpu.cpl() == 0 {
        return to_virtual_8086(cpu, env, &mut stack, &popped);
    }
    let cs = return_code(cpu, env, popped.cs)?;
    let cpl = rpl(popped.cs);
    let outer = cpl != cpu.cpl();
    let to_64 = cpu.long_mode() && cs.is_long_code();
    let mut new_stack = None;
    if cpu.code64() || outer {
        let sp = stack.pop(cpu, env, size)?;
        let ss = stack.pop(cpu, env, size)? as u16;
        let ss = return_stack(cpu, env, ss, cpl, to_64)?;
        new_stack = Some((ss, sp));
    }
    check_target(&cs, popped.rip, to_64)?;
    let mut code = descriptor::accessed(cpu, env, &cs)?;
    code.selector = popped.cs;
    let old_cpl = cpu.cpl();
    match new_stack {
        Some((ss, sp)) => set_stack(cpu, ss, sp, size, to_64),
        None => cpu.gpr[gpr::RSP] = stack.sp,
    }
    *cpu.seg_mut(Seg::Cs) = code;
    cpu.rip = popped.rip;
    cpu.rflags = returned_flags(cpu.rflags, &popped, old_cpl);
    if outer {
        load::drop_privileged(cpu, cpl);
    }
    Ok(())
}

/// The flags a protected-mode IRET at privilege level `cpl` may change.
fn returned_flags(rflags: u64, popped: &Popped, cpl: u8) -> u64 {
    let iopl = ((rflags & flags::IOPL) >> flags::IOPL_SHIFT) as u8;
    let mut writable = BASIC;
    if popped.size > 2 {
        writable |= WIDE;
    }
    if cpl <= iopl {
        writable |= flags::IF;
    }
    if cpl == 0 {
        writable |= flags::IOPL;
        if popped.size > 2 {
            writable |= flags::VIF | flags::VIP;
        }
    }
    merged(rflags & !flags::RF, popped.rflags, writable)
}

/// Commits a stack popped by a far return: a 16-bit stack takes only SP.
pub(super) fn set_stack(cpu: &mut CpuState, ss: Segment, sp: u64, size: u32, to_64: bool) {
    *cpu.seg_mut(Seg::Ss) = ss;
    let width = super::stack::width(to_64, &ss);
    let sp = sp & mask(size);
    let old = cpu.gpr[gpr::RSP];
    cpu.gpr[gpr::RSP] = match width {
        0xffff => (old & !0xffff) | (sp & 0xffff),
        w => sp & w,
    };
}

/// The code segment a far return goes to.
pub(super) fn return_code<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    selector: u16,
) -> Result<Descriptor, Stop> {
    if is_null(selector) {
        return Err(Exception::GP0.into());
    }
    let cs = descriptor::read(cpu, env, selector, Exception::gp)?;
    let dpl_ok = if cs.is_conforming() {
        cs.dpl() <= rpl(selector)
    } else {
        cs.dpl() == rpl(selector)
    };
    let both = cpu.long_mode() && cs.is_long_code() && cs.db();
    if !cs.is_code() || rpl(selector) < cpu.cpl() || !dpl_ok || both {
        return Err(Exception::gp(code(selector)).into());
    }
    if !cs.present() {
        return Err(Exception::np(code(selector)).into());
    }
    Ok(cs)
}

/// The stack segment a far return to privilege level `cpl` loads.
pub(super) fn return_stack<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    selector: u16,
    cpl: u8,
    to_64: bool,
) -> Result<Segment, Stop> {
    if is_null(selector) {
        if to_64 && cpl != 3 && rpl(selector) == cpl {
            return Ok(null_ss(cpl));
        }
        return Err(Exception::GP0.into());
    }
    let ss = descriptor::read(cpu, env, selector, Exception::gp)?;
    load::check_stack(&ss, cpl, Exception::gp)?;
    descriptor::accessed(cpu, env, &ss)
}

/// RIP must be canonical or inside the limit.
pub(super) fn check_target(cs: &Descriptor, rip: u64, to_64: bool) -> Result<(), Stop> {
    let ok = if to_64 {
        canonical48(rip)
    } else {
        rip <= u64::from(cs.segment().limit)
    };
    if ok {
        Ok(())
    } else {
        Err(Exception::GP0.into())
    }
}

/// RETURN-TO-VIRTUAL-8086-MODE.
fn to_virtual_8086<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    stack: &mut Stack,
    popped: &Popped,
) -> Result<(), Stop> {
    let esp = stack.pop(cpu, env, 4)?;
    let mut selectors = [0u16; 5];
    for s in &mut selectors {
        *s = stack.pop(cpu, env, 4)? as u16;
    }
    if popped.rip & 0xffff_ffff > 0xffff {
        return Err(Exception::GP0.into());
    }
    let order = [Seg::Ss, Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs];
    for (s, selector) in order.into_iter().zip(selectors) {
        *cpu.seg_mut(s) = load::vm86(selector);
    }
    *cpu.seg_mut(Seg::Cs) = load::vm86(popped.cs);
    cpu.gpr[gpr::RSP] = esp;
    cpu.rip = popped.rip & 0xffff;
    cpu.rflags = (popped.rflags & flags::DEFINED) | flags::FIXED1;
    Ok(())
}
