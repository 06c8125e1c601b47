//! Two- and one-operand arithmetic and logic (SDM vol 1, 7.3.2 and 7.3.4).

use super::flags::{self, add, sub, szp};
use crate::env::{Env, Stop};
use crate::operand::{Ctx, Handled, mask};
use iced_x86::Mnemonic as M;
use x86::flags::{ARITH, CF, OF};

impl<E: Env> Ctx<'_, E> {
    /// Replaces the flags in `which` by `value`.
    pub(crate) fn set_flags(&mut self, which: u64, value: u64) {
        self.cpu.rflags = (self.cpu.rflags & !which) | (value & which);
    }
    /// 1 if CF is set.
    pub(crate) fn carry(&self) -> u64 {
        self.cpu.rflags & CF
    }
}

/// ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST.
pub(super) fn binary<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let size = ctx.op_size(0);
    let b = ctx.read_op(1)? & mask(size);
    let op = ctx.insn.mnemonic();
    let carry = ctx.carry();
    if matches!(op, M::Cmp | M::Test) {
        let a = ctx.read_op(0)?;
        let (_, f) = compute(op, a, b, carry, size);
        ctx.set_flags(ARITH, f);
        return Ok(Handled::Next);
    }
    let mut f = 0;
    ctx.modify_op(0, &mut |a| {
        let (r, out) = compute(op, a, b, carry, size);
        f = out;
        r
    })?;
    ctx.set_flags(ARITH, f);
    Ok(Handled::Next)
}

fn compute(op: M, a: u64, b: u64, carry: u64, size: u32) -> (u64, u64) {
    let logic = |r: u64| (r, szp(r, size));
    match op {
        M::Add => add(a, b, 0, size),
        M::Adc => add(a, b, carry, size),
        M::Sub | M::Cmp => sub(a, b, 0, size),
        M::Sbb => sub(a, b, carry, size),
        M::Or => logic(a | b),
        M::Xor => logic(a ^ b),
        _ => logic(a & b),
    }
}

/// INC, DEC, NEG, NOT.
pub(super) fn unary<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let size = ctx.op_size(0);
    let op = ctx.insn.mnemonic();
    let mut f = 0;
    ctx.modify_op(0, &mut |a| {
        let (r, out) = match op {
            M::Inc => add(a, 1, 0, size),
            M::Dec => sub(a, 1, 0, size),
            M::Neg => sub(0, a, 0, size),
            _ => (!a & mask(size), 0),
        };
        f = out;
        r
    })?;
    match op {
        M::Inc | M::Dec => ctx.set_flags(ARITH & !CF, f),
        M::Neg => ctx.set_flags(ARITH, f),
        _ => {}
    }
    Ok(Handled::Next)
}

/// ADCX and ADOX: add with carry through CF or OF alone.
pub(super) fn adx<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    ctx.require_features()?;
    let size = ctx.op_size(0);
    let flag = if ctx.insn.mnemonic() == M::Adcx {
        CF
    } else {
        OF
    };
    let b = ctx.read_op(1)?;
    let a = ctx.read_op(0)?;
    let carry = u64::from(ctx.cpu.rflags & flag != 0);
    let (r, f) = add(a, b, carry, size);
    ctx.write_op(0, r)?;
    ctx.set_flags(flag, flags::bit(f & CF != 0, flag));
    Ok(Handled::Next)
}
