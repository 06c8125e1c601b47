//! Interrupt, trap and task gates (SDM vol 3, 6.12 and 6.14).

use super::deliver::Event;
use super::descriptor::{self, Descriptor, code, is_null, kind, linear, rpl};
use super::stack::{Stack, null_ss};
use super::task;
use crate::{Access, Env, Stop};
use x86::{CpuState, Exception, Seg, Segment, canonical48, flags, gpr};

/// The IDT bit of an error code.
const IDT: u32 = 2;

/// Flags cleared on entry to a handler.
const CLEARED: u64 = flags::TF | flags::NT | flags::RF | flags::VM;

/// A checked gate and the code segment it leads to.
struct Target {
    /// Clears IF.
    interrupt: bool,
    /// Pushes of 2, 4 or 8 bytes.
    size: u32,
    offset: u64,
    code: Descriptor,
    /// Privilege level of the handler.
    cpl: u8,
}

/// Error code naming the event's IDT entry.
fn idt_code(event: &Event) -> u32 {
    u32::from(event.vector()) * 8 + IDT + event.ext()
}

/// Reads the IDT entry at `index` units of `len` bytes.
fn entry<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    event: &Event,
    len: u32,
) -> Result<Descriptor, Stop> {
    let offset = u32::from(event.vector()) * len;
    if offset + len - 1 > u32::from(cpu.idtr.limit) {
        return Err(Exception::gp(idt_code(event)).into());
    }
    let la = linear(cpu, cpu.idtr.base.wrapping_add(u64::from(offset)));
    let raw = env.load(cpu, la, 8, Access::SystemRead)?;
    Ok(Descriptor {
        raw,
        la,
        selector: 0,
    })
}

/// Checks type, DPL and presence of an IDT entry.
fn check_gate(
    cpu: &CpuState,
    event: &Event,
    gate: &Descriptor,
    kinds: &[u8],
) -> Result<(), Exception> {
    let bad_type = !gate.is_system() || !kinds.contains(&gate.kind());
    if bad_type || (event.checks_dpl() && gate.dpl() < cpu.cpl()) {
        return Err(Exception::gp(idt_code(event)));
    }
    if !gate.present() {
        return Err(Exception::np(idt_code(event)));
    }
    Ok(())
}

/// Reads and checks the handler's code segment; returns it with the handler's
/// privilege level.
fn handler_code<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    selector: u16,
    ext: u32,
) -> Result<(Descriptor, u8), Stop> {
    if is_null(selector) {
        return Err(Exception::gp(ext).into());
    }
    let cs = descriptor::read(cpu, env, selector, |c| Exception::gp(c | ext))?;
    let refused = Exception::gp(code(selector) | ext);
    let cpl = cpu.cpl();
    let long = cpu.long_mode();
    if !cs.is_code() || cs.dpl() > cpl || (long && (!cs.is_long_code() || cs.db())) {
        return Err(refused.into());
    }
    if !cs.present() {
        return Err(Exception::np(code(selector) | ext).into());
    }
    let new_cpl = if cs.is_conforming() { cpl } else { cs.dpl() };
    if cpu.rflags & flags::VM != 0 && new_cpl != 0 {
        return Err(refused.into());
    }
    Ok((cs, new_cpl))
}

/// IA-32e mode: 16-byte gates, 64-bit handlers, IST.
pub(super) fn long_mode<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    event: &Event,
) -> Result<(), Stop> {
    let gate = entry(cpu, env, event, 16)?;
    let upper_la = linear(cpu, gate.la.wrapping_add(8));
    let upper = env.load(cpu, upper_la, 8, Access::SystemRead)?;
    check_gate(cpu, event, &gate, &[kind::INT_GATE, kind::TRAP_GATE])?;
    let ext = event.ext();
    let (cs, cpl) = handler_code(cpu, env, gate.gate_selector(), ext)?;
    let offset = gate.gate_offset32() | (upper << 32);
    if !canonical48(offset) {
        return Err(Exception::gp(ext).into());
    }
    let ist = ((gate.raw >> 32) & 7) as u32;
    let switches = cpl != cpu.cpl();
    let rsp = if ist != 0 {
        task::stack_pointer64(cpu, env, 36 + (ist - 1) * 8, ext)?
    } else if switches {
        task::stack_pointer64(cpu, env, 4 + u32::from(cpl) * 8, ext)?
    } else {
        cpu.gpr[gpr::RSP]
    };
    let mut stack = Stack::long(rsp & !15, cpl, switches, ext);
    let frame = [
        u64::from(cpu.seg(Seg::Ss).selector),
        cpu.gpr[gpr::RSP],
        event.pushed_flags(cpu),
        u64::from(cpu.seg(Seg::Cs).selector),
        event.return_rip(cpu),
        u64::from(event.error().unwrap_or(0)),
    ];
    let pushed = 5 + usize::from(event.error().is_some());
    stack.push_frame64(cpu, env, &frame[..pushed])?;
    let code = descriptor::accessed(cpu, env, &cs)?;
    if switches {
        *cpu.seg_mut(Seg::Ss) = null_ss(cpl);
    }
    cpu.gpr[gpr::RSP] = stack.sp;
    enter(cpu, code, cpl, offset, gate.kind() == kind::INT_GATE);
    Ok(())
}

/// Protected mode without IA-32e: 8-byte gates, TSS stacks, task gates.
pub(super) fn protected_mode<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    event: &Event,
) -> Result<(), Stop> {
    let gate = entry(cpu, env, event, 8)?;
    let kinds = [
        kind::TASK_GATE,
        kind::INT_GATE16,
        kind::TRAP_GATE16,
        kind::INT_GATE,
        kind::TRAP_GATE,
    ];
    check_gate(cpu, event, &gate, &kinds)?;
    if gate.kind() == kind::TASK_GATE {
        return task::deliver(cpu, env, event, gate.gate_selector());
    }
    let (code, cpl) = handler_code(cpu, env, gate.gate_selector(), event.ext())?;
    let wide = gate.kind() & 8 != 0;
    let target = Target {
        interrupt: matches!(gate.kind(), kind::INT_GATE | kind::INT_GATE16),
        size: if wide { 4 } else { 2 },
        offset: if wide {
            gate.gate_offset32()
        } else {
            gate.gate_offset16()
        },
        code,
        cpl,
    };
    if cpl == cpu.cpl() && cpu.rflags & flags::VM == 0 {
        same_privilege(cpu, env, event, &target)
    } else {
        inner_privilege(cpu, env, event, &target)
    }
}

/// The part of the frame every gate pushes: FLAGS, CS, IP, error code.
fn push_return<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    event: &Event,
    target: &Target,
    stack: &mut Stack,
) -> Result<(), Stop> {
    let frame = [
        event.pushed_flags(cpu),
        u64::from(cpu.seg(Seg::Cs).selector),
        event.return_rip(cpu),
    ];
    stack.push_all(cpu, env, target.size, &frame)?;
    match event.error() {
        Some(error) => stack.push(cpu, env, target.size, u64::from(error)),
        None => Ok(()),
    }
}

fn check_offset(target: &Target, ext: u32) -> Result<(), Stop> {
    if target.offset > u64::from(target.code.segment().limit) {
        return Err(Exception::gp(ext).into());
    }
    Ok(())
}

fn same_privilege<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    event: &Event,
    target: &Target,
) -> Result<(), Stop> {
    let ext = event.ext();
    let mut stack = Stack::current_with_error(cpu, ext);
    check_offset(target, ext)?;
    push_return(cpu, env, event, target, &mut stack)?;
    let code = descriptor::accessed(cpu, env, &target.code)?;
    cpu.gpr[gpr::RSP] = stack.sp;
    enter(cpu, code, target.cpl, target.offset, target.interrupt);
    Ok(())
}

fn inner_privilege<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    event: &Event,
    target: &Target,
) -> Result<(), Stop> {
    let ext = event.ext();
    let (ss, sp) = inner_stack(cpu, env, target.cpl, ext)?;
    let mut stack = Stack::inner(ss.segment(), sp, ext);
    check_offset(target, ext)?;
    let vm86 = cpu.rflags & flags::VM != 0;
    if vm86 {
        let data = [Seg::Gs, Seg::Fs, Seg::Ds, Seg::Es].map(|s| u64::from(cpu.seg(s).selector));
        stack.push_all(cpu, env, target.size, &data)?;
    }
    let old = [u64::from(cpu.seg(Seg::Ss).selector), cpu.gpr[gpr::RSP]];
    stack.push_all(cpu, env, target.size, &old)?;
    push_return(cpu, env, event, target, &mut stack)?;
    let code = descriptor::accessed(cpu, env, &target.code)?;
    let ss = descriptor::accessed(cpu, env, &ss)?;
    if vm86 {
        for s in [Seg::Gs, Seg::Fs, Seg::Ds, Seg::Es] {
            *cpu.seg_mut(s) = Segment::default();
        }
    }
    *cpu.seg_mut(Seg::Ss) = ss;
    cpu.gpr[gpr::RSP] = stack.sp;
    enter(cpu, code, target.cpl, target.offset, target.interrupt);
    Ok(())
}

/// The stack the TSS holds for privilege level `cpl`, checked (SDM vol 3,
/// 6.12.1; vol 2, INT n, INTER-PRIVILEGE-LEVEL-INTERRUPT).
pub(super) fn inner_stack<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    cpl: u8,
    ext: u32,
) -> Result<(Descriptor, u64), Stop> {
    let (selector, sp) = task::stack_pointer(cpu, env, cpl, ext)?;
    if is_null(selector) {
        return Err(Exception::ts(ext).into());
    }
    let ss = descriptor::read(cpu, env, selector, |c| Exception::ts(c | ext))?;
    if rpl(selector) != cpl || ss.dpl() != cpl || !ss.is_writable_data() {
        return Err(Exception::ts(code(selector) | ext).into());
    }
    if !ss.present() {
        return Err(Exception::ss(code(selector) | ext).into());
    }
    Ok((ss, sp))
}

/// Commits the jump to the handler.
fn enter(cpu: &mut CpuState, mut cs: Segment, cpl: u8, offset: u64, interrupt: bool) {
    cs.selector = (cs.selector & !3) | u16::from(cpl);
    *cpu.seg_mut(Seg::Cs) = cs;
    cpu.rip = offset;
    cpu.rflags &= !CLEARED;
    if interrupt {
        cpu.rflags &= !flags::IF;
    }
}
