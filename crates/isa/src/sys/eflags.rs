//! CLI, STI, PUSHF, POPF, CLAC, STAC (SDM vol 2), with VME and PVI (SDM vol
//! 3, 20.3 and 20.4).

use super::deliver::vme_image;
use crate::operand::{Ctx, Handled};
use crate::{Env, MmuEvent, Stop};
use iced_x86::CpuidFeature;
use x86::{CpuState, Exception, Shadow, cr0, cr4, flags};

/// Which flag an interrupt-flag instruction changes.
enum Flag {
    Real,
    Virtual,
}

fn iopl(cpu: &CpuState) -> u8 {
    ((cpu.rflags & flags::IOPL) >> flags::IOPL_SHIFT) as u8
}

fn interrupt_flag(cpu: &CpuState) -> Result<Flag, Stop> {
    if cpu.cr0 & cr0::PE == 0 {
        return Ok(Flag::Real);
    }
    let vm86 = cpu.rflags & flags::VM != 0;
    let allowed = if vm86 {
        iopl(cpu) == 3
    } else {
        cpu.cpl() <= iopl(cpu)
    };
    let extended = if vm86 { cr4::VME } else { cr4::PVI };
    if allowed {
        Ok(Flag::Real)
    } else if cpu.cr4 & extended != 0 && cpu.cpl() == 3 {
        Ok(Flag::Virtual)
    } else {
        Err(Exception::GP0.into())
    }
}

/// CLI.
pub(super) fn cli<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    match interrupt_flag(ctx.cpu)? {
        Flag::Real => ctx.cpu.rflags &= !flags::IF,
        Flag::Virtual => ctx.cpu.rflags &= !flags::VIF,
    }
    Ok(Handled::Next)
}

/// STI: interrupts wait for one more instruction if IF was clear.
pub(super) fn sti<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    match interrupt_flag(ctx.cpu)? {
        Flag::Real => {
            if ctx.cpu.rflags & flags::IF == 0 {
                ctx.cpu.events.shadow = Shadow::Sti;
            }
            ctx.cpu.rflags |= flags::IF;
        }
        Flag::Virtual if ctx.cpu.rflags & flags::VIP != 0 => return Err(Exception::GP0.into()),
        Flag::Virtual => ctx.cpu.rflags |= flags::VIF,
    }
    Ok(Handled::Next)
}

/// PUSHF with operand size `size`.
pub(super) fn pushf<E: Env>(ctx: &mut Ctx<'_, E>, size: u32) -> Result<Handled, Stop> {
    let mut image = ctx.cpu.rflags & !(flags::VM | flags::RF);
    if ctx.cpu.rflags & flags::VM != 0 && iopl(ctx.cpu) < 3 {
        if ctx.cpu.cr4 & cr4::VME == 0 || size != 2 {
            return Err(Exception::GP0.into());
        }
        image = vme_image(image);
    }
    ctx.push(image, size)?;
    Ok(Handled::Next)
}

/// POPF with operand size `size`.
pub(super) fn popf<E: Env>(ctx: &mut Ctx<'_, E>, size: u32) -> Result<Handled, Stop> {
    let image = ctx.peek(0, size)?;
    let cpu = &*ctx.cpu;
    let vm86 = cpu.rflags & flags::VM != 0;
    let mut writable = flags::ARITH | flags::TF | flags::DF | flags::NT;
    if size > 2 {
        writable |= flags::AC | flags::ID;
    }
    let mut vif = cpu.rflags & flags::VIF;
    if vm86 && iopl(cpu) < 3 {
        vif = popf_vme(cpu, image, size)?;
    } else {
        if cpu.cr0 & cr0::PE == 0 || vm86 || cpu.cpl() <= iopl(cpu) {
            writable |= flags::IF;
        }
        if !vm86 && cpu.cpl() == 0 {
            writable |= flags::IOPL;
        }
    }
    ctx.pop(size)?;
    let kept = ctx.cpu.rflags & !(writable | flags::RF | flags::VIF);
    ctx.cpu.rflags = kept | (image & writable) | vif | flags::FIXED1;
    ctx.env.mmu(ctx.cpu, MmuEvent::Mode);
    Ok(Handled::Next)
}

/// POPF in virtual-8086 mode with VME: IF goes to VIF. Returns the new VIF.
fn popf_vme(cpu: &CpuState, image: u64, size: u32) -> Result<u64, Stop> {
    let sets_if = image & flags::IF != 0;
    let refused = cpu.cr4 & cr4::VME == 0
        || size != 2
        || image & flags::TF != 0
        || (sets_if && cpu.rflags & flags::VIP != 0);
    if refused {
        return Err(Exception::GP0.into());
    }
    Ok(if sets_if { flags::VIF } else { 0 })
}

/// CLAC (`on` false), STAC.
pub(super) fn set_ac<E: Env>(ctx: &mut Ctx<'_, E>, on: bool) -> Result<Handled, Stop> {
    if !ctx.env.has_feature(CpuidFeature::SMAP) || ctx.cpu.cpl() != 0 {
        return Err(Exception::UD.into());
    }
    if on {
        ctx.cpu.rflags |= flags::AC;
    } else {
        ctx.cpu.rflags &= !flags::AC;
    }
    ctx.env.mmu(ctx.cpu, MmuEvent::Mode);
    Ok(Handled::Next)
}
