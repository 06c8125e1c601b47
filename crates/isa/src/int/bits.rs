//! Bit tests, scans and the BMI instructions (SDM vol 1, 5.1.5 to 5.1.10).

use super::flags::{bit, bits, szp, top};
use crate::env::{Env, Stop};
use crate::operand::{Ctx, Handled, get_reg, mask, set_reg, sext};
use iced_x86::{CpuidFeature, Mnemonic as M, OpKind};
use x86::flags::{AF, ARITH, CF, OF, PF, SF, ZF};

fn change(op: M, v: u64, b: u64) -> u64 {
    match op {
        M::Bts => v | b,
        M::Btr => v & !b,
        M::Btc => v ^ b,
        _ => v,
    }
}

/// BT, BTS, BTR, BTC. A register bit offset reaches beyond a memory operand.
pub(super) fn test<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let size = ctx.op_size(0);
    let op = ctx.insn.mnemonic();
    let index = ctx.read_op(1)?;
    let b = 1u64 << (index & u64::from(bits(size) - 1));
    let mut old = 0;
    let mut f = |v: u64| {
        old = v;
        change(op, v, b)
    };
    if !ctx.is_mem(0) {
        let reg = ctx.insn.op0_register();
        let v = f(get_reg(ctx.cpu, reg));
        // BT writes nothing, not even the upper half.
        if op != M::Bt {
            set_reg(ctx.cpu, reg, v);
        }
    } else {
        let (seg, mut off) = ctx.ea(0);
        if ctx.insn.op_kind(1) == OpKind::Register {
            let words = (sext(index, size) as i64) >> bits(size).trailing_zeros();
            off = off.wrapping_add((words as u64).wrapping_mul(u64::from(size)));
            off &= mask(ctx.address_size());
        }
        if op == M::Bt {
            old = ctx.read_mem(seg, off, size)?;
        } else {
            let locked = ctx.insn.has_lock_prefix();
            ctx.modify_mem(seg, off, size, locked, &mut f)?;
        }
    }
    ctx.set_flags(CF, bit(old & b != 0, CF));
    Ok(Handled::Next)
}

/// BSF, BSR, LZCNT, TZCNT, POPCNT. Where LZCNT or TZCNT is not offered its
/// prefix is ignored and it is BSR or BSF.
pub(super) fn scan<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let size = ctx.op_size(0);
    let op = match ctx.insn.mnemonic() {
        M::Lzcnt if !ctx.env.has_feature(CpuidFeature::LZCNT) => M::Bsr,
        M::Tzcnt if !ctx.env.has_feature(CpuidFeature::BMI1) => M::Bsf,
        M::Popcnt => {
            ctx.require_features()?;
            M::Popcnt
        }
        m => m,
    };
    let v = ctx.read_op(1)?;
    let lead = v.leading_zeros().wrapping_sub(64 - bits(size));
    let trail = v.trailing_zeros().min(bits(size));
    let (r, f) = match op {
        M::Popcnt => (v.count_ones(), bit(v == 0, ZF)),
        M::Lzcnt => (lead, bit(v == 0, CF) | bit(lead == 0, ZF)),
        M::Tzcnt => (trail, bit(v == 0, CF) | bit(trail == 0, ZF)),
        // The destination is left alone, even its upper half.
        _ if v == 0 => {
            ctx.set_flags(ARITH, ZF | PF);
            return Ok(Handled::Next);
        }
        M::Bsr => (bits(size) - 1 - lead, 0),
        _ => (trail, 0),
    };
    let parity = matches!(op, M::Bsr | M::Bsf) && r.count_ones() & 1 == 0;
    ctx.write_op(0, u64::from(r))?;
    ctx.set_flags(ARITH, f | bit(parity, PF));
    Ok(Handled::Next)
}

/// PDEP: spreads the low bits of `v` over the set bits of `m`.
fn deposit(mut v: u64, mut m: u64) -> u64 {
    let mut r = 0;
    while m != 0 {
        let low = m & m.wrapping_neg();
        if v & 1 != 0 {
            r |= low;
        }
        v >>= 1;
        m ^= low;
    }
    r
}

/// PEXT: gathers the bits of `v` under the set bits of `m`.
fn extract(v: u64, mut m: u64) -> u64 {
    let (mut r, mut at) = (0, 0);
    while m != 0 {
        let low = m & m.wrapping_neg();
        r |= bit(v & low != 0, 1 << at);
        at += 1;
        m ^= low;
    }
    r
}

/// BEXTR of `v` with start in bits 7:0 and length in bits 15:8 of `control`.
const fn field(v: u64, control: u64) -> u64 {
    let (start, len) = (control & 0xff, (control >> 8) & 0xff);
    let v = if start < 64 { v >> start } else { 0 };
    if len < 64 { v & ((1 << len) - 1) } else { v }
}

/// ANDN, BEXTR, BLSI, BLSMSK, BLSR, BZHI, PDEP, PEXT.
pub(super) fn bmi<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    ctx.require_features()?;
    let size = ctx.op_size(0);
    let n = u64::from(bits(size));
    let op = ctx.insn.mnemonic();
    let a = ctx.read_op(1)?;
    let b = if ctx.insn.op_count() == 3 {
        ctx.read_op(2)?
    } else {
        0
    };
    let low_index = b & 0xff;
    let (r, cf) = match op {
        M::Andn => (!a & b & mask(size), false),
        M::Bextr => (field(a, b), false),
        M::Blsi => (a & a.wrapping_neg(), a != 0),
        M::Blsmsk => ((a ^ a.wrapping_sub(1)) & mask(size), a == 0),
        M::Blsr => (a & a.wrapping_sub(1), a == 0),
        M::Bzhi if low_index < n => (a & ((1 << low_index) - 1), false),
        M::Bzhi => (a, true),
        M::Pdep => (deposit(a, b), false),
        _ => (extract(a, b), false),
    };
    ctx.write_op(0, r)?;
    if matches!(op, M::Pdep | M::Pext) {
        return Ok(Handled::Next);
    }
    // SF of BEXTR is undefined and measured as 0; BLSMSK never sets ZF.
    let sf = op != M::Bextr && top(r, size) != 0;
    let f = bit(cf, CF) | (szp(r, size) & ZF) | bit(sf, SF);
    ctx.set_flags(CF | ZF | SF | OF | AF | PF, f);
    Ok(Handled::Next)
}

/// CRC32: the Castagnoli polynomial, bit-reflected (SDM vol 2, CRC32).
pub(super) fn crc32<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    ctx.require_features()?;
    let size = ctx.op_size(1);
    let data = ctx.read_op(1)?;
    let mut crc = get_reg(ctx.cpu, ctx.insn.op0_register()) as u32;
    for i in 0..size {
        crc ^= (data >> (i * 8)) as u32 & 0xff;
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 != 0 { 0x82f6_3b78 } else { 0 };
        }
    }
    ctx.write_op(0, u64::from(crc))?;
    Ok(Handled::Next)
}
