//! SYSCALL, SYSRET, SYSENTER and SYSEXIT (SDM vol 2 and vol 3, 5.8.7, 5.8.8).

use super::descriptor::is_null;
use crate::operand::{Ctx, Handled};
use crate::{Env, MmuEvent, Stop};
use iced_x86::CpuidFeature;
use x86::segment::attr;
use x86::{CpuState, Exception, Seg, Segment, canonical48, cr0, efer, flags, gpr};

/// Flat present code, accessed and readable.
const CODE: u16 = attr::P | attr::S | attr::X | attr::RW | attr::A | attr::G;
/// Flat present writable data.
const DATA: u16 = attr::P | attr::S | attr::RW | attr::A | attr::G | attr::DB;

fn flat(selector: u16, rights: u16, dpl: u8) -> Segment {
    Segment {
        base: 0,
        limit: u32::MAX,
        selector,
        attr: rights | (u16::from(dpl) << attr::DPL_SHIFT),
    }
}

fn set_code_and_stack(cpu: &mut CpuState, cs: Segment, ss: Segment) {
    *cpu.seg_mut(Seg::Cs) = cs;
    *cpu.seg_mut(Seg::Ss) = ss;
}

/// CPUID.0:EBX of the vendors whose processors are AMD's: "Auth"enticAMD,
/// "Hygo"nGenuine.
const AMD_VENDORS: [u32; 2] = [0x6874_7541, 0x6f67_7948];

/// The guest's processor is one of these.
pub fn is_amd<E: Env>(cpu: &CpuState, env: &mut E) -> bool {
    AMD_VENDORS.contains(&env.cpuid(cpu, 0, 0)[1])
}

/// #UD unless SYSCALL or SYSRET exists in the running mode: 64-bit mode, on
/// AMD's processors also compatibility mode (APM vol 3, SYSCALL).
fn check_syscall<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<(), Stop> {
    let exists = ctx.long || (ctx.cpu.long_mode() && is_amd(ctx.cpu, ctx.env));
    if ctx.cpu.efer & efer::SCE == 0 || !exists {
        return Err(Exception::UD.into());
    }
    Ok(())
}

/// SYSCALL.
pub(super) fn syscall<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    check_syscall(ctx)?;
    let next = ctx.next_rip();
    let long = ctx.long;
    let cpu = &mut *ctx.cpu;
    cpu.gpr[gpr::RCX] = next;
    cpu.gpr[gpr::R11] = cpu.rflags & !flags::RF;
    cpu.rip = if long { cpu.msr.lstar } else { cpu.msr.cstar };
    cpu.rflags = (cpu.rflags & !(cpu.msr.sfmask | flags::RF)) | flags::FIXED1;
    let selector = (cpu.msr.star >> 32) as u16;
    set_code_and_stack(
        cpu,
        flat(selector & 0xfffc, CODE | attr::L, 0),
        flat(selector.wrapping_add(8), DATA, 0),
    );
    ctx.env.mmu(ctx.cpu, MmuEvent::Mode);
    Ok(Handled::Jump)
}

/// SYSRET to compatibility (`wide` false) or 64-bit mode. To an address that
/// is not canonical, Intel's processors do not return (SDM vol 2, SYSRET);
/// AMD's do and fault there, in user mode (APM vol 3, SYSRET).
pub(super) fn sysret<E: Env>(ctx: &mut Ctx<'_, E>, wide: bool) -> Result<Handled, Stop> {
    check_syscall(ctx)?;
    let target = ctx.cpu.gpr[gpr::RCX];
    let refused = wide && !canonical48(target) && !is_amd(ctx.cpu, ctx.env);
    if ctx.cpu.cpl() != 0 || refused {
        return Err(Exception::GP0.into());
    }
    let cpu = &mut *ctx.cpu;
    let selector = (cpu.msr.star >> 48) as u16;
    let ss = selector.wrapping_add(8) | 3;
    let (cs, rights) = if wide {
        (selector.wrapping_add(16) | 3, CODE | attr::L)
    } else {
        (selector | 3, CODE | attr::DB)
    };
    cpu.rip = if wide { target } else { target & 0xffff_ffff };
    let loaded = flags::DEFINED & !(flags::RF | flags::VM);
    cpu.rflags = (cpu.gpr[gpr::R11] & loaded) | flags::FIXED1;
    set_code_and_stack(cpu, flat(cs, rights, 3), flat(ss, DATA, 3));
    ctx.env.mmu(ctx.cpu, MmuEvent::Mode);
    Ok(Handled::Jump)
}

/// #UD unless SYSENTER and SYSEXIT exist in the running mode: on AMD's
/// processors not in long mode (APM vol 3, SYSENTER). #GP(0) without a
/// selector for them.
fn check_sysenter<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<(), Stop> {
    let absent = ctx.cpu.long_mode() && is_amd(ctx.cpu, ctx.env);
    if absent || !ctx.env.has_feature(CpuidFeature::SEP) {
        return Err(Exception::UD.into());
    }
    let cs = ctx.cpu.msr.sysenter_cs as u16;
    if ctx.cpu.cr0 & cr0::PE == 0 || is_null(cs) {
        return Err(Exception::GP0.into());
    }
    Ok(())
}

/// SYSENTER.
pub(super) fn sysenter<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    check_sysenter(ctx)?;
    let cpu = &mut *ctx.cpu;
    let long = cpu.long_mode();
    let cs = cpu.msr.sysenter_cs as u16 & 0xfffc;
    let width = if long { u64::MAX } else { 0xffff_ffff };
    cpu.rflags &= !(flags::VM | flags::IF | flags::RF);
    cpu.gpr[gpr::RSP] = cpu.msr.sysenter_esp & width;
    cpu.rip = cpu.msr.sysenter_eip & width;
    let mode = if long { attr::L } else { attr::DB };
    set_code_and_stack(
        cpu,
        flat(cs, CODE | mode, 0),
        flat(cs.wrapping_add(8), DATA, 0),
    );
    ctx.env.mmu(ctx.cpu, MmuEvent::Mode);
    Ok(Handled::Jump)
}

/// SYSEXIT to 32-bit code, or to 64-bit code with REX.W.
pub(super) fn sysexit<E: Env>(ctx: &mut Ctx<'_, E>, wide: bool) -> Result<Handled, Stop> {
    check_sysenter(ctx)?;
    let cpu = &mut *ctx.cpu;
    let (rip, rsp) = (cpu.gpr[gpr::RDX], cpu.gpr[gpr::RCX]);
    let bad = wide && !(canonical48(rip) && canonical48(rsp));
    if cpu.cpl() != 0 || bad {
        return Err(Exception::GP0.into());
    }
    let base = cpu.msr.sysenter_cs as u16;
    let width = if wide { u64::MAX } else { 0xffff_ffff };
    let (cs, ss, mode) = if wide {
        (base.wrapping_add(32), base.wrapping_add(40), attr::L)
    } else {
        (base.wrapping_add(16), base.wrapping_add(24), attr::DB)
    };
    cpu.gpr[gpr::RSP] = rsp & width;
    cpu.rip = rip & width;
    set_code_and_stack(cpu, flat(cs | 3, CODE | mode, 3), flat(ss | 3, DATA, 3));
    ctx.env.mmu(ctx.cpu, MmuEvent::Mode);
    Ok(Handled::Jump)
}
