//! CPUID, time, caches, HLT, MONITOR and hypercalls (SDM vol 2).

use super::control::privileged;
use crate::operand::{Ctx, Handled, set_reg};
use crate::{Counted, Env, MmuEvent, Stop};
use iced_x86::CpuidFeature;
use x86::{Exception, MpState, Seg, canonical48, cr4, gpr};

fn needs<E: Env>(ctx: &Ctx<'_, E>, feature: CpuidFeature) -> Result<(), Stop> {
    if ctx.env.has_feature(feature) {
        Ok(())
    } else {
        Err(Exception::UD.into())
    }
}

/// CPUID.
pub(super) fn cpuid<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    let leaf = ctx.cpu.gpr[gpr::RAX] as u32;
    let subleaf = ctx.cpu.gpr[gpr::RCX] as u32;
    let [a, b, c, d] = ctx.env.cpuid(ctx.cpu, leaf, subleaf);
    ctx.cpu.gpr[gpr::RAX] = u64::from(a);
    ctx.cpu.gpr[gpr::RBX] = u64::from(b);
    ctx.cpu.gpr[gpr::RCX] = u64::from(c);
    ctx.cpu.gpr[gpr::RDX] = u64::from(d);
    Ok(Handled::Next)
}

/// RDTSC; `aux` for RDTSCP.
pub(super) fn rdtsc<E: Env>(ctx: &mut Ctx<'_, E>, aux: bool) -> Result<Handled, Stop> {
    if aux {
        needs(ctx, CpuidFeature::RDTSCP)?;
    }
    if ctx.cpu.cr4 & cr4::TSD != 0 && ctx.cpu.cpl() != 0 {
        return Err(Exception::GP0.into());
    }
    let tsc = ctx.env.tsc(ctx.cpu);
    ctx.cpu.gpr[gpr::RAX] = tsc & 0xffff_ffff;
    ctx.cpu.gpr[gpr::RDX] = tsc >> 32;
    if aux {
        ctx.cpu.gpr[gpr::RCX] = ctx.cpu.msr.tsc_aux & 0xffff_ffff;
    }
    Ok(Handled::Next)
}

/// RDPID.
pub(super) fn rdpid<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    needs(ctx, CpuidFeature::RDPID)?;
    let value = ctx.cpu.msr.tsc_aux;
    set_reg(ctx.cpu, ctx.insn.op0_register(), value);
    Ok(Handled::Next)
}

/// SERIALIZE: what is interpreted was serialized already.
pub(super) fn serialize<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    needs(ctx, CpuidFeature::SERIALIZE)?;
    Ok(Handled::Next)
}

/// RDPMC: the guest is offered no counters, so every index faults.
pub(super) fn rdpmc() -> Result<Handled, Stop> {
    Err(Exception::GP0.into())
}

/// HLT.
pub(super) fn hlt<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    privileged(ctx.cpu)?;
    ctx.cpu.mp_state = MpState::Halted;
    Ok(Handled::Next)
}

/// INVD, WBINVD: caches are coherent here.
pub(super) fn cache<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    privileged(ctx.cpu)?;
    Ok(Handled::Next)
}

/// INVLPG: no limit, canonical or presence check faults.
pub(super) fn invlpg<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    privileged(ctx.cpu)?;
    let (seg, ea) = ctx.ea(0);
    let la = if !ctx.long {
        ctx.cpu.seg(seg).base.wrapping_add(ea) & 0xffff_ffff
    } else if matches!(seg, Seg::Fs | Seg::Gs) {
        ctx.cpu.seg(seg).base.wrapping_add(ea)
    } else {
        ea
    };
    ctx.env.count(Counted::Invlpg);
    if !ctx.long || canonical48(la) {
        ctx.env.mmu(ctx.cpu, MmuEvent::Invlpg(la));
    }
    Ok(Handled::Next)
}

/// INVPCID.
pub(super) fn invpcid<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    needs(ctx, CpuidFeature::INVPCID)?;
    privileged(ctx.cpu)?;
    let kind = ctx.read_op(0)?;
    let (seg, ea) = ctx.ea(1);
    let mut descriptor = [0u8; 16];
    ctx.read_bytes(seg, ea, &mut descriptor)?;
    let descriptor = u128::from_le_bytes(descriptor);
    let (low, addr) = (descriptor as u64, (descriptor >> 64) as u64);
    let tagged = ctx.cpu.cr4 & cr4::PCIDE != 0;
    let refused = kind > 3
        || (kind < 2 && (low >> 12 != 0 || (!tagged && low != 0)))
        || (kind == 0 && !canonical48(addr));
    if refused {
        return Err(Exception::GP0.into());
    }
    let event = MmuEvent::Invpcid {
        kind: kind as u8,
        pcid: (low & 0xfff) as u16,
        addr,
    };
    ctx.env.mmu(ctx.cpu, event);
    Ok(Handled::Next)
}

/// MONITOR and MWAIT, where offered: waiting ends at once, which the
/// architecture allows.
pub(super) fn monitor<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    needs(ctx, CpuidFeature::MONITOR)?;
    if ctx.cpu.cpl() != 0 {
        return Err(Exception::UD.into());
    }
    if ctx.cpu.gpr[gpr::RCX] as u32 != 0 {
        return Err(Exception::GP0.into());
    }
    Ok(Handled::Next)
}

/// VMCALL, VMMCALL.
pub(super) fn hypercall<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    let result = ctx.env.hypercall(ctx.cpu)?;
    ctx.cpu.gpr[gpr::RAX] = if ctx.long {
        result
    } else {
        result & 0xffff_ffff
    };
    Ok(Handled::Next)
}
