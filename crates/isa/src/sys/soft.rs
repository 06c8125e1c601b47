//! INT n, INT3, INTO, INT1 (SDM vol 2, INT n; vol 3, 20.3.3 for VME).

use super::deliver::{self, Event, deliver};
use super::descriptor::linear;
use crate::operand::{Ctx, Handled};
use crate::{Access, Env, Stop};
use x86::{Exception, Seg, cr4, flags, vector};

/// INT n. In virtual-8086 mode IOPL must be 3 unless VME redirects it.
pub(super) fn int<E: Env>(ctx: &mut Ctx<'_, E>, n: u8) -> Result<Handled, Stop> {
    let event = Event::SoftInt {
        vector: n,
        next_rip: ctx.next_rip(),
    };
    let rflags = ctx.cpu.rflags;
    if rflags & flags::VM != 0 {
        if redirected(ctx, n)? {
            let la = u64::from(n) * 4;
            let target = ctx.env.load(ctx.cpu, la, 4, Access::Read)?;
            deliver::enter_real(ctx.cpu, ctx.env, &event, target)?;
            return Ok(Handled::Jump);
        }
        if rflags & flags::IOPL != flags::IOPL {
            return Err(Exception::GP0.into());
        }
    }
    deliver(ctx.cpu, ctx.env, event)?;
    Ok(Handled::Jump)
}

/// True if VME's redirection bitmap (the 32 bytes below the I/O bitmap) sends
/// vector `n` to the virtual-8086 program itself: its bit is clear.
fn redirected<E: Env>(ctx: &mut Ctx<'_, E>, n: u8) -> Result<bool, Stop> {
    if ctx.cpu.cr4 & cr4::VME == 0 {
        return Ok(false);
    }
    let tr = *ctx.cpu.seg(Seg::Tr);
    let field = linear(ctx.cpu, tr.base.wrapping_add(0x66));
    let map = ctx.env.load(ctx.cpu, field, 2, Access::SystemRead)?;
    let offset = map.wrapping_sub(32).wrapping_add(u64::from(n) / 8);
    if offset > u64::from(tr.limit) {
        return Err(Exception::GP0.into());
    }
    let la = linear(ctx.cpu, tr.base.wrapping_add(offset));
    let byte = ctx.env.load(ctx.cpu, la, 1, Access::SystemRead)?;
    Ok(byte >> (n % 8) & 1 == 0)
}

/// INT3: no IOPL check in virtual-8086 mode.
pub(super) fn trap<E: Env>(ctx: &mut Ctx<'_, E>, vector: u8) -> Result<Handled, Stop> {
    let next_rip = ctx.next_rip();
    deliver(ctx.cpu, ctx.env, Event::SoftInt { vector, next_rip })?;
    Ok(Handled::Jump)
}

/// INTO.
pub(super) fn into<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    if ctx.cpu.rflags & flags::OF == 0 {
        return Ok(Handled::Next);
    }
    trap(ctx, vector::OF)
}

/// INT1.
pub(super) fn icebp<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    let next_rip = ctx.next_rip();
    deliver(ctx.cpu, ctx.env, Event::Icebp { next_rip })?;
    Ok(Handled::Jump)
}
