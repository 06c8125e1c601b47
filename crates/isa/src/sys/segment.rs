//! MOV, POP and LDS-family loads of segment registers and the FS/GS base
//! instructions (SDM vol 2).

use super::control::privileged;
use super::{load, tables, transfer};
use crate::operand::{Ctx, Handled, reg_size, seg_of, set_gpr, set_reg};
use crate::{Env, Stop};
use x86::{Exception, Seg, Shadow, canonical48, cr4, gpr};

/// Loads `s`; SS starts the interrupt shadow if `shadow`.
fn set<E: Env>(ctx: &mut Ctx<'_, E>, s: Seg, selector: u16, shadow: bool) -> Result<(), Stop> {
    let seg = load::data(ctx.cpu, ctx.env, s, selector)?;
    *ctx.cpu.seg_mut(s) = seg;
    if s == Seg::Ss && shadow {
        ctx.cpu.events.shadow = Shadow::MovSs;
    }
    tables::changed(ctx);
    Ok(())
}

/// MOV Sreg, r/m16.
pub(super) fn load_mov<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    let s = seg_of(ctx.insn.op0_register());
    if s == Seg::Cs {
        return Err(Exception::UD.into());
    }
    let selector = if ctx.is_mem(1) {
        let (seg, ea) = ctx.ea(1);
        ctx.read_mem(seg, ea, 2)?
    } else {
        ctx.read_op(1)?
    };
    set(ctx, s, selector as u16, true)?;
    Ok(Handled::Next)
}

/// POP Sreg with operand size `size`.
pub(super) fn pop<E: Env>(ctx: &mut Ctx<'_, E>, size: u32) -> Result<Handled, Stop> {
    let s = seg_of(ctx.insn.op0_register());
    let selector = ctx.peek(0, size)? as u16;
    let sp = ctx.sp().wrapping_add(u64::from(size));
    let width = ctx.stack_size();
    set(ctx, s, selector, true)?;
    // The stack pointer moves with the width the pop began with.
    set_gpr(ctx.cpu, gpr::RSP, width, sp);
    Ok(Handled::Next)
}

/// LDS, LES, LFS, LGS, LSS.
pub(super) fn load_pointer<E: Env>(ctx: &mut Ctx<'_, E>, s: Seg) -> Result<Handled, Stop> {
    let r = ctx.insn.op0_register();
    let (offset, selector) = transfer::pointer_at(ctx, 1, reg_size(r))?;
    set(ctx, s, selector, false)?;
    set_reg(ctx.cpu, r, offset);
    Ok(Handled::Next)
}

fn base_usable<E: Env>(ctx: &Ctx<'_, E>) -> Result<(), Stop> {
    if !ctx.long || ctx.cpu.cr4 & cr4::FSGSBASE == 0 {
        return Err(Exception::UD.into());
    }
    Ok(())
}

/// RDFSBASE, RDGSBASE.
pub(super) fn read_base<E: Env>(ctx: &mut Ctx<'_, E>, s: Seg) -> Result<Handled, Stop> {
    base_usable(ctx)?;
    let base = ctx.cpu.seg(s).base;
    set_reg(ctx.cpu, ctx.insn.op0_register(), base);
    Ok(Handled::Next)
}

/// WRFSBASE, WRGSBASE.
pub(super) fn write_base<E: Env>(ctx: &mut Ctx<'_, E>, s: Seg) -> Result<Handled, Stop> {
    base_usable(ctx)?;
    let base = ctx.read_op(0)?;
    if !canonical48(base) {
        return Err(Exception::GP0.into());
    }
    ctx.cpu.seg_mut(s).base = base;
    tables::changed(ctx);
    Ok(Handled::Next)
}

/// SWAPGS.
pub(super) fn swapgs<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    if !ctx.long {
        return Err(Exception::UD.into());
    }
    privileged(ctx.cpu)?;
    let cpu = &mut *ctx.cpu;
    std::mem::swap(
        &mut cpu.seg[Seg::Gs as usize].base,
        &mut cpu.msr.kernel_gs_base,
    );
    tables::changed(ctx);
    Ok(Handled::Next)
}
