//! Task-state segments: inner stacks and task switches (SDM vol 3, chapter 7).

use super::control;
use super::deliver::Event;
use super::descriptor::{self, Descriptor, code, is_null, kind, linear};
use super::load;
use super::stack::Stack;
use crate::{Access, Env, MmuEvent, Stop};
use x86::segment::attr;
use x86::{CpuState, Exception, Seg, Segment, cr0, dr, flags, gpr};

/// Smallest limits of 16- and 32-bit TSSs (SDM vol 3, 7.2).
const LIMIT16: u32 = 0x2b;
const LIMIT32: u32 = 0x67;

/// Reads `size` bytes at `offset` of the current TSS; #TS(TR) beyond its limit.
fn tss_field<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    offset: u32,
    size: u32,
    ext: u32,
) -> Result<u64, Stop> {
    let tr = *cpu.seg(Seg::Tr);
    if offset + size - 1 > tr.limit {
        return Err(Exception::ts(code(tr.selector) | ext).into());
    }
    let la = linear(cpu, tr.base.wrapping_add(u64::from(offset)));
    env.load(cpu, la, size, Access::SystemRead)
}

/// A stack pointer of a 64-bit TSS: RSPn at `4 + 8n`, ISTn at `28 + 8n`.
pub(super) fn stack_pointer64<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    offset: u32,
    ext: u32,
) -> Result<u64, Stop> {
    tss_field(cpu, env, offset, 8, ext)
}

/// True if TR holds a 32-bit (or 64-bit) TSS.
fn wide(tr: &Segment) -> bool {
    tr.type_bits() & 8 != 0
}

/// SS and (E)SP of privilege level `cpl` in a 16- or 32-bit TSS.
pub(super) fn stack_pointer<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    cpl: u8,
    ext: u32,
) -> Result<(u16, u64), Stop> {
    let n = u32::from(cpl);
    if wide(cpu.seg(Seg::Tr)) {
        let sp = tss_field(cpu, env, 4 + n * 8, 4, ext)?;
        let ss = tss_field(cpu, env, 8 + n * 8, 2, ext)?;
        Ok((ss as u16, sp))
    } else {
        let both = tss_field(cpu, env, 2 + n * 4, 4, ext)?;
        Ok(((both >> 16) as u16, both & 0xffff))
    }
}

/// What started a task switch (SDM vol 3, table 7-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Jump,
    Call,
    Iret,
    Event,
}

/// What a TSS holds of a task.
struct Image {
    cr3: Option<u64>,
    eip: u64,
    eflags: u64,
    gpr: [u64; 8],
    /// ES, CS, SS, DS, FS, GS.
    sel: [u16; 6],
    ldt: u16,
    /// Raise #DB in the new task.
    trap: bool,
}

/// Layout of the register part of a TSS.
struct Layout {
    /// Size of a register field.
    size: usize,
    eip: usize,
    /// First selector field.
    sel: usize,
    selectors: usize,
    ldt: usize,
    /// Bytes from `eip` to the end of the saved part.
    dynamic: usize,
}

const TSS16: Layout = Layout {
    size: 2,
    eip: 14,
    sel: 34,
    selectors: 4,
    ldt: 42,
    dynamic: 28,
};
const TSS32: Layout = Layout {
    size: 4,
    eip: 32,
    sel: 72,
    selectors: 6,
    ldt: 96,
    dynamic: 64,
};

fn layout(wide: bool) -> &'static Layout {
    if wide { &TSS32 } else { &TSS16 }
}

fn field(image: &[u8], at: usize, size: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes[..size].copy_from_slice(&image[at..at + size]);
    u64::from_le_bytes(bytes)
}

impl Image {
    fn parse(bytes: &[u8; 104], wide: bool) -> Self {
        let l = layout(wide);
        let mut image = Self {
            cr3: wide.then(|| field(bytes, 28, 4)),
            eip: field(bytes, l.eip, l.size),
            eflags: field(bytes, l.eip + l.size, l.size),
            gpr: [0; 8],
            sel: [0; 6],
            ldt: field(bytes, l.ldt, 2) as u16,
            trap: wide && bytes[100] & 1 != 0,
        };
        for (i, g) in image.gpr.iter_mut().enumerate() {
            *g = field(bytes, l.eip + (2 + i) * l.size, l.size);
            if !wide {
                *g |= 0xffff_0000; // the upper half is undefined; real parts set it
            }
        }
        for (i, s) in image.sel.iter_mut().take(l.selectors).enumerate() {
            *s = field(bytes, l.sel + i * l.size, 2) as u16;
        }
        image
    }
}

/// Writes the running task's registers to its TSS.
fn save<E: Env>(cpu: &mut CpuState, env: &mut E, rip: u64, rflags: u64) -> Result<(), Stop> {
    let tr = *cpu.seg(Seg::Tr);
    let l = layout(wide(&tr));
    let mut bytes = [0u8; 64];
    let mut values = [0u64; 16];
    values[0] = rip;
    values[1] = rflags;
    values[2..10].copy_from_slice(&cpu.gpr[..8]);
    for (v, s) in values[10..].iter_mut().zip(&cpu.seg[..l.selectors]) {
        *v = u64::from(s.selector);
    }
    for (slot, v) in bytes.chunks_exact_mut(l.size).zip(values) {
        slot.copy_from_slice(&v.to_le_bytes()[..l.size]);
    }
    let la = linear(cpu, tr.base.wrapping_add(l.eip as u64));
    env.store_bytes(cpu, la, &bytes[..l.dynamic], Access::SystemWrite)
}

/// Delivers an event through a task gate.
pub(super) fn deliver<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    event: &Event,
    selector: u16,
) -> Result<(), Stop> {
    let ext = event.ext();
    let tss = available(cpu, env, selector, ext)?;
    let rip = event.return_rip(cpu);
    let rflags = event.pushed_flags(cpu);
    cpu_switch(cpu, env, &tss, Cause::Event, (rip, rflags), ext)?;
    if let Some(error) = event.error() {
        let size = if wide(cpu.seg(Seg::Tr)) { 4 } else { 2 };
        let mut stack = Stack::current_with_error(cpu, ext);
        stack.push(cpu, env, size, u64::from(error))?;
        cpu.gpr[gpr::RSP] = stack.sp;
    }
    check_entry(cpu, ext)
}

/// Finds the available TSS that a gate or far transfer names.
pub(super) fn available<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    selector: u16,
    ext: u32,
) -> Result<Descriptor, Stop> {
    let refused = Exception::gp(code(selector) | ext);
    if selector & 4 != 0 || is_null(selector) {
        return Err(refused.into());
    }
    let tss = descriptor::read(cpu, env, selector, |c| Exception::gp(c | ext))?;
    if !tss.is_system() || !matches!(tss.kind(), kind::TSS16 | kind::TSS) {
        return Err(refused.into());
    }
    if !tss.present() {
        return Err(Exception::np(code(selector) | ext).into());
    }
    Ok(tss)
}

/// JMP or CALL to a TSS or task gate; `rip` is where the old task resumes.
pub(super) fn switch<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    tss: &Descriptor,
    cause: Cause,
    rip: u64,
) -> Result<(), Stop> {
    let rflags = cpu.rflags;
    cpu_switch(cpu, env, tss, cause, (rip, rflags), 0)?;
    check_entry(cpu, 0)
}

/// IRET with NT set: back to the task of the previous-task link.
pub(super) fn return_to_link<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    rip: u64,
) -> Result<(), Stop> {
    let selector = tss_field(cpu, env, 0, 2, 0)? as u16;
    let refused = Exception::ts(code(selector));
    if selector & 4 != 0 || is_null(selector) {
        return Err(refused.into());
    }
    let tss = descriptor::read(cpu, env, selector, Exception::ts)?;
    if !tss.is_system() || !matches!(tss.kind(), kind::TSS16_BUSY | kind::TSS_BUSY) {
        return Err(refused.into());
    }
    if !tss.present() {
        return Err(Exception::np(code(selector)).into());
    }
    let rflags = cpu.rflags & !flags::NT;
    cpu_switch(cpu, env, &tss, Cause::Iret, (rip, rflags), 0)?;
    check_entry(cpu, 0)
}

/// The first instruction of the new task must lie inside its CS.
fn check_entry(cpu: &CpuState, ext: u32) -> Result<(), Stop> {
    if cpu.rip > u64::from(cpu.seg(Seg::Cs).limit) {
        return Err(Exception::gp(ext).into());
    }
    Ok(())
}

/// The steps of SDM vol 3, 7.3. Faults up to loading TR belong to the old
/// task; those of the segment loads to the new one.
fn cpu_switch<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    tss: &Descriptor,
    cause: Cause,
    (rip, rflags): (u64, u64),
    ext: u32,
) -> Result<(), Stop> {
    let new = tss.segment();
    let is_wide = wide(&new);
    let (need, len) = if is_wide {
        (LIMIT32, 104)
    } else {
        (LIMIT16, 44)
    };
    if new.limit < need {
        return Err(Exception::ts(code(tss.selector) | ext).into());
    }
    let old = *cpu.seg(Seg::Tr);
    let old_len = layout(wide(&old)).dynamic as u32;
    let old_la = linear(cpu, old.base.wrapping_add(layout(wide(&old)).eip as u64));
    env.probe(cpu, old_la, old_len, Access::SystemWrite)?;
    let mut bytes = [0u8; 104];
    env.load_bytes(cpu, new.base, &mut bytes[..len], Access::SystemRead)?;
    let image = Image::parse(&bytes, is_wide);
    if matches!(cause, Cause::Jump | Cause::Iret) {
        clear_old_busy(cpu, env, old.selector)?;
    }
    save(cpu, env, rip, rflags)?;
    let nested = matches!(cause, Cause::Call | Cause::Event);
    if nested {
        let link = u64::from(old.selector);
        env.store(cpu, new.base, 2, link, Access::SystemWrite)?;
    }
    if cause != Cause::Iret {
        descriptor::set_busy(cpu, env, tss, true)?;
    }
    let mut tr = new;
    tr.attr |= 2;
    *cpu.seg_mut(Seg::Tr) = tr;
    load_image(cpu, env, &image, nested, ext)
}

fn clear_old_busy<E: Env>(cpu: &mut CpuState, env: &mut E, selector: u16) -> Result<(), Stop> {
    match descriptor::find(cpu, env, selector)? {
        Some(old) => descriptor::set_busy(cpu, env, &old, false),
        None => Ok(()),
    }
}

/// Loads the new task. Selectors come first, so that a fault in a descriptor
/// finds the new task's visible state complete (SDM vol 3, 7.3).
fn load_image<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    image: &Image,
    nested: bool,
    ext: u32,
) -> Result<(), Stop> {
    cpu.cr0 |= cr0::TS;
    let mut tables = Ok(());
    if let Some(cr3) = image.cr3.filter(|_| cpu.paging()) {
        tables = control::load_cr3(cpu, env, cr3);
        env.mmu(cpu, MmuEvent::Cr3 { keep: false });
    }
    cpu.rip = image.eip;
    cpu.gpr[..8].copy_from_slice(&image.gpr);
    cpu.rflags = (image.eflags & flags::DEFINED) | flags::FIXED1;
    if nested {
        cpu.rflags |= flags::NT;
    }
    cpu.dr[7] &= !0x55; // local breakpoint enables (SDM vol 3, 17.2.4)
    let cpl = if cpu.rflags & flags::VM != 0 {
        3
    } else {
        (image.sel[1] & 3) as u8
    };
    for (i, &selector) in image.sel.iter().enumerate() {
        cpu.seg[i] = Segment {
            selector,
            ..Segment::default()
        };
    }
    cpu.seg_mut(Seg::Ss).attr = u16::from(cpl) << attr::DPL_SHIFT;
    *cpu.seg_mut(Seg::Ldtr) = Segment {
        selector: image.ldt,
        ..Segment::default()
    };
    env.mmu(cpu, MmuEvent::Mode);
    tables.map_err(|_| Exception::gp(ext))?;
    load_segments(cpu, env, image, cpl, ext)?;
    if image.trap {
        return Err(Exception::db(dr::DR6_BT).into());
    }
    Ok(())
}

fn load_segments<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    image: &Image,
    cpl: u8,
    ext: u32,
) -> Result<(), Stop> {
    load::task_ldt(cpu, env, image.ldt, ext)?;
    if cpu.rflags & flags::VM != 0 {
        for s in [Seg::Es, Seg::Cs, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs] {
            *cpu.seg_mut(s) = load::vm86(image.sel[s as usize]);
        }
        return Ok(());
    }
    load::task_stack(cpu, env, image.sel[Seg::Ss as usize], cpl, ext)?;
    for s in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
        load::task_data(cpu, env, s, image.sel[s as usize], cpl, ext)?;
    }
    load::task_code(cpu, env, image.sel[Seg::Cs as usize], ext)
}
