//! Data movement (SDM vol 1, 7.3.1): moves, conversions, exchanges and the
//! conditional forms.

use super::flags::{bit, sub};
use crate::env::{Env, Stop};
use crate::operand::{Ctx, Handled, get_reg, mask, set_gpr, set_reg, sext};
use iced_x86::{ConditionCode as C, Mnemonic as M, Register};
use x86::flags::{ARITH, CF, OF, PF, SF, ZF};
use x86::{Exception, gpr};

/// Does condition `c` hold (SDM vol 1, appendix B)?
pub(super) fn holds(rflags: u64, c: C) -> bool {
    let set = |f: u64| rflags & f != 0;
    let less = set(SF) != set(OF);
    match c {
        C::o => set(OF),
        C::no => !set(OF),
        C::b => set(CF),
        C::ae => !set(CF),
        C::e => set(ZF),
        C::ne => !set(ZF),
        C::be => set(CF | ZF),
        C::a => !set(CF | ZF),
        C::s => set(SF),
        C::ns => !set(SF),
        C::p => set(PF),
        C::np => !set(PF),
        C::l => less,
        C::ge => !less,
        C::le => less || set(ZF),
        C::g => !less && !set(ZF),
        C::None => true,
    }
}

/// MOV of general registers, memory, immediates and from segment registers.
pub(super) fn mov<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let v = ctx.read_op(1)?;
    ctx.write_op(0, v)?;
    Ok(Handled::Next)
}

/// MOVSX and MOVSXD.
pub(super) fn movsx<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let v = ctx.read_op(1)?;
    let size = ctx.op_size(1);
    ctx.write_op(0, sext(v, size))?;
    Ok(Handled::Next)
}

/// LEA.
pub(super) fn lea<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let ea = ctx.effective();
    ctx.write_op(0, ea)?;
    Ok(Handled::Next)
}

/// SETcc.
pub(super) fn setcc<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let on = holds(ctx.cpu.rflags, ctx.insn.condition_code());
    ctx.write_op(0, u64::from(on))?;
    Ok(Handled::Next)
}

/// CMOVcc: the source is always read and a 32-bit destination always
/// zero-extended.
pub(super) fn cmov<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let src = ctx.read_op(1)?;
    let old = ctx.read_op(0)?;
    let on = holds(ctx.cpu.rflags, ctx.insn.condition_code());
    ctx.write_op(0, if on { src } else { old })?;
    Ok(Handled::Next)
}

/// MOVBE.
pub(super) fn movbe<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    ctx.require_features()?;
    let size = ctx.op_size(0);
    let v = ctx.read_op(1)?.swap_bytes() >> (64 - size * 8);
    ctx.write_op(0, v)?;
    Ok(Handled::Next)
}

/// BSWAP; the undefined 16-bit form yields 0 as processors do.
pub(super) fn bswap<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let size = ctx.op_size(0);
    let v = match size {
        2 => 0,
        _ => ctx.read_op(0)?.swap_bytes() >> (64 - size * 8),
    };
    ctx.write_op(0, v)?;
    Ok(Handled::Next)
}

/// CBW, CWDE, CDQE, CWD, CDQ, CQO.
pub(super) fn convert<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let a = ctx.cpu.gpr[gpr::RAX];
    let sign = |size: u32| ((sext(a, size) as i64) >> 63) as u64;
    let (reg, size, v) = match ctx.insn.mnemonic() {
        M::Cbw => (gpr::RAX, 2, sext(a, 1)),
        M::Cwde => (gpr::RAX, 4, sext(a, 2)),
        M::Cdqe => (gpr::RAX, 8, sext(a, 4)),
        M::Cwd => (gpr::RDX, 2, sign(2)),
        M::Cdq => (gpr::RDX, 4, sign(4)),
        _ => (gpr::RDX, 8, sign(8)),
    };
    set_gpr(ctx.cpu, reg, size, v);
    Ok(Handled::Next)
}

/// Position of the memory operand of a two-operand exchange, if it has one.
fn memory_side<E: Env>(ctx: &Ctx<E>) -> Option<u32> {
    (0..2).find(|&i| ctx.is_mem(i))
}

/// XCHG: with memory it is locked even without a prefix.
pub(super) fn xchg<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let Some(m) = memory_side(ctx) else {
        let (r0, r1) = (ctx.insn.op0_register(), ctx.insn.op1_register());
        let (a, b) = (get_reg(ctx.cpu, r0), get_reg(ctx.cpu, r1));
        set_reg(ctx.cpu, r0, b);
        set_reg(ctx.cpu, r1, a);
        return Ok(Handled::Next);
    };
    let reg = ctx.insn.op_register(1 - m);
    let new = get_reg(ctx.cpu, reg);
    let (seg, off) = ctx.ea(m);
    let size = ctx.op_size(m);
    let mut old = 0;
    ctx.modify_mem(seg, off, size, true, &mut |v| {
        old = v;
        new
    })?;
    set_reg(ctx.cpu, reg, old);
    Ok(Handled::Next)
}

/// XADD.
pub(super) fn xadd<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let size = ctx.op_size(0);
    let reg = ctx.insn.op1_register();
    let b = get_reg(ctx.cpu, reg);
    let (mut old, mut f) = (0, 0);
    let mut sum = |a: u64| {
        let (r, out) = super::flags::add(a, b, 0, size);
        (old, f) = (a, out);
        r
    };
    if ctx.is_mem(0) {
        ctx.modify_op(0, &mut sum)?;
        set_reg(ctx.cpu, reg, old);
    } else {
        let dest = ctx.insn.op0_register();
        let r = sum(get_reg(ctx.cpu, dest));
        // The destination wins if both are the same register.
        set_reg(ctx.cpu, reg, old);
        set_reg(ctx.cpu, dest, r);
    }
    ctx.set_flags(ARITH, f);
    Ok(Handled::Next)
}

/// The accumulator of a width.
fn accumulator(size: u32) -> Register {
    match size {
        1 => Register::AL,
        2 => Register::AX,
        4 => Register::EAX,
        _ => Register::RAX,
    }
}

/// CMPXCHG. On failure a register destination is not touched (not even
/// zero-extended); a memory destination is written back.
pub(super) fn cmpxchg<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let size = ctx.op_size(0);
    let acc = accumulator(size);
    let expected = get_reg(ctx.cpu, acc);
    let new = ctx.read_op(1)?;
    let mut old = 0;
    if ctx.is_mem(0) {
        ctx.modify_op(0, &mut |v| {
            old = v;
            if v == expected { new } else { v }
        })?;
    } else {
        old = ctx.read_op(0)?;
        if old == expected {
            ctx.write_op(0, new)?;
        }
    }
    if old != expected {
        set_reg(ctx.cpu, acc, old);
    }
    let (_, f) = sub(expected, old, 0, size);
    ctx.set_flags(ARITH, f);
    Ok(Handled::Next)
}

/// `hi:lo` of two registers' low `size` bytes.
fn pair<E: Env>(ctx: &Ctx<E>, hi: usize, lo: usize, size: u32) -> u128 {
    let g = &ctx.cpu.gpr;
    let m = mask(size);
    (u128::from(g[hi] & m) << (size * 8)) | u128::from(g[lo] & m)
}

/// CMPXCHG8B and CMPXCHG16B.
pub(super) fn cmpxchg_pair<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    ctx.require_features()?;
    let half = if ctx.insn.mnemonic() == M::Cmpxchg8b {
        4
    } else {
        8
    };
    let expected = pair(ctx, gpr::RDX, gpr::RAX, half);
    let new = pair(ctx, gpr::RCX, gpr::RBX, half);
    let (seg, off) = ctx.ea(0);
    let old = if half == 4 {
        let mut old = 0;
        ctx.modify_mem(seg, off, 8, true, &mut |v| {
            old = v;
            if u128::from(v) == expected {
                new as u64
            } else {
                v
            }
        })?;
        u128::from(old)
    } else {
        ctx.require_aligned(seg, off, 16)?;
        let la = ctx.linear(seg, off, 16, crate::env::Access::ReadModify)?;
        ctx.env.cmpxchg16(ctx.cpu, la, expected, new)?
    };
    if old != expected {
        set_gpr(ctx.cpu, gpr::RAX, half, old as u64);
        set_gpr(ctx.cpu, gpr::RDX, half, (old >> (half * 8)) as u64);
    }
    ctx.set_flags(ZF, bit(old == expected, ZF));
    Ok(Handled::Next)
}

/// XLAT: AL = [rBX + AL].
pub(super) fn xlat<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let v = ctx.read_op(0)?;
    set_gpr(ctx.cpu, gpr::RAX, 1, v);
    Ok(Handled::Next)
}

/// BOUND: #BR unless the signed index lies within the two bounds in memory.
pub(super) fn bound<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let size = ctx.op_size(0);
    let index = sext(ctx.read_op(0)?, size) as i64;
    let (seg, off) = ctx.ea(1);
    let lower = sext(ctx.read_mem(seg, off, size)?, size) as i64;
    if index < lower {
        return Err(Exception::BR.into());
    }
    let next = off.wrapping_add(u64::from(size)) & mask(ctx.address_size());
    let upper = sext(ctx.read_mem(seg, next, size)?, size) as i64;
    if index > upper {
        return Err(Exception::BR.into());
    }
    Ok(Handled::Next)
}
