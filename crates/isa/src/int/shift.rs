//! Shifts and rotates (SDM vol 2: SAL/SAR/SHL/SHR, RCL/RCR/ROL/ROR, SHLD,
//! SHRD, and the flagless BMI2 forms).

use super::flags::{Shift, bits, double_shift, shift};
use crate::env::{Env, Stop};
use crate::operand::{Ctx, Handled, mask};
use iced_x86::{Mnemonic as M, OpKind};
use x86::flags::OF;

/// The count masked to 6 bits for 64-bit operands and 5 bits for all others.
fn masked(count: u64, size: u32) -> u32 {
    (count & if size == 8 { 63 } else { 31 }) as u32
}

fn kind(m: M) -> Shift {
    match m {
        M::Rol => Shift::Rol,
        M::Ror | M::Rorx => Shift::Ror,
        M::Rcl => Shift::Rcl,
        M::Rcr => Shift::Rcr,
        M::Shr | M::Shrx => Shift::Shr,
        M::Sar | M::Sarx => Shift::Sar,
        _ => Shift::Shl,
    }
}

/// The seven one-operand shifts.
fn single<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let size = ctx.op_size(0);
    let count = masked(ctx.read_op(1)?, size);
    let op = kind(ctx.insn.mnemonic());
    let old = ctx.cpu.rflags;
    // Rotates of a register by an immediate other than 1 were measured to keep
    // OF; those of memory or by CL compute it.
    let rotate = matches!(op, Shift::Rol | Shift::Ror);
    let kinds = [0, 1].map(|i| ctx.insn.op_kind(i) == OpKind::Register);
    let keep = if rotate && count != 1 && kinds == [true, false] {
        OF
    } else {
        0
    };
    let mut f = old;
    ctx.modify_op(0, &mut |a| {
        let (r, out) = shift(op, a, count, size, old);
        let out = (out & !keep) | (old & keep);
        f = out;
        r
    })?;
    ctx.cpu.rflags = f;
    Ok(Handled::Next)
}

/// SHLD and SHRD.
fn double<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let size = ctx.op_size(0);
    let b = ctx.read_op(1)?;
    let count = masked(ctx.read_op(2)?, size);
    let left = ctx.insn.mnemonic() == M::Shld;
    let old = ctx.cpu.rflags;
    let mut f = old;
    ctx.modify_op(0, &mut |a| {
        let (r, out) = double_shift(left, (a, b), count, size, old);
        f = out;
        r
    })?;
    ctx.cpu.rflags = f;
    Ok(Handled::Next)
}

/// RORX, SARX, SHLX, SHRX: no flags.
fn flagless<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    ctx.require_features()?;
    let size = ctx.op_size(0);
    let a = ctx.read_op(1)?;
    let count = masked(ctx.read_op(2)?, size);
    debug_assert!(count < bits(size));
    let (r, _) = shift(kind(ctx.insn.mnemonic()), a, count, size, 0);
    ctx.write_op(0, r & mask(size))?;
    Ok(Handled::Next)
}

/// Every shift and rotate.
pub(super) fn run<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    match ctx.insn.mnemonic() {
        M::Shld | M::Shrd => double(ctx),
        M::Rorx | M::Sarx | M::Shlx | M::Shrx => flagless(ctx),
        _ => single(ctx),
    }
}
