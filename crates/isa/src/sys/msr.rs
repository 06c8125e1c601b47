//! RDMSR and WRMSR of the registers that live in [`CpuState`] (SDM vol 4);
//! the others belong to the environment.

use super::control::{phys_bits, privileged};
use crate::operand::{Ctx, Handled};
use crate::{Counted, Env, MmuEvent, Stop};
use x86::{CpuState, Exception, Seg, canonical48, cr0, efer, gpr, msr};

/// RDMSR.
pub(super) fn rdmsr<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    privileged(ctx.cpu)?;
    let index = ctx.cpu.gpr[gpr::RCX] as u32;
    let value = match read_plain(ctx.cpu, index) {
        Some(value) => value,
        None => ctx.env.rdmsr(ctx.cpu, index)?,
    };
    ctx.cpu.gpr[gpr::RAX] = value & 0xffff_ffff;
    ctx.cpu.gpr[gpr::RDX] = value >> 32;
    Ok(Handled::Next)
}

/// WRMSR.
pub(super) fn wrmsr<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    privileged(ctx.cpu)?;
    let index = ctx.cpu.gpr[gpr::RCX] as u32;
    let value = super::xstate::edx_eax(ctx.cpu);
    if !write_plain(ctx.cpu, ctx.env, index, value)? {
        ctx.env.wrmsr(ctx.cpu, index, value)?;
    }
    Ok(Handled::Next)
}

/// Position of a fixed-range MTRR in [`x86::Msrs::mtrr_fixed`].
fn fixed_mtrr(index: u32) -> Option<usize> {
    match index {
        msr::MTRR_FIX_64K_00000 => Some(0),
        msr::MTRR_FIX_16K_80000 => Some(1),
        msr::MTRR_FIX_16K_A0000 => Some(2),
        0x268..=0x26f => Some((index - msr::MTRR_FIX_4K_C0000) as usize + 3),
        _ => None,
    }
}

/// Position of a variable-range MTRR in [`x86::Msrs::mtrr_var`].
fn variable_mtrr(index: u32) -> Option<usize> {
    let n = index.wrapping_sub(msr::MTRR_PHYS_BASE0);
    (n < 16).then_some(n as usize)
}

/// An MSR that is plain storage without checks beyond `Rule`.
fn storage(cpu: &mut CpuState, index: u32) -> Option<(&mut u64, Rule)> {
    let m = &mut cpu.msr;
    Some(match index {
        msr::STAR => (&mut m.star, Rule::Any),
        msr::LSTAR => (&mut m.lstar, Rule::Canonical),
        msr::CSTAR => (&mut m.cstar, Rule::Canonical),
        msr::SFMASK => (&mut m.sfmask, Rule::Low32),
        msr::KERNEL_GS_BASE => (&mut m.kernel_gs_base, Rule::Canonical),
        msr::SYSENTER_CS => (&mut m.sysenter_cs, Rule::Any),
        msr::SYSENTER_ESP => (&mut m.sysenter_esp, Rule::Canonical),
        msr::SYSENTER_EIP => (&mut m.sysenter_eip, Rule::Canonical),
        msr::TSC_AUX => (&mut m.tsc_aux, Rule::Low32),
        msr::PAT => (&mut m.pat, Rule::MemoryTypes),
        msr::MTRR_DEF_TYPE => (&mut m.mtrr_def_type, Rule::MtrrDefault),
        _ => {
            if let Some(n) = fixed_mtrr(index) {
                (&mut m.mtrr_fixed[n], Rule::MtrrFixed)
            } else {
                let n = variable_mtrr(index)?;
                (&mut m.mtrr_var[n], Rule::MtrrVariable(n % 2 == 0))
            }
        }
    })
}

/// What a value must satisfy; otherwise #GP(0).
enum Rule {
    Any,
    Canonical,
    /// Bits 63:32 are reserved.
    Low32,
    /// Eight PAT memory types.
    MemoryTypes,
    /// Eight MTRR memory types.
    MtrrFixed,
    MtrrDefault,
    /// PHYSBASE (true) or PHYSMASK.
    MtrrVariable(bool),
}

/// Memory types an MTRR may name: UC, WC, WT, WP, WB (SDM vol 3, table 11-8).
const fn mtrr_type(t: u8) -> bool {
    matches!(t, 0 | 1 | 4 | 5 | 6)
}

fn accepts(rule: &Rule, value: u64, phys_bits: u32) -> bool {
    match rule {
        Rule::Any => true,
        Rule::Canonical => canonical48(value),
        Rule::Low32 => value >> 32 == 0,
        Rule::MemoryTypes => value.to_le_bytes().iter().all(|&t| mtrr_type(t) || t == 7),
        Rule::MtrrFixed => value.to_le_bytes().iter().all(|&t| mtrr_type(t)),
        Rule::MtrrDefault => value & !0xcff == 0 && mtrr_type(value as u8),
        Rule::MtrrVariable(base) => {
            let low = if *base { 0xf00 } else { 0x7ff };
            value >> phys_bits == 0 && value & low == 0 && (!base || mtrr_type(value as u8))
        }
    }
}

/// Value of an MSR that is a field of [`CpuState`]; `None` for those of the
/// environment.
pub fn read_plain(cpu: &CpuState, index: u32) -> Option<u64> {
    let m = &cpu.msr;
    Some(match index {
        msr::EFER => cpu.efer,
        msr::FS_BASE => cpu.seg(Seg::Fs).base,
        msr::GS_BASE => cpu.seg(Seg::Gs).base,
        msr::STAR => m.star,
        msr::LSTAR => m.lstar,
        msr::CSTAR => m.cstar,
        msr::SFMASK => m.sfmask,
        msr::KERNEL_GS_BASE => m.kernel_gs_base,
        msr::SYSENTER_CS => m.sysenter_cs,
        msr::SYSENTER_ESP => m.sysenter_esp,
        msr::SYSENTER_EIP => m.sysenter_eip,
        msr::TSC_AUX => m.tsc_aux,
        msr::PAT => m.pat,
        msr::MTRR_DEF_TYPE => m.mtrr_def_type,
        _ => match fixed_mtrr(index) {
            Some(n) => m.mtrr_fixed[n],
            None => m.mtrr_var[variable_mtrr(index)?],
        },
    })
}

/// Writes such an MSR with the guest's checks; `Ok(false)` if it is not one.
///
/// # Errors
/// #GP(0) for a value the MSR refuses.
pub fn write_plain<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    index: u32,
    value: u64,
) -> Result<bool, Stop> {
    match index {
        msr::EFER => set_efer(cpu, env, value)?,
        msr::FS_BASE | msr::GS_BASE => {
            if !canonical48(value) {
                return Err(Exception::GP0.into());
            }
            let s = if index == msr::FS_BASE {
                Seg::Fs
            } else {
                Seg::Gs
            };
            cpu.seg_mut(s).base = value;
        }
        _ => {
            let phys = match variable_mtrr(index) {
                Some(_) => phys_bits(cpu, env),
                None => 52,
            };
            let Some((slot, rule)) = storage(cpu, index) else {
                return Ok(false);
            };
            if !accepts(&rule, value, phys) {
                return Err(Exception::GP0.into());
            }
            *slot = value;
        }
    }
    Ok(true)
}

/// Sets EFER: LMA is read-only, LME is fixed while paging is on (SDM vol 3,
/// 2.2.1 and 9.8.5).
fn set_efer<E: Env>(cpu: &mut CpuState, env: &mut E, value: u64) -> Result<(), Stop> {
    let extended = env.cpuid(cpu, 0x8000_0001, 0)[3];
    let mut offered = efer::LMA;
    for (bit, flag) in [(11, efer::SCE), (20, efer::NXE), (29, efer::LME)] {
        if extended >> bit & 1 != 0 {
            offered |= flag;
        }
    }
    let old = cpu.efer;
    let paging = cpu.cr0 & cr0::PG != 0;
    if value & !offered != 0 || (paging && (old ^ value) & efer::LME != 0) {
        return Err(Exception::GP0.into());
    }
    cpu.efer = (value & !efer::LMA) | (old & efer::LMA);
    if cpu.efer != old {
        env.count(Counted::EferReload);
    }
    if (cpu.efer ^ old) & efer::NXE != 0 {
        env.mmu(cpu, MmuEvent::FlushAll);
    }
    env.mmu(cpu, MmuEvent::Mode);
    Ok(())
}
