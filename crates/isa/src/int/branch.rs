//! Near branches (SDM vol 2: CALL, RET, JMP, Jcc, JCXZ, LOOP).

use super::data::holds;
use crate::env::{Env, Stop};
use crate::operand::{Ctx, Handled, mask, set_gpr};
use iced_x86::{Code, Mnemonic as M};
use x86::flags::ZF;
use x86::gpr;

/// Jumps to `target` with operand size `size`.
fn jump<E: Env>(ctx: &mut Ctx<E>, target: u64, size: u32) -> Result<Handled, Stop> {
    ctx.cpu.rip = ctx.near_target(target, size)?;
    Ok(Handled::Jump)
}

/// JMP to operand 0.
fn jmp<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let size = ctx.op_size(0);
    let target = ctx.read_op(0)?;
    jump(ctx, target, size)
}

/// CALL of operand 0.
fn call<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let size = ctx.op_size(0);
    let target = ctx.read_op(0)?;
    // The return address is written even if the target then faults.
    let sp = ctx.sp();
    let back = ctx.next_rip();
    ctx.push(back, size)?;
    match ctx.near_target(target, size) {
        Ok(target) => ctx.cpu.rip = target,
        Err(stop) => {
            ctx.set_sp(sp);
            return Err(stop);
        }
    }
    Ok(Handled::Jump)
}

/// RET, with or without releasing parameters.
fn ret<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let size = match ctx.insn.code() {
        Code::Retnw | Code::Retnw_imm16 => 2,
        Code::Retnd | Code::Retnd_imm16 => 4,
        _ => 8,
    };
    let release = match ctx.insn.op_count() {
        0 => 0,
        _ => u64::from(ctx.insn.immediate16()),
    };
    let target = ctx.peek(0, size)?;
    let target = ctx.near_target(target, size)?;
    ctx.set_sp(ctx.sp().wrapping_add(u64::from(size) + release));
    ctx.cpu.rip = target;
    Ok(Handled::Jump)
}

/// Jcc.
fn jcc<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    if holds(ctx.cpu.rflags, ctx.insn.condition_code()) {
        jmp(ctx)
    } else {
        Ok(Handled::Next)
    }
}

/// Bytes of the count register of LOOPcc, which follows the address size.
fn loop_width(code: Code) -> u32 {
    use Code as K;
    match code {
        K::Loop_rel8_16_CX | K::Loop_rel8_32_CX => 2,
        K::Loope_rel8_16_CX | K::Loope_rel8_32_CX => 2,
        K::Loopne_rel8_16_CX | K::Loopne_rel8_32_CX => 2,
        K::Loop_rel8_16_RCX | K::Loop_rel8_64_RCX => 8,
        K::Loope_rel8_16_RCX | K::Loope_rel8_64_RCX => 8,
        K::Loopne_rel8_16_RCX | K::Loopne_rel8_64_RCX => 8,
        _ => 4,
    }
}

/// LOOP, LOOPE, LOOPNE: the count changes even when the loop ends, but not if
/// the target faults.
fn loop_while<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let width = loop_width(ctx.insn.code());
    let count = ctx.cpu.gpr[gpr::RCX].wrapping_sub(1) & mask(width);
    let zero = ctx.cpu.rflags & ZF != 0;
    let again = count != 0
        && match ctx.insn.mnemonic() {
            M::Loope => zero,
            M::Loopne => !zero,
            _ => true,
        };
    let done = if again { jmp(ctx)? } else { Handled::Next };
    set_gpr(ctx.cpu, gpr::RCX, width, count);
    Ok(done)
}

/// JCXZ, JECXZ, JRCXZ.
fn jump_if_zero<E: Env>(ctx: &mut Ctx<E>, width: u32) -> Result<Handled, Stop> {
    if ctx.cpu.gpr[gpr::RCX] & mask(width) == 0 {
        jmp(ctx)
    } else {
        Ok(Handled::Next)
    }
}

/// Every near branch.
pub(super) fn run<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    match ctx.insn.mnemonic() {
        M::Jmp => jmp(ctx),
        M::Call => call(ctx),
        M::Ret => ret(ctx),
        M::Loop | M::Loope | M::Loopne => loop_while(ctx),
        M::Jcxz => jump_if_zero(ctx, 2),
        M::Jecxz => jump_if_zero(ctx, 4),
        M::Jrcxz => jump_if_zero(ctx, 8),
        _ => jcc(ctx),
    }
}
