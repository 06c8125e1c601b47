//! Control registers: MOV CR, LMSW, SMSW, CLTS, XGETBV, XSETBV (SDM vol 2;
//! vol 3, 2.5).

use super::xstate;
use crate::operand::{Ctx, Handled, get_reg, set_reg};
use crate::{Env, MmuEvent, Stop};
use iced_x86::Register;
use x86::{CpuState, Exception, Seg, cr0, cr4, efer, gpr, xstate as x};

/// CR0 bits that exist; writes to the others are ignored.
const CR0_DEFINED: u64 = cr0::PE
    | cr0::MP
    | cr0::EM
    | cr0::TS
    | cr0::ET
    | cr0::NE
    | cr0::WP
    | cr0::AM
    | cr0::NW
    | cr0::CD
    | cr0::PG;
/// CR0 bits whose change drops cached translations.
const CR0_TRANSLATION: u64 = cr0::PG | cr0::WP | cr0::PE;
/// The same of CR4.
const CR4_TRANSLATION: u64 =
    cr4::PSE | cr4::PAE | cr4::PGE | cr4::PCIDE | cr4::SMEP | cr4::SMAP | cr4::PKE | cr4::LA57;

/// CR0 and CR4 bits whose change loads the PDPTEs of PAE paging (SDM vol 3,
/// 4.4.1).
const CR0_PDPTES: u64 = cr0::PG | cr0::CD | cr0::NW;
const CR4_PDPTES: u64 = cr4::PAE | cr4::PGE | cr4::PSE | cr4::SMEP;

/// CR4 bits and the CPUID bit that offers each: leaf, register, bit.
const CR4_FEATURES: [(u64, u32, usize, u32); 17] = [
    (cr4::VME | cr4::PVI, 1, 3, 1),
    (cr4::DE, 1, 3, 2),
    (cr4::PSE, 1, 3, 3),
    (cr4::TSD, 1, 3, 4),
    (cr4::PAE, 1, 3, 6),
    (cr4::MCE, 1, 3, 7),
    (cr4::PGE, 1, 3, 13),
    (cr4::OSFXSR, 1, 3, 24),
    (cr4::OSXMMEXCPT, 1, 3, 25),
    (cr4::PCIDE, 1, 2, 17),
    (cr4::OSXSAVE, 1, 2, 26),
    (cr4::FSGSBASE, 7, 1, 0),
    (cr4::SMEP, 7, 1, 7),
    (cr4::SMAP, 7, 1, 20),
    (cr4::UMIP, 7, 2, 2),
    (cr4::PKE, 7, 2, 3),
    (cr4::PCE, 0, 0, 0), // always: RDPMC exists without a CPUID bit
];

/// The CR4 bits the guest may set.
fn cr4_offered<E: Env>(cpu: &CpuState, env: &mut E) -> u64 {
    let one = env.cpuid(cpu, 1, 0);
    let seven = env.cpuid(cpu, 7, 0);
    CR4_FEATURES
        .iter()
        .filter(|&&(_, leaf, reg, bit)| match leaf {
            1 => one[reg] >> bit & 1 != 0,
            7 => seven[reg] >> bit & 1 != 0,
            _ => true,
        })
        .fold(0, |all, row| all | row.0)
}

/// #GP(0) outside privilege level 0.
pub(super) fn privileged(cpu: &CpuState) -> Result<(), Stop> {
    if cpu.cpl() != 0 {
        return Err(Exception::GP0.into());
    }
    Ok(())
}

fn gp_if(bad: bool) -> Result<(), Stop> {
    if bad {
        return Err(Exception::GP0.into());
    }
    Ok(())
}

/// The number of a control register, or `None` for one that does not exist.
fn number(r: Register) -> Option<u32> {
    match r {
        Register::CR0 => Some(0),
        Register::CR2 => Some(2),
        Register::CR3 => Some(3),
        Register::CR4 => Some(4),
        Register::CR8 => Some(8),
        _ => None,
    }
}

/// MOV r, CRn.
pub(super) fn read<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    let n = number(ctx.insn.op1_register()).ok_or(Exception::UD)?;
    privileged(ctx.cpu)?;
    let value = match n {
        0 => ctx.cpu.cr0,
        2 => ctx.cpu.cr2,
        3 => ctx.cpu.cr3,
        4 => ctx.cpu.cr4,
        _ => ctx.env.cr8(ctx.cpu),
    };
    set_reg(ctx.cpu, ctx.insn.op0_register(), value);
    Ok(Handled::Next)
}

/// MOV CRn, r.
pub(super) fn write<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    let n = number(ctx.insn.op0_register()).ok_or(Exception::UD)?;
    privileged(ctx.cpu)?;
    let value = get_reg(ctx.cpu, ctx.insn.op1_register());
    let (cpu, env) = (&mut *ctx.cpu, &mut *ctx.env);
    match n {
        0 => set_cr0(cpu, env, value)?,
        2 => cpu.cr2 = value,
        3 => set_cr3(cpu, env, value)?,
        4 => set_cr4(cpu, env, value)?,
        _ => {
            gp_if(value > 15)?;
            env.set_cr8(cpu, value);
        }
    }
    Ok(Handled::Next)
}

/// Sets CR0 with all its checks and EFER.LMA's transitions (SDM vol 2, MOV CR;
/// vol 3, 9.8.5).
pub(super) fn set_cr0<E: Env>(cpu: &mut CpuState, env: &mut E, value: u64) -> Result<(), Stop> {
    gp_if(value >> 32 != 0)?;
    let new = (value & CR0_DEFINED) | cr0::ET;
    let old = cpu.cr0;
    let has = |bit| new & bit != 0;
    gp_if(has(cr0::PG) && !has(cr0::PE))?;
    gp_if(has(cr0::NW) && !has(cr0::CD))?;
    let starts = has(cr0::PG) && old & cr0::PG == 0;
    let stops = !has(cr0::PG) && old & cr0::PG != 0;
    let mut efer = cpu.efer;
    if starts && efer & efer::LME != 0 {
        gp_if(cpu.cr4 & cr4::PAE == 0 || cpu.seg(Seg::Cs).long())?;
        gp_if(matches!(cpu.seg(Seg::Tr).type_bits(), 1 | 3))?;
        efer |= efer::LMA;
    }
    if stops {
        gp_if(cpu.code64() || cpu.cr4 & cr4::PCIDE != 0)?;
        efer &= !efer::LMA;
    }
    if (old ^ new) & CR0_PDPTES != 0 && pae_paging(new, cpu.cr4, efer) {
        gp_if(!env.load_pdptes(cpu.cr3))?;
    }
    cpu.efer = efer;
    cpu.cr0 = new;
    if (old ^ new) & CR0_TRANSLATION != 0 {
        env.mmu(cpu, MmuEvent::FlushAll);
    }
    env.mmu(cpu, MmuEvent::Mode);
    Ok(())
}

/// Sets CR3; bit 63 keeps the new PCID's entries (SDM vol 3, 4.10.4.1).
fn set_cr3<E: Env>(cpu: &mut CpuState, env: &mut E, value: u64) -> Result<(), Stop> {
    let pcide = cpu.cr4 & cr4::PCIDE != 0;
    let keep = pcide && value >> 63 != 0;
    let base = if pcide { value & !(1 << 63) } else { value };
    if cpu.long_mode() {
        gp_if(base >> phys_bits(cpu, env) != 0)?;
    }
    let new = if cpu.long_mode() {
        base
    } else {
        base & 0xffff_ffff
    };
    load_cr3(cpu, env, new)?;
    env.mmu(cpu, MmuEvent::Cr3 { keep });
    Ok(())
}

/// CR3 and, under PAE paging, the PDPTEs; #GP(0) if these cannot be loaded.
pub(super) fn load_cr3<E: Env>(cpu: &mut CpuState, env: &mut E, new: u64) -> Result<(), Stop> {
    if pae_paging(cpu.cr0, cpu.cr4, cpu.efer) {
        gp_if(!env.load_pdptes(new))?;
    }
    cpu.cr3 = new;
    Ok(())
}

fn pae_paging(cr0: u64, cr4: u64, efer: u64) -> bool {
    cr0 & cr0::PG != 0 && cr4 & cr4::PAE != 0 && efer & efer::LMA == 0
}

/// MAXPHYADDR (CPUID 8000_0008H).
pub(super) fn phys_bits<E: Env>(cpu: &CpuState, env: &mut E) -> u32 {
    match env.cpuid(cpu, 0x8000_0008, 0)[0] & 0xff {
        n @ 32..=52 => n,
        _ => 36,
    }
}

/// Sets CR4 (SDM vol 2, MOV CR; vol 3, 2.5).
fn set_cr4<E: Env>(cpu: &mut CpuState, env: &mut E, value: u64) -> Result<(), Stop> {
    gp_if(value & !cr4_offered(cpu, env) != 0)?;
    let old = cpu.cr4;
    gp_if(cpu.long_mode() && value & cr4::PAE == 0)?;
    let tags = value & !old & cr4::PCIDE != 0;
    gp_if(tags && (!cpu.long_mode() || cpu.cr3 & 0xfff != 0))?;
    if (old ^ value) & CR4_PDPTES != 0 && pae_paging(cpu.cr0, value, cpu.efer) {
        gp_if(!env.load_pdptes(cpu.cr3))?;
    }
    cpu.cr4 = value;
    if (old ^ value) & CR4_TRANSLATION != 0 {
        env.mmu(cpu, MmuEvent::FlushAll);
    }
    env.mmu(cpu, MmuEvent::Mode);
    Ok(())
}

/// CLTS.
pub(super) fn clts<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    privileged(ctx.cpu)?;
    ctx.cpu.cr0 &= !cr0::TS;
    ctx.env.mmu(ctx.cpu, MmuEvent::Mode);
    Ok(Handled::Next)
}

/// LMSW: PE, MP, EM, TS; PE cannot be cleared.
pub(super) fn lmsw<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    privileged(ctx.cpu)?;
    let low = ctx.read_op(0)? & 0xf;
    let kept = ctx.cpu.cr0 & !(cr0::MP | cr0::EM | cr0::TS);
    set_cr0(ctx.cpu, ctx.env, kept | low)?;
    Ok(Handled::Next)
}

/// SMSW: 16 bits to memory, the operand size to a register.
pub(super) fn smsw<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    umip(ctx.cpu)?;
    let value = ctx.cpu.cr0;
    if ctx.is_mem(0) {
        let (seg, ea) = ctx.ea(0);
        ctx.write_mem(seg, ea, 2, value)?;
    } else {
        set_reg(ctx.cpu, ctx.insn.op0_register(), value);
    }
    Ok(Handled::Next)
}

/// #GP(0) for SGDT, SIDT, SLDT, STR and SMSW outside CPL 0 with CR4.UMIP.
pub(super) fn umip(cpu: &CpuState) -> Result<(), Stop> {
    gp_if(cpu.cr4 & cr4::UMIP != 0 && cpu.cpl() != 0)
}

fn xcr_usable(cpu: &CpuState) -> Result<(), Stop> {
    if cpu.cr4 & cr4::OSXSAVE == 0 {
        return Err(Exception::UD.into());
    }
    Ok(())
}

/// XGETBV: XCR0, or XCR0 & XINUSE where offered.
pub(super) fn xgetbv<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    xcr_usable(ctx.cpu)?;
    let value = match ctx.cpu.gpr[gpr::RCX] as u32 {
        0 => ctx.cpu.xcr0,
        1 if ctx.env.xsave_areas(ctx.cpu).offers(2) => {
            let areas = ctx.env.xsave_areas(ctx.cpu);
            ctx.cpu.xcr0 & areas.in_use(&ctx.cpu.xsave)
        }
        _ => return Err(Exception::GP0.into()),
    };
    ctx.cpu.gpr[gpr::RAX] = value & 0xffff_ffff;
    ctx.cpu.gpr[gpr::RDX] = value >> 32;
    Ok(Handled::Next)
}

/// XSETBV.
pub(super) fn xsetbv<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    xcr_usable(ctx.cpu)?;
    privileged(ctx.cpu)?;
    gp_if(ctx.cpu.gpr[gpr::RCX] as u32 != 0)?;
    let value = xstate::edx_eax(ctx.cpu);
    let offered = xstate::xcr0_supported(ctx.cpu, ctx.env);
    gp_if(!xcr0_valid(value, offered))?;
    ctx.cpu.xcr0 = value;
    ctx.env.mmu(ctx.cpu, MmuEvent::Mode);
    Ok(Handled::Next)
}

/// The combinations XSETBV accepts (SDM vol 1, 13.3).
pub fn xcr0_valid(value: u64, offered: u64) -> bool {
    let avx512 = value & x::AVX512;
    value & !offered == 0
        && value & x::X87 != 0
        && (value & x::AVX == 0 || value & x::SSE != 0)
        && (avx512 == 0 || (avx512 == x::AVX512 && value & x::AVX != 0))
}
