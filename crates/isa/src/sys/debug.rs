//! Debug registers: MOV DR and instruction breakpoints (SDM vol 3, 17.2, 17.3).

use super::control::privileged;
use crate::operand::{Ctx, Handled, get_reg, set_reg};
use crate::{Env, MmuEvent, Stop};
use iced_x86::Register;
use x86::{CpuState, Exception, cr4, dr};

/// DR6 bits software may clear and set.
const DR6_WRITABLE: u64 = 0xe00f;
/// DR7 bits software may set.
const DR7_WRITABLE: u64 = 0xffff_23ff;

/// The register's number with the DR4/DR5 aliases resolved, after the checks
/// common to reads and writes.
fn select(cpu: &CpuState, r: Register) -> Result<usize, Stop> {
    let n = match (r as usize).wrapping_sub(Register::DR0 as usize) {
        n @ 0..=3 | n @ 6..=7 => n,
        n @ 4..=5 if cpu.cr4 & cr4::DE == 0 => n + 2,
        _ => return Err(Exception::UD.into()),
    };
    privileged(cpu)?;
    if cpu.dr[7] & dr::DR7_GD != 0 {
        return Err(Exception::db(dr::DR6_BD).into());
    }
    Ok(n)
}

/// MOV r, DRn.
pub(super) fn read<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    let n = select(ctx.cpu, ctx.insn.op1_register())?;
    let value = ctx.cpu.dr[n];
    set_reg(ctx.cpu, ctx.insn.op0_register(), value);
    Ok(Handled::Next)
}

/// MOV DRn, r.
pub(super) fn write<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    let n = select(ctx.cpu, ctx.insn.op0_register())?;
    let value = get_reg(ctx.cpu, ctx.insn.op1_register());
    if n >= 6 && value >> 32 != 0 {
        return Err(Exception::GP0.into());
    }
    ctx.cpu.dr[n] = match n {
        6 => dr::DR6_FIXED1 | (value & DR6_WRITABLE),
        7 => dr::DR7_FIXED1 | (value & DR7_WRITABLE),
        _ => value,
    };
    ctx.env.mmu(ctx.cpu, MmuEvent::Mode);
    Ok(Handled::Next)
}

/// DR6 bits of the enabled instruction breakpoints at linear address `la`.
pub(crate) fn instruction_hits(cpu: &CpuState, la: u64) -> u64 {
    let dr7 = cpu.dr[7];
    (0..4)
        .filter(|&i| {
            let enabled = dr7 >> (2 * i) & 3 != 0;
            let execute = dr7 >> (16 + 4 * i) & 3 == 0;
            enabled && execute && cpu.dr[i] == la
        })
        .fold(0, |hits, i| hits | 1 << i)
}
