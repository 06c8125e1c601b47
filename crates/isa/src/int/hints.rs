//! Flag bits, hints, fences and random numbers.

use super::flags::bit;
use crate::env::{Access, Env, Stop};
use crate::operand::{Ctx, Handled, set_gpr};
use iced_x86::Mnemonic as M;
use x86::flags::{CF, DF};
use x86::gpr;

/// CLC, STC, CMC, CLD, STD, SALC.
pub(super) fn flag<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    match ctx.insn.mnemonic() {
        M::Clc => ctx.set_flags(CF, 0),
        M::Stc => ctx.set_flags(CF, CF),
        M::Cmc => ctx.set_flags(CF, !ctx.cpu.rflags),
        M::Cld => ctx.set_flags(DF, 0),
        M::Std => ctx.set_flags(DF, DF),
        _ => {
            let al = bit(ctx.carry() != 0, 0xff);
            set_gpr(ctx.cpu, gpr::RAX, 1, al);
        }
    }
    Ok(Handled::Next)
}

/// Cache-line flushes: checked like a byte read (SDM vol 2, CLFLUSH), without
/// effect on coherent memory.
pub(super) fn flush_line<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    ctx.require_features()?;
    let (seg, off) = ctx.ea(0);
    let la = ctx.linear(seg, off, 1, Access::Read)?;
    ctx.env.probe(ctx.cpu, la, 1, Access::Read)?;
    Ok(Handled::Next)
}

/// LFENCE, MFENCE, SFENCE: a host fence is stronger than anything the
/// interpreter reorders.
pub(super) fn fence<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    ctx.require_features()?;
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    Ok(Handled::Next)
}

/// RDRAND and RDSEED run on the host.
pub(super) fn random<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    ctx.require_features()?;
    ctx.env.native(ctx.cpu, ctx.insn, &mut [])?;
    Ok(Handled::Next)
}
