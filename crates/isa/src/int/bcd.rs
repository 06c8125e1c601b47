//! Decimal adjustment (SDM vol 2: AAA, AAD, AAM, AAS, DAA, DAS).

use super::flags::{bit, szp};
use crate::env::{Env, Stop};
use crate::operand::{Ctx, Handled, set_gpr};
use iced_x86::Mnemonic as M;
use x86::flags::{AF, ARITH, CF};
use x86::{Exception, gpr};

/// DAA or DAS of `al`: the result and all flags.
pub(super) fn decimal(subtract: bool, al: u8, flags: u64) -> (u8, u64) {
    let low = al & 0xf > 9 || flags & AF != 0;
    let high = al > 0x99 || flags & CF != 0;
    let fix = if low { 6 } else { 0 } + if high { 0x60 } else { 0 };
    let r = if subtract {
        al.wrapping_sub(fix)
    } else {
        al.wrapping_add(fix)
    };
    // DAS also keeps the borrow of its first subtraction.
    let cf = high || (subtract && low && al < 6);
    (r, szp(u64::from(r), 1) | bit(low, AF) | bit(cf, CF))
}

/// AAA or AAS of `ax`: the result and AF, CF.
pub(super) fn ascii(subtract: bool, ax: u16, flags: u64) -> (u16, u64) {
    let adjust = ax & 0xf > 9 || flags & AF != 0;
    let fixed = match (adjust, subtract) {
        (false, _) => ax,
        (true, false) => ax.wrapping_add(0x106),
        (true, true) => ax.wrapping_sub(6).wrapping_sub(0x100),
    };
    let f = bit(adjust, AF | CF);
    let r = fixed & 0xff0f;
    (r, f | szp(u64::from(r as u8), 1))
}

/// Every decimal adjustment.
pub(super) fn run<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let ax = ctx.cpu.gpr[gpr::RAX] as u16;
    let flags = ctx.cpu.rflags;
    let (r, f) = match ctx.insn.mnemonic() {
        m @ (M::Daa | M::Das) => {
            let (al, f) = decimal(m == M::Das, ax as u8, flags);
            ((ax & 0xff00) | u16::from(al), f)
        }
        m @ (M::Aaa | M::Aas) => ascii(m == M::Aas, ax, flags),
        M::Aad => {
            let base = ctx.insn.immediate8();
            let al = (ax as u8).wrapping_add(((ax >> 8) as u8).wrapping_mul(base));
            (u16::from(al), szp(u64::from(al), 1))
        }
        _ => {
            let base = ctx.insn.immediate8();
            let al = ax as u8;
            if base == 0 {
                return Err(Exception::DE.into());
            }
            let (q, m) = (al / base, al % base);
            (u16::from(q) << 8 | u16::from(m), szp(u64::from(m), 1))
        }
    };
    set_gpr(ctx.cpu, gpr::RAX, 2, u64::from(r));
    ctx.set_flags(ARITH, f);
    Ok(Handled::Next)
}
