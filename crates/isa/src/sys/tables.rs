//! Descriptor-table registers and the instructions that inspect descriptors
//! (SDM vol 2: LGDT, SGDT, LLDT, LTR, VERR, LAR, LSL, ARPL).

use super::control::{privileged, umip};
use super::descriptor::{self, Descriptor, is_null, kind, rpl};
use super::load;
use crate::operand::{Ctx, Handled, mask, set_reg};
use crate::{Env, MmuEvent, Stop};
use iced_x86::Code;
use x86::{DescTable, Exception, Seg, canonical48, flags};

/// GDTR or IDTR.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    Gdt,
    Idt,
}

/// Bytes of the base field: 8 in 64-bit mode, else 4 (3 used with a 16-bit
/// operand).
fn is_16bit(code: Code) -> bool {
    matches!(code, Code::Lgdt_m1632_16 | Code::Lidt_m1632_16)
}

/// LGDT, LIDT.
pub(super) fn load<E: Env>(ctx: &mut Ctx<'_, E>, table: Table) -> Result<Handled, Stop> {
    privileged(ctx.cpu)?;
    let (seg, ea) = ctx.ea(0);
    let limit = ctx.read_mem(seg, ea, 2)? as u16;
    let at = ea.wrapping_add(2) & mask(ctx.address_size());
    let size = if ctx.long { 8 } else { 4 };
    let mut base = ctx.read_mem(seg, at, size)?;
    if is_16bit(ctx.insn.code()) {
        base &= 0xff_ffff;
    }
    if ctx.long && !canonical48(base) {
        return Err(Exception::GP0.into());
    }
    let value = DescTable { base, limit };
    match table {
        Table::Gdt => ctx.cpu.gdtr = value,
        Table::Idt => ctx.cpu.idtr = value,
    }
    Ok(Handled::Next)
}

/// SGDT, SIDT.
pub(super) fn store<E: Env>(ctx: &mut Ctx<'_, E>, table: Table) -> Result<Handled, Stop> {
    umip(ctx.cpu)?;
    let value = match table {
        Table::Gdt => ctx.cpu.gdtr,
        Table::Idt => ctx.cpu.idtr,
    };
    let mut image = [0u8; 10];
    image[..2].copy_from_slice(&value.limit.to_le_bytes());
    image[2..].copy_from_slice(&value.base.to_le_bytes());
    let len = if ctx.long { 10 } else { 6 };
    let (seg, ea) = ctx.ea(0);
    ctx.write_bytes(seg, ea, &image[..len])?;
    Ok(Handled::Next)
}

/// #UD in real and virtual-8086 mode.
fn protected_only<E: Env>(ctx: &Ctx<'_, E>) -> Result<(), Stop> {
    if ctx.cpu.protected() {
        Ok(())
    } else {
        Err(Exception::UD.into())
    }
}

/// The 16-bit selector operand `i`, whatever its register's width.
fn selector<E: Env>(ctx: &mut Ctx<'_, E>, i: u32) -> Result<u16, Stop> {
    if ctx.is_mem(i) {
        let (seg, ea) = ctx.ea(i);
        return Ok(ctx.read_mem(seg, ea, 2)? as u16);
    }
    Ok(ctx.read_op(i)? as u16)
}

/// LLDT.
pub(super) fn lldt<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    protected_only(ctx)?;
    privileged(ctx.cpu)?;
    let s = selector(ctx, 0)?;
    let seg = load::ldt(ctx.cpu, ctx.env, s)?;
    *ctx.cpu.seg_mut(Seg::Ldtr) = seg;
    Ok(Handled::Next)
}

/// LTR.
pub(super) fn ltr<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    protected_only(ctx)?;
    privileged(ctx.cpu)?;
    let s = selector(ctx, 0)?;
    let seg = load::task_register(ctx.cpu, ctx.env, s)?;
    *ctx.cpu.seg_mut(Seg::Tr) = seg;
    Ok(Handled::Next)
}

/// SLDT, STR: 16 bits to memory, zero-extended to a register.
pub(super) fn store_selector<E: Env>(ctx: &mut Ctx<'_, E>, s: Seg) -> Result<Handled, Stop> {
    protected_only(ctx)?;
    umip(ctx.cpu)?;
    let value = u64::from(ctx.cpu.seg(s).selector);
    if ctx.is_mem(0) {
        let (seg, ea) = ctx.ea(0);
        ctx.write_mem(seg, ea, 2, value)?;
    } else {
        set_reg(ctx.cpu, ctx.insn.op0_register(), value);
    }
    Ok(Handled::Next)
}

/// The descriptor of `selector` if the current privilege level may see it.
fn visible<E: Env>(ctx: &mut Ctx<'_, E>, selector: u16) -> Result<Option<Descriptor>, Stop> {
    if is_null(selector) {
        return Ok(None);
    }
    let desc = descriptor::find(ctx.cpu, ctx.env, selector)?;
    let cpl = ctx.cpu.cpl();
    Ok(desc.filter(|d| d.is_conforming() || (d.dpl() >= cpl && d.dpl() >= rpl(selector))))
}

fn set_zf<E: Env>(ctx: &mut Ctx<'_, E>, on: bool) {
    let rest = ctx.cpu.rflags & !flags::ZF;
    ctx.cpu.rflags = if on { rest | flags::ZF } else { rest };
}

/// VERR (`write` false), VERW.
pub(super) fn verify<E: Env>(ctx: &mut Ctx<'_, E>, write: bool) -> Result<Handled, Stop> {
    protected_only(ctx)?;
    let s = selector(ctx, 0)?;
    let ok = visible(ctx, s)?.is_some_and(|d| {
        if write {
            d.is_writable_data()
        } else {
            d.is_readable()
        }
    });
    set_zf(ctx, ok);
    Ok(Handled::Next)
}

/// LAR: bits 8..=23 of the second doubleword.
pub(super) fn lar<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    protected_only(ctx)?;
    let s = selector(ctx, 1)?;
    let long = ctx.cpu.long_mode();
    let found = visible(ctx, s)?.filter(|d| {
        !d.is_system()
            || match d.kind() {
                kind::LDT | kind::TSS | kind::TSS_BUSY | kind::CALL_GATE => true,
                kind::TSS16 | kind::TSS16_BUSY | kind::CALL_GATE16 | kind::TASK_GATE => !long,
                _ => false,
            }
    });
    set_zf(ctx, found.is_some());
    if let Some(d) = found {
        ctx.write_op(0, (d.raw >> 32) & 0x00ff_ff00)?;
    }
    Ok(Handled::Next)
}

/// LSL: the limit in bytes.
pub(super) fn lsl<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    protected_only(ctx)?;
    let s = selector(ctx, 1)?;
    let long = ctx.cpu.long_mode();
    let found = visible(ctx, s)?.filter(|d| {
        !d.is_system()
            || match d.kind() {
                kind::LDT | kind::TSS | kind::TSS_BUSY => true,
                kind::TSS16 | kind::TSS16_BUSY => !long,
                _ => false,
            }
    });
    set_zf(ctx, found.is_some());
    if let Some(d) = found {
        ctx.write_op(0, u64::from(d.segment().limit))?;
    }
    Ok(Handled::Next)
}

/// ARPL: raises the RPL of operand 0 to that of operand 1.
pub(super) fn arpl<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    protected_only(ctx)?;
    let floor = ctx.read_op(1)? & 3;
    let mut raised = false;
    ctx.modify_op(0, &mut |old| {
        raised = old & 3 < floor;
        if raised { (old & !3) | floor } else { old }
    })?;
    set_zf(ctx, raised);
    Ok(Handled::Next)
}

/// Tells the MMU that the segment state its key depends on changed.
pub(super) fn changed<E: Env>(ctx: &mut Ctx<'_, E>) {
    ctx.env.mmu(ctx.cpu, MmuEvent::Mode);
}
