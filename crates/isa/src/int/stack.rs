//! PUSH, POP, PUSHA, POPA, ENTER, LEAVE (SDM vol 1, chapter 6).

use crate::env::{Access, Env, Stop};
use crate::operand::{Ctx, Handled, get_reg, mask, set_gpr};
use iced_x86::{Code, Mnemonic as M, OpKind};
use x86::{Seg, gpr};

/// Bytes that a push or pop moves the stack pointer by.
fn width<E: Env>(ctx: &Ctx<E>) -> u32 {
    ctx.insn.stack_pointer_increment().unsigned_abs()
}

/// PUSH. A selector pushed with a 32-bit operand size writes only two bytes,
/// as processors do (SDM vol 2, PUSH).
fn push<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let size = width(ctx);
    let v = ctx.read_op(0)?;
    let selector =
        ctx.insn.op_kind(0) == OpKind::Register && ctx.insn.op0_register().is_segment_register();
    if selector && size == 4 {
        let sp = ctx.sp().wrapping_sub(4) & mask(ctx.stack_size());
        ctx.write_mem(Seg::Ss, sp, 2, v)?;
        ctx.set_sp(sp);
    } else {
        ctx.push(v, size)?;
    }
    Ok(Handled::Next)
}

/// POP to a general register or memory. A memory address based on rSP uses the
/// value after the increment; POP SP loses the increment (SDM vol 2, POP).
fn pop<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let size = width(ctx);
    let before = ctx.cpu.gpr[gpr::RSP];
    let v = ctx.pop(size)?;
    let done = ctx.write_op(0, v);
    if done.is_err() {
        ctx.cpu.gpr[gpr::RSP] = before;
    }
    done.map(|()| Handled::Next)
}

/// PUSHA and PUSHAD: AX, CX, DX, BX, the original SP, BP, SI, DI.
fn push_all<E: Env>(ctx: &mut Ctx<E>, size: u32) -> Result<Handled, Stop> {
    let stack = mask(ctx.stack_size());
    let mut sp = ctx.sp();
    for n in 0..8 {
        sp = sp.wrapping_sub(u64::from(size)) & stack;
        let v = ctx.cpu.gpr[n];
        ctx.write_mem(Seg::Ss, sp, size, v)?;
    }
    ctx.set_sp(sp);
    Ok(Handled::Next)
}

/// POPA and POPAD; the saved SP is skipped.
fn pop_all<E: Env>(ctx: &mut Ctx<E>, size: u32) -> Result<Handled, Stop> {
    let mut v = [0; 8];
    for (i, slot) in v.iter_mut().enumerate() {
        *slot = ctx.peek(i as u64 * u64::from(size), size)?;
    }
    for (i, &x) in v.iter().enumerate() {
        let n = 7 - i;
        if n != gpr::RSP {
            set_gpr(ctx.cpu, n, size, x);
        }
    }
    ctx.set_sp(ctx.sp().wrapping_add(8 * u64::from(size)));
    Ok(Handled::Next)
}

/// Operand size in bytes of ENTER and LEAVE.
fn frame_size(code: Code) -> u32 {
    match code {
        Code::Enterw_imm16_imm8 | Code::Leavew => 2,
        Code::Enterd_imm16_imm8 | Code::Leaved => 4,
        _ => 8,
    }
}

/// ENTER: a frame with up to 31 copied outer frame pointers (SDM vol 1, 6.6.1).
fn enter<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let size = frame_size(ctx.insn.code());
    let step = u64::from(size);
    let stack = mask(ctx.stack_size());
    let alloc = u64::from(ctx.insn.immediate16());
    let level = ctx.insn.immediate8_2nd() & 31;
    let mut sp = ctx.sp().wrapping_sub(step) & stack;
    let mut bp = ctx.cpu.gpr[gpr::RBP];
    ctx.write_mem(Seg::Ss, sp, size, bp)?;
    let frame = sp;
    for _ in 1..level {
        bp = bp.wrapping_sub(step);
        let outer = ctx.read_mem(Seg::Ss, bp & stack, size)?;
        sp = sp.wrapping_sub(step) & stack;
        ctx.write_mem(Seg::Ss, sp, size, outer)?;
    }
    if level > 0 {
        sp = sp.wrapping_sub(step) & stack;
        ctx.write_mem(Seg::Ss, sp, size, frame)?;
    }
    sp = sp.wrapping_sub(alloc) & stack;
    // A write at the final stack pointer must be possible (SDM vol 2, ENTER).
    let la = ctx.linear(Seg::Ss, sp, 1, Access::Write)?;
    ctx.env.probe(ctx.cpu, la, 1, Access::Write)?;
    set_gpr(ctx.cpu, gpr::RBP, size, frame);
    ctx.set_sp(sp);
    Ok(Handled::Next)
}

/// LEAVE.
fn leave<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let size = frame_size(ctx.insn.code());
    let bp = ctx.cpu.gpr[gpr::RBP] & mask(ctx.stack_size());
    let v = ctx.read_mem(Seg::Ss, bp, size)?;
    ctx.set_sp(bp.wrapping_add(u64::from(size)));
    set_gpr(ctx.cpu, gpr::RBP, size, v);
    Ok(Handled::Next)
}

/// Every stack instruction that is not a branch and loads no segment.
pub(super) fn run<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    match ctx.insn.mnemonic() {
        M::Push => push(ctx),
        M::Pop => pop(ctx),
        M::Pusha => push_all(ctx, 2),
        M::Pushad => push_all(ctx, 4),
        M::Popa => pop_all(ctx, 2),
        M::Popad => pop_all(ctx, 4),
        M::Enter => enter(ctx),
        M::Leave => leave(ctx),
        _ => Ok(Handled::No),
    }
}

/// LAHF and SAHF move SF, ZF, AF, PF, CF through AH.
pub(super) fn flags_byte<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    use iced_x86::Register::AH;
    use x86::flags::{AF, CF, FIXED1, PF, SF, ZF};
    const BYTE: u64 = SF | ZF | AF | PF | CF;
    if ctx.insn.mnemonic() == M::Sahf {
        let v = get_reg(ctx.cpu, AH);
        ctx.set_flags(BYTE, v);
    } else {
        let v = (ctx.cpu.rflags & BYTE) | FIXED1;
        crate::operand::set_reg(ctx.cpu, AH, v);
    }
    Ok(Handled::Next)
}
