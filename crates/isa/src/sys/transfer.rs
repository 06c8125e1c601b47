//! Far JMP, CALL and RET: direct, through call gates and to tasks (SDM vol 2,
//! JMP, CALL, RET; vol 3, 5.8).

use super::descriptor::{self, Descriptor, code, is_null, kind, rpl};
use super::iret::{check_target, return_code, return_stack, set_stack};
use super::stack::{Stack, null_ss};
use super::task::{self, Cause};
use super::{gate, is_amd, load};
use crate::operand::{Ctx, Handled, mask};
use crate::{Env, MmuEvent, Stop};
use iced_x86::{Code, OpKind};
use x86::{CpuState, Exception, Seg, gpr};

/// A far pointer and how it is used.
#[derive(Clone, Copy)]
struct Far {
    selector: u16,
    offset: u64,
    /// Operand size in bytes.
    size: u32,
    call: bool,
    /// Return address of a call.
    next: u64,
}

/// Executes a far JMP or CALL.
pub(super) fn jump<E: Env>(ctx: &mut Ctx<'_, E>, call: bool) -> Result<Handled, Stop> {
    let (selector, offset, size) = far_pointer(ctx)?;
    let far = Far {
        selector,
        offset,
        size,
        call,
        next: ctx.next_rip(),
    };
    let (cpu, env) = (&mut *ctx.cpu, &mut *ctx.env);
    if load::paragraphs(cpu) {
        jump_paragraph(cpu, env, &far)?;
    } else {
        jump_protected(cpu, env, &far)?;
    }
    ctx.env.mmu(ctx.cpu, MmuEvent::Mode);
    Ok(Handled::Jump)
}

/// Selector, offset and operand size of a far pointer operand.
fn far_pointer<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<(u16, u64, u32), Stop> {
    let insn = ctx.insn;
    match insn.op0_kind() {
        OpKind::FarBranch16 => Ok((
            insn.far_branch_selector(),
            u64::from(insn.far_branch16()),
            2,
        )),
        OpKind::FarBranch32 => Ok((
            insn.far_branch_selector(),
            u64::from(insn.far_branch32()),
            4,
        )),
        _ => {
            let size = match insn.code() {
                Code::Jmp_m1616 | Code::Call_m1616 => 2,
                // AMD's processors have no such pointers and take no notice
                // of REX.W (APM vol 3, JMP (Far)).
                Code::Jmp_m1664 | Code::Call_m1664 if !is_amd(ctx.cpu, ctx.env) => 8,
                _ => 4,
            };
            let (offset, selector) = pointer_at(ctx, 0, size)?;
            Ok((selector, offset, size))
        }
    }
}

/// Reads memory operand `i` as an offset of `size` bytes and a selector.
pub(super) fn pointer_at<E: Env>(
    ctx: &mut Ctx<'_, E>,
    i: u32,
    size: u32,
) -> Result<(u64, u16), Stop> {
    let (seg, ea) = ctx.ea(i);
    let offset = ctx.read_mem(seg, ea, size)?;
    let at = ea.wrapping_add(u64::from(size)) & mask(ctx.address_size());
    let selector = ctx.read_mem(seg, at, 2)? as u16;
    Ok((offset, selector))
}

fn jump_paragraph<E: Env>(cpu: &mut CpuState, env: &mut E, far: &Far) -> Result<(), Stop> {
    if far.offset > u64::from(cpu.seg(Seg::Cs).limit) {
        return Err(Exception::GP0.into());
    }
    push_return(cpu, env, far, far.size)?;
    load::set_real(cpu, Seg::Cs, far.selector);
    cpu.rip = far.offset;
    Ok(())
}

/// A call pushes CS and the return address on the current stack.
fn push_return<E: Env>(cpu: &mut CpuState, env: &mut E, far: &Far, size: u32) -> Result<(), Stop> {
    if far.call {
        let mut stack = Stack::current(cpu);
        let cs = u64::from(cpu.seg(Seg::Cs).selector);
        stack.push_all(cpu, env, size, &[cs, far.next])?;
        cpu.gpr[gpr::RSP] = stack.sp;
    }
    Ok(())
}

fn jump_protected<E: Env>(cpu: &mut CpuState, env: &mut E, far: &Far) -> Result<(), Stop> {
    if is_null(far.selector) {
        return Err(Exception::GP0.into());
    }
    let desc = descriptor::read(cpu, env, far.selector, Exception::gp)?;
    if !desc.is_system() {
        return jump_code(cpu, env, far, &desc);
    }
    let outranked = desc.dpl() < cpu.cpl() || desc.dpl() < rpl(far.selector);
    let long = cpu.long_mode();
    let known = match desc.kind() {
        kind::CALL_GATE => true,
        kind::CALL_GATE16 | kind::TASK_GATE | kind::TSS | kind::TSS16 => !long,
        _ => false,
    };
    if outranked || !known {
        return Err(Exception::gp(code(far.selector)).into());
    }
    if !desc.present() {
        return Err(Exception::np(code(far.selector)).into());
    }
    let cause = if far.call { Cause::Call } else { Cause::Jump };
    match desc.kind() {
        kind::TASK_GATE => {
            let tss = task::available(cpu, env, desc.gate_selector(), 0)?;
            task::switch(cpu, env, &tss, cause, far.next)
        }
        kind::TSS | kind::TSS16 => task::switch(cpu, env, &desc, cause, far.next),
        _ => through_gate(cpu, env, far, &desc),
    }
}

/// Direct transfer to a code segment at the same privilege level.
fn jump_code<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    far: &Far,
    cs: &Descriptor,
) -> Result<(), Stop> {
    let cpl = cpu.cpl();
    let allowed = if cs.is_conforming() {
        cs.dpl() <= cpl
    } else {
        cs.dpl() == cpl && rpl(far.selector) <= cpl
    };
    let to_64 = cpu.long_mode() && cs.is_long_code();
    if !cs.is_code() || !allowed || (to_64 && cs.db()) {
        return Err(Exception::gp(code(far.selector)).into());
    }
    if !cs.present() {
        return Err(Exception::np(code(far.selector)).into());
    }
    check_target(cs, far.offset, to_64)?;
    push_return(cpu, env, far, far.size)?;
    enter(cpu, env, cs, cpl, far.offset)
}

/// Commits CS and RIP.
fn enter<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    cs: &Descriptor,
    cpl: u8,
    rip: u64,
) -> Result<(), Stop> {
    let mut seg = descriptor::accessed(cpu, env, cs)?;
    seg.selector = (cs.selector & !3) | u16::from(cpl);
    *cpu.seg_mut(Seg::Cs) = seg;
    cpu.rip = rip;
    Ok(())
}

/// A present call gate whose DPL allows its use.
fn through_gate<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    far: &Far,
    gate: &Descriptor,
) -> Result<(), Stop> {
    let long = cpu.long_mode();
    let wide = gate.kind() == kind::CALL_GATE;
    let mut offset = if wide {
        gate.gate_offset32()
    } else {
        gate.gate_offset16()
    };
    if long {
        let refused = Exception::gp(code(far.selector));
        let high = descriptor::upper(cpu, env, gate)?.ok_or(refused)?;
        offset |= high << 32;
    }
    let cs = gate_code(cpu, env, gate.gate_selector())?;
    let inner = !cs.is_conforming() && cs.dpl() < cpu.cpl();
    if inner && !far.call {
        return Err(Exception::gp(code(cs.selector)).into());
    }
    let size = match (long, wide) {
        (true, _) => 8,
        (false, true) => 4,
        (false, false) => 2,
    };
    check_target(&cs, offset, long)?;
    if !inner {
        push_return(cpu, env, far, size)?;
        let cpl = cpu.cpl();
        return enter(cpu, env, &cs, cpl, offset);
    }
    if long {
        call_inner64(cpu, env, far, &cs, offset)
    } else {
        let count = ((gate.raw >> 32) & 0x1f) as u32;
        call_inner(cpu, env, far, &cs, (offset, size, count))
    }
}

/// The code segment a call gate leads to.
fn gate_code<E: Env>(cpu: &mut CpuState, env: &mut E, selector: u16) -> Result<Descriptor, Stop> {
    if is_null(selector) {
        return Err(Exception::GP0.into());
    }
    let cs = descriptor::read(cpu, env, selector, Exception::gp)?;
    let long = cpu.long_mode();
    if !cs.is_code() || cs.dpl() > cpu.cpl() || (long && (!cs.is_long_code() || cs.db())) {
        return Err(Exception::gp(code(selector)).into());
    }
    if !cs.present() {
        return Err(Exception::np(code(selector)).into());
    }
    Ok(cs)
}

fn call_inner64<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    far: &Far,
    cs: &Descriptor,
    offset: u64,
) -> Result<(), Stop> {
    let cpl = cs.dpl();
    let rsp = task::stack_pointer64(cpu, env, 4 + u32::from(cpl) * 8, 0)?;
    let mut stack = Stack::long(rsp, cpl, true, 0);
    let frame = [
        u64::from(cpu.seg(Seg::Ss).selector),
        cpu.gpr[gpr::RSP],
        u64::from(cpu.seg(Seg::Cs).selector),
        far.next,
    ];
    stack.push_frame64(cpu, env, &frame)?;
    enter(cpu, env, cs, cpl, offset)?;
    *cpu.seg_mut(Seg::Ss) = null_ss(cpl);
    cpu.gpr[gpr::RSP] = stack.sp;
    Ok(())
}

/// Switches to the TSS's stack and copies `count` parameters of `size` bytes.
fn call_inner<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    far: &Far,
    cs: &Descriptor,
    (offset, size, count): (u64, u32, u32),
) -> Result<(), Stop> {
    let cpl = cs.dpl();
    let (ss, sp) = gate::inner_stack(cpu, env, cpl, 0)?;
    let mut stack = Stack::inner(ss.segment(), sp, 0);
    let old = [u64::from(cpu.seg(Seg::Ss).selector), cpu.gpr[gpr::RSP]];
    let mut from = Stack::current(cpu);
    let mut parameters = [0u64; 31];
    for p in parameters.iter_mut().take(count as usize) {
        *p = from.pop(cpu, env, size)?;
    }
    stack.push_all(cpu, env, size, &old)?;
    for &p in parameters[..count as usize].iter().rev() {
        stack.push(cpu, env, size, p)?;
    }
    let back = [u64::from(cpu.seg(Seg::Cs).selector), far.next];
    stack.push_all(cpu, env, size, &back)?;
    let ss = descriptor::accessed(cpu, env, &ss)?;
    enter(cpu, env, cs, cpl, offset)?;
    *cpu.seg_mut(Seg::Ss) = ss;
    cpu.gpr[gpr::RSP] = stack.sp;
    Ok(())
}

/// Executes RETF with operand size `size`, releasing `bytes` of parameters.
pub(super) fn ret<E: Env>(ctx: &mut Ctx<'_, E>, size: u32, bytes: u16) -> Result<Handled, Stop> {
    let (cpu, env) = (&mut *ctx.cpu, &mut *ctx.env);
    let mut stack = Stack::current(cpu);
    let rip = stack.pop(cpu, env, size)?;
    let selector = stack.pop(cpu, env, size)? as u16;
    stack.release(u64::from(bytes));
    if load::paragraphs(cpu) {
        if rip > u64::from(cpu.seg(Seg::Cs).limit) {
            return Err(Exception::GP0.into());
        }
        load::set_real(cpu, Seg::Cs, selector);
        cpu.rip = rip;
        cpu.gpr[gpr::RSP] = stack.sp;
        return Ok(Handled::Jump);
    }
    let cs = return_code(cpu, env, selector)?;
    let cpl = rpl(selector);
    let to_64 = cpu.long_mode() && cs.is_long_code();
    check_target(&cs, rip, to_64)?;
    if cpl == cpu.cpl() {
        enter(cpu, env, &cs, cpl, rip)?;
        cpu.gpr[gpr::RSP] = stack.sp;
    } else {
        let sp = stack.pop(cpu, env, size)?;
        let ss = stack.pop(cpu, env, size)? as u16;
        let ss = return_stack(cpu, env, ss, cpl, to_64)?;
        enter(cpu, env, &cs, cpl, rip)?;
        set_stack(cpu, ss, sp, size, to_64);
        let mut outer = Stack::current(cpu);
        outer.release(u64::from(bytes));
        cpu.gpr[gpr::RSP] = outer.sp;
        load::drop_privileged(cpu, cpl);
    }
    ctx.env.mmu(ctx.cpu, MmuEvent::Mode);
    Ok(Handled::Jump)
}
