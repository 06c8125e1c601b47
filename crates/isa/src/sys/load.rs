//! Loading segment registers (SDM vol 2, MOV; vol 3, 3.4.2 and 5.6).

use super::descriptor::{self, Descriptor, code, is_null, kind, rpl};
use crate::{Env, Stop};
use x86::segment::attr;
use x86::{CpuState, Exception, Seg, Segment, canonical48, flags};

/// What a real-mode load gives: selector and base change, limit and D/B stay,
/// the access rights become those of a present segment.
fn real(cpu: &CpuState, s: Seg, selector: u16) -> Segment {
    let old = cpu.seg(s);
    let kept = old.attr & (attr::AVL | attr::DB | attr::G);
    let code = if s == Seg::Cs { attr::X } else { 0 };
    Segment {
        base: u64::from(selector) << 4,
        limit: old.limit,
        selector,
        attr: kept | attr::P | attr::S | attr::RW | attr::A | code,
    }
}

/// What a virtual-8086 load gives: 64 KiB, DPL 3 (SDM vol 3, 20.2.1).
pub(crate) fn vm86(selector: u16) -> Segment {
    let mut seg = Segment::real(selector);
    seg.attr |= attr::DPL;
    seg
}

/// What loading a paragraph number gives in the current mode.
fn paragraph(cpu: &CpuState, s: Seg, selector: u16) -> Segment {
    if cpu.rflags & flags::VM != 0 {
        vm86(selector)
    } else {
        real(cpu, s, selector)
    }
}

/// Loads a segment register in real or virtual-8086 mode.
pub(crate) fn set_real(cpu: &mut CpuState, s: Seg, selector: u16) {
    *cpu.seg_mut(s) = paragraph(cpu, s, selector);
}

/// Real or virtual-8086 addressing: selectors are paragraphs.
pub(crate) fn paragraphs(cpu: &CpuState) -> bool {
    !cpu.protected()
}

/// Computes what loading `selector` into data register `s` gives, with the
/// accessed bit set in memory. The register itself is left to the caller.
pub(crate) fn data<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    s: Seg,
    selector: u16,
) -> Result<Segment, Stop> {
    if paragraphs(cpu) {
        return Ok(paragraph(cpu, s, selector));
    }
    if s == Seg::Ss {
        return stack(cpu, env, selector);
    }
    if is_null(selector) {
        return Ok(null(selector));
    }
    let desc = descriptor::read(cpu, env, selector, Exception::gp)?;
    check_data(&desc, cpu.cpl(), 0, Exception::gp)?;
    descriptor::accessed(cpu, env, &desc)
}

/// An unusable register that shows `selector`.
pub(crate) fn null(selector: u16) -> Segment {
    Segment {
        selector,
        ..Segment::default()
    }
}

fn check_data(
    desc: &Descriptor,
    cpl: u8,
    ext: u32,
    fault: fn(u32) -> Exception,
) -> Result<(), Exception> {
    let selector = desc.selector;
    let private = !desc.is_conforming();
    let outranked = private && (rpl(selector) > desc.dpl() || cpl > desc.dpl());
    if !desc.is_readable() || outranked {
        return Err(fault(code(selector) | ext));
    }
    if !desc.present() {
        return Err(Exception::np(code(selector) | ext));
    }
    Ok(())
}

/// Loads SS at the current privilege level.
fn stack<E: Env>(cpu: &mut CpuState, env: &mut E, selector: u16) -> Result<Segment, Stop> {
    let cpl = cpu.cpl();
    if is_null(selector) {
        // 64-bit mode allows a null SS outside ring 3 (SDM vol 2, MOV).
        if cpu.code64() && cpl != 3 && rpl(selector) == cpl {
            return Ok(super::stack::null_ss(cpl));
        }
        return Err(Exception::GP0.into());
    }
    let desc = descriptor::read(cpu, env, selector, Exception::gp)?;
    check_stack(&desc, cpl, Exception::gp)?;
    descriptor::accessed(cpu, env, &desc)
}

/// A stack segment for privilege level `cpl`: writable data with DPL and RPL
/// equal to it.
pub(crate) fn check_stack(
    desc: &Descriptor,
    cpl: u8,
    fault: fn(u32) -> Exception,
) -> Result<(), Exception> {
    let selector = desc.selector;
    if rpl(selector) != cpl || desc.dpl() != cpl || !desc.is_writable_data() {
        return Err(fault(code(selector)));
    }
    if !desc.present() {
        return Err(Exception::ss(code(selector)));
    }
    Ok(())
}

/// LLDT: computes the register (SDM vol 2, LLDT).
pub(crate) fn ldt<E: Env>(cpu: &mut CpuState, env: &mut E, selector: u16) -> Result<Segment, Stop> {
    if is_null(selector) {
        return Ok(null(selector));
    }
    let desc = system(cpu, env, selector, &[kind::LDT])?;
    system_segment(cpu, env, &desc)
}

/// LTR: computes the register and marks the descriptor busy (SDM vol 2, LTR).
pub(crate) fn task_register<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    selector: u16,
) -> Result<Segment, Stop> {
    if is_null(selector) {
        return Err(Exception::GP0.into());
    }
    let kinds: &[u8] = if cpu.long_mode() {
        &[kind::TSS]
    } else {
        &[kind::TSS, kind::TSS16]
    };
    let desc = system(cpu, env, selector, kinds)?;
    let mut seg = system_segment(cpu, env, &desc)?;
    descriptor::set_busy(cpu, env, &desc, true)?;
    seg.attr |= 2;
    Ok(seg)
}

/// A present system descriptor of one of `kinds` in the GDT.
fn system<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    selector: u16,
    kinds: &[u8],
) -> Result<Descriptor, Stop> {
    let refused = Exception::gp(code(selector));
    if selector & 4 != 0 {
        return Err(refused.into());
    }
    let desc = descriptor::read(cpu, env, selector, Exception::gp)?;
    if !desc.is_system() || !kinds.contains(&desc.kind()) {
        return Err(refused.into());
    }
    if !desc.present() {
        return Err(Exception::np(code(selector)).into());
    }
    Ok(desc)
}

/// Adds the upper half of the base in IA-32e mode.
fn system_segment<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    desc: &Descriptor,
) -> Result<Segment, Stop> {
    let mut seg = desc.segment();
    if cpu.long_mode() {
        let refused = Exception::gp(code(desc.selector));
        let high = descriptor::upper(cpu, env, desc)?.ok_or(refused)?;
        seg.base |= high << 32;
        if !canonical48(seg.base) {
            return Err(refused.into());
        }
    }
    Ok(seg)
}

/// LDTR of a new task: #TS instead of #GP and #NP.
pub(super) fn task_ldt<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    selector: u16,
    ext: u32,
) -> Result<(), Stop> {
    if is_null(selector) {
        return Ok(());
    }
    let refused = Exception::ts(code(selector) | ext);
    if selector & 4 != 0 {
        return Err(refused.into());
    }
    let desc = descriptor::read(cpu, env, selector, |c| Exception::ts(c | ext))?;
    if !desc.is_system() || desc.kind() != kind::LDT || !desc.present() {
        return Err(refused.into());
    }
    *cpu.seg_mut(Seg::Ldtr) = desc.segment();
    Ok(())
}

/// SS of a new task.
pub(super) fn task_stack<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    selector: u16,
    cpl: u8,
    ext: u32,
) -> Result<(), Stop> {
    let refused = Exception::ts(code(selector) | ext);
    if is_null(selector) {
        return Err(refused.into());
    }
    let desc = descriptor::read(cpu, env, selector, |c| Exception::ts(c | ext))?;
    if rpl(selector) != cpl || desc.dpl() != cpl || !desc.is_writable_data() {
        return Err(refused.into());
    }
    if !desc.present() {
        return Err(Exception::ss(code(selector) | ext).into());
    }
    let seg = descriptor::accessed(cpu, env, &desc)?;
    *cpu.seg_mut(Seg::Ss) = seg;
    Ok(())
}

/// A data register of a new task.
pub(super) fn task_data<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    s: Seg,
    selector: u16,
    cpl: u8,
    ext: u32,
) -> Result<(), Stop> {
    if is_null(selector) {
        return Ok(());
    }
    let desc = descriptor::read(cpu, env, selector, |c| Exception::ts(c | ext))?;
    check_data(&desc, cpl, ext, Exception::ts)?;
    let seg = descriptor::accessed(cpu, env, &desc)?;
    *cpu.seg_mut(s) = seg;
    Ok(())
}

/// CS of a new task.
pub(super) fn task_code<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    selector: u16,
    ext: u32,
) -> Result<(), Stop> {
    let refused = Exception::ts(code(selector) | ext);
    if is_null(selector) {
        return Err(refused.into());
    }
    let desc = descriptor::read(cpu, env, selector, |c| Exception::ts(c | ext))?;
    let dpl_ok = if desc.is_conforming() {
        desc.dpl() <= rpl(selector)
    } else {
        desc.dpl() == rpl(selector)
    };
    if !desc.is_code() || !dpl_ok {
        return Err(refused.into());
    }
    if !desc.present() {
        return Err(Exception::np(code(selector) | ext).into());
    }
    let seg = descriptor::accessed(cpu, env, &desc)?;
    *cpu.seg_mut(Seg::Cs) = seg;
    Ok(())
}

/// Data registers that code at the new, outer privilege level `cpl` may not
/// use become null (SDM vol 2, RET and IRET).
pub(super) fn drop_privileged(cpu: &mut CpuState, cpl: u8) {
    for s in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
        let seg = cpu.seg_mut(s);
        let conforming = seg.attr & (attr::X | attr::EC) == attr::X | attr::EC;
        if !is_null(seg.selector) && seg.dpl() < cpl && !conforming {
            seg.selector = 0;
            seg.attr = 0;
        }
    }
}
