//! Multiplication and division (SDM vol 2: MUL, IMUL, DIV, IDIV, MULX).

use super::flags::{bit, bits, szp};
use crate::env::{Env, Stop};
use crate::operand::{Ctx, Handled, mask, set_gpr, sext};
use iced_x86::Mnemonic as M;
use x86::flags::{ARITH, CF, OF, ZF};
use x86::{Exception, gpr};

/// Writes a double-width result to AX or rDX:rAX.
fn write_pair<E: Env>(ctx: &mut Ctx<E>, lo: u64, hi: u64, size: u32) {
    if size == 1 {
        set_gpr(ctx.cpu, gpr::RAX, 2, (lo & 0xff) | (hi << 8));
        return;
    }
    set_gpr(ctx.cpu, gpr::RAX, size, lo);
    set_gpr(ctx.cpu, gpr::RDX, size, hi);
}

/// CF and OF say that the high half is significant; SF and PF come from the
/// low half, ZF and AF are 0 (undefined, as measured).
fn set_product_flags<E: Env>(ctx: &mut Ctx<E>, lo: u64, wide: bool, size: u32) {
    let f = (szp(lo, size) & !ZF) | bit(wide, CF | OF);
    ctx.set_flags(ARITH, f);
}

/// MUL and one-operand IMUL.
fn multiply<E: Env>(ctx: &mut Ctx<E>, signed: bool) -> Result<Handled, Stop> {
    let size = ctx.op_size(0);
    let b = ctx.read_op(0)?;
    let a = ctx.cpu.gpr[gpr::RAX] & mask(size);
    let product = if signed {
        (i128::from(sext(a, size) as i64) * i128::from(sext(b, size) as i64)) as u128
    } else {
        u128::from(a) * u128::from(b)
    };
    let lo = product as u64 & mask(size);
    let hi = (product >> bits(size)) as u64 & mask(size);
    let wide = if signed {
        hi != (((sext(lo, size) as i64) >> 63) as u64) & mask(size)
    } else {
        hi != 0
    };
    write_pair(ctx, lo, hi, size);
    set_product_flags(ctx, lo, wide, size);
    Ok(Handled::Next)
}

/// IMUL with two or three operands.
fn multiply_into<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let size = ctx.op_size(0);
    let first = if ctx.insn.op_count() == 3 { 1 } else { 0 };
    let a = ctx.read_op(first)?;
    let b = ctx.read_op(first + 1)?;
    let product = i128::from(sext(a, size) as i64) * i128::from(sext(b, size) as i64);
    let lo = product as u64 & mask(size);
    let wide = product != i128::from(sext(lo, size) as i64);
    ctx.write_op(0, lo)?;
    set_product_flags(ctx, lo, wide, size);
    Ok(Handled::Next)
}

/// The dividend AX or rDX:rAX.
fn dividend<E: Env>(ctx: &Ctx<E>, size: u32) -> u128 {
    let g = &ctx.cpu.gpr;
    if size == 1 {
        return u128::from(g[gpr::RAX] & 0xffff);
    }
    let lo = g[gpr::RAX] & mask(size);
    let hi = g[gpr::RDX] & mask(size);
    (u128::from(hi) << bits(size)) | u128::from(lo)
}

/// DIV: #DE if the divisor is 0 or the quotient does not fit.
fn divide<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let size = ctx.op_size(0);
    let d = u128::from(ctx.read_op(0)?);
    let n = dividend(ctx, size);
    if d == 0 || n / d > u128::from(mask(size)) {
        return Err(Exception::DE.into());
    }
    write_pair(ctx, (n / d) as u64, (n % d) as u64, size);
    Ok(Handled::Next)
}

/// IDIV: as DIV, with a signed range.
fn divide_signed<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let size = ctx.op_size(0);
    let d = i128::from(sext(ctx.read_op(0)?, size) as i64);
    let shift = 128 - 2 * bits(size);
    let n = ((dividend(ctx, size) << shift) as i128) >> shift;
    let (Some(q), Some(r)) = (n.checked_div(d), n.checked_rem(d)) else {
        return Err(Exception::DE.into());
    };
    if q != i128::from(sext(q as u64 & mask(size), size) as i64) {
        return Err(Exception::DE.into());
    }
    write_pair(ctx, q as u64 & mask(size), r as u64 & mask(size), size);
    Ok(Handled::Next)
}

/// MULX: unsigned product of rDX without flags; the high half is written last.
fn mulx<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    ctx.require_features()?;
    let size = ctx.op_size(0);
    let b = ctx.read_op(2)?;
    let a = ctx.cpu.gpr[gpr::RDX] & mask(size);
    let product = u128::from(a) * u128::from(b);
    ctx.write_op(1, product as u64 & mask(size))?;
    ctx.write_op(0, (product >> bits(size)) as u64)?;
    Ok(Handled::Next)
}

/// MUL, IMUL, DIV, IDIV, MULX.
pub(super) fn run<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    match ctx.insn.mnemonic() {
        M::Mul => multiply(ctx, false),
        M::Imul if ctx.insn.op_count() == 1 => multiply(ctx, true),
        M::Imul => multiply_into(ctx),
        M::Div => divide(ctx),
        M::Idiv => divide_signed(ctx),
        M::Mulx => mulx(ctx),
        _ => Ok(Handled::No),
    }
}
