//! Tests of system instructions and event delivery in a small flat world.
//! Expected values follow the Intel SDM sections named at each test.

mod event;
mod hostile;
mod legacy;
mod long;
mod registers;
mod state;
mod traps;

use crate::{Access, Env, MmuEvent, Stop};
use iced_x86::{CpuidFeature, Instruction};
use std::collections::BTreeSet;
use x86::segment::attr;
use x86::{CpuState, DescTable, Exception, Seg, Segment, cr0, cr4, efer, flags, gpr};

/// One MiB of identity-mapped linear memory with holes.
pub(crate) struct World {
    pub mem: Vec<u8>,
    /// Pages (by address) that fault.
    pub unmapped: BTreeSet<u64>,
    /// Pages of the kernel: user accesses fault.
    pub kernel_only: BTreeSet<u64>,
    /// Pages that suspend while the set names them.
    pub suspends: BTreeSet<u64>,
    pub mmu: Vec<MmuEvent>,
    pub out: Vec<(u16, u32, u32)>,
    pub commits: u32,
    /// What the guest's CPUID says of XSAVE.
    pub xlayout: x86::xstate::Layout,
}

pub(crate) const CODE: u64 = 0x1000;
pub(crate) const GDT: u64 = 0x2000;
pub(crate) const IDT: u64 = 0x3000;
pub(crate) const TSS: u64 = 0x4000;
pub(crate) const HANDLER: u64 = 0x5000;
/// Top of the stack the test code runs on.
pub(crate) const STACK: u64 = 0x7000;
/// Top of the ring-0 stack of the TSS.
pub(crate) const STACK0: u64 = 0x9000;
/// Top of the IST1 stack.
pub(crate) const IST1: u64 = 0xb000;
/// Scratch data.
pub(crate) const DATA: u64 = 0xc000;

/// Selectors of the tests' GDT.
pub(crate) mod sel {
    pub const CODE0: u16 = 0x08;
    pub const DATA0: u16 = 0x10;
    pub const CODE3: u16 = 0x1b;
    pub const DATA3: u16 = 0x23;
    pub const CODE64_3: u16 = 0x2b;
    pub const TSS: u16 = 0x30;
    /// Free slots from here on.
    pub const FREE: u16 = 0x40;
}

/// Builds a segment or system descriptor.
pub(crate) const fn descriptor(base: u32, limit: u32, access: u8, flags: u8) -> u64 {
    let (b, l) = (base as u64, limit as u64);
    (l & 0xffff)
        | (b & 0xff_ffff) << 16
        | (access as u64) << 40
        | (l >> 16 & 0xf) << 48
        | (flags as u64) << 52
        | (b >> 24) << 56
}

/// Builds a gate.
pub(crate) const fn gate(selector: u16, offset: u64, access: u8, low: u8) -> u64 {
    (offset & 0xffff)
        | (selector as u64) << 16
        | (low as u64) << 32
        | (access as u64) << 40
        | (offset >> 16 & 0xffff) << 48
}

impl World {
    fn new() -> Self {
        Self {
            mem: vec![0; 1 << 20],
            unmapped: BTreeSet::new(),
            kernel_only: BTreeSet::new(),
            suspends: BTreeSet::new(),
            mmu: Vec::new(),
            out: Vec::new(),
            commits: 0,
            xlayout: x86::xstate::Layout::INTEL,
        }
    }
    pub fn put(&mut self, la: u64, size: usize, value: u64) {
        let at = la as usize;
        self.mem[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    }
    pub fn get(&self, la: u64, size: usize) -> u64 {
        let mut b = [0; 8];
        b[..size].copy_from_slice(&self.mem[la as usize..la as usize + size]);
        u64::from_le_bytes(b)
    }
    pub fn code(&mut self, bytes: &[u8]) {
        self.mem[CODE as usize..CODE as usize + bytes.len()].copy_from_slice(bytes);
    }
    /// Writes entry `selector` of the GDT.
    pub fn gdt(&mut self, selector: u16, raw: u64) {
        self.put(GDT + u64::from(selector & 0xfff8), 8, raw);
    }
    /// Writes a 16-byte IDT gate.
    pub fn idt64(&mut self, vector: u8, offset: u64, access: u8, ist: u8) {
        let at = IDT + u64::from(vector) * 16;
        self.put(at, 8, gate(sel::CODE0, offset, access, ist));
        self.put(at + 8, 8, offset >> 32);
    }
    /// Writes an 8-byte IDT gate.
    pub fn idt32(&mut self, vector: u8, selector: u16, offset: u64, access: u8) {
        let at = IDT + u64::from(vector) * 8;
        self.put(at, 8, gate(selector, offset, access, 0));
    }
    /// The quadwords (or smaller words) from `la` up.
    pub fn words(&self, la: u64, size: usize, n: usize) -> Vec<u64> {
        (0..n)
            .map(|i| self.get(la + (i * size) as u64, size))
            .collect()
    }
    fn check(&self, cpu: &CpuState, la: u64, len: u64, how: Access) -> Result<usize, Stop> {
        let write = u32::from(how.is_write()) << 1;
        let user = cpu.cpl() == 3 && !how.is_system();
        let bits = write | u32::from(user) << 2;
        let end = la.saturating_add(len);
        for page in (la & !0xfff..end).step_by(0x1000) {
            let at = page.max(la);
            if self.unmapped.contains(&page) || end > self.mem.len() as u64 {
                return Err(Exception::pf(at, bits).into());
            }
            if user && self.kernel_only.contains(&page) {
                return Err(Exception::pf(at, bits | 1).into());
            }
            if self.suspends.contains(&page) {
                return Err(Stop::Suspend);
            }
        }
        Ok(la as usize)
    }
}

impl Env for World {
    fn load(&mut self, cpu: &mut CpuState, la: u64, size: u32, how: Access) -> Result<u64, Stop> {
        self.check(cpu, la, u64::from(size), how)?;
        Ok(self.get(la, size as usize))
    }
    fn store(
        &mut self,
        cpu: &mut CpuState,
        la: u64,
        size: u32,
        value: u64,
        how: Access,
    ) -> Result<(), Stop> {
        self.check(cpu, la, u64::from(size), how)?;
        self.put(la, size as usize, value);
        Ok(())
    }
    fn load_bytes(
        &mut self,
        cpu: &mut CpuState,
        la: u64,
        buf: &mut [u8],
        how: Access,
    ) -> Result<(), Stop> {
        let at = self.check(cpu, la, buf.len() as u64, how)?;
        buf.copy_from_slice(&self.mem[at..at + buf.len()]);
        Ok(())
    }
    fn store_bytes(
        &mut self,
        cpu: &mut CpuState,
        la: u64,
        buf: &[u8],
        how: Access,
    ) -> Result<(), Stop> {
        let at = self.check(cpu, la, buf.len() as u64, how)?;
        self.mem[at..at + buf.len()].copy_from_slice(buf);
        Ok(())
    }
    fn probe(&mut self, cpu: &mut CpuState, la: u64, len: u32, how: Access) -> Result<(), Stop> {
        self.check(cpu, la, u64::from(len), how).map(|_| ())
    }
    fn fetch(&mut self, cpu: &mut CpuState, la: u64, buf: &mut [u8]) -> Result<(), Stop> {
        self.load_bytes(cpu, la, buf, Access::Read)
    }
    fn update(
        &mut self,
        cpu: &mut CpuState,
        la: u64,
        size: u32,
        f: &mut dyn FnMut(u64) -> u64,
    ) -> Result<u64, Stop> {
        self.check(cpu, la, u64::from(size), Access::ReadModify)?;
        let old = self.get(la, size as usize);
        let new = f(old);
        self.put(la, size as usize, new);
        Ok(old)
    }
    fn cmpxchg16(&mut self, _: &mut CpuState, _: u64, _: u128, _: u128) -> Result<u128, Stop> {
        Err(Stop::Shutdown)
    }
    fn commit(&mut self, _: &mut CpuState) {
        self.commits += 1;
    }
    fn io_in(&mut self, _: &mut CpuState, port: u16, size: u32) -> Result<u32, Stop> {
        Ok(u32::from(port) << 8 | size)
    }
    fn io_out(&mut self, _: &mut CpuState, port: u16, size: u32, value: u32) -> Result<(), Stop> {
        self.out.push((port, size, value));
        Ok(())
    }
    /// Everything in leaves 1 and 7; Intel's XSAVE layout up to AVX-512.
    fn cpuid(&mut self, _: &CpuState, leaf: u32, subleaf: u32) -> [u32; 4] {
        match (leaf, subleaf) {
            (1, _) | (7, 0) | (0x8000_0001, _) => [u32::MAX; 4],
            (0xd, 0) => [0xe7, 2688, 2688, 0],
            (0xd, 1) => [0xf, 0, 0, 0],
            (0xd, i @ 2..=62) => match self.xlayout.place(1 << i) {
                Some((at, size)) => [size as u32, at as u32, 0, 0],
                None => [0; 4],
            },
            (0x8000_0008, _) => [40, 0, 0, 0],
            _ => [0; 4],
        }
    }
    fn has_feature(&self, _: CpuidFeature) -> bool {
        true
    }
    fn rdmsr(&mut self, _: &mut CpuState, _: u32) -> Result<u64, Stop> {
        Err(Exception::GP0.into())
    }
    fn wrmsr(&mut self, _: &mut CpuState, _: u32, _: u64) -> Result<(), Stop> {
        Err(Exception::GP0.into())
    }
    fn tsc(&mut self, _: &CpuState) -> u64 {
        0x1_2345_6789
    }
    fn cr8(&mut self, cpu: &CpuState) -> u64 {
        cpu.cr8
    }
    fn set_cr8(&mut self, cpu: &mut CpuState, value: u64) {
        cpu.cr8 = value;
    }
    fn mmu(&mut self, _: &mut CpuState, event: MmuEvent) {
        if event != MmuEvent::Mode {
            self.mmu.push(event);
        }
    }
    fn native(&mut self, _: &mut CpuState, _: &Instruction, _: &mut [u8]) -> Result<(), Exception> {
        Err(Exception::UD)
    }
    fn hypercall(&mut self, _: &mut CpuState) -> Result<u64, Stop> {
        Ok(0x1234)
    }
}

/// A writable data segment register.
pub(crate) fn data_segment(selector: u16) -> Segment {
    Segment {
        base: 0,
        limit: u32::MAX,
        selector,
        attr: attr::P | attr::S | attr::RW | attr::A | attr::DB | attr::G | (selector & 3) << 5,
    }
}

fn code_segment(selector: u16, mode: u16) -> Segment {
    Segment {
        attr: attr::P
            | attr::S
            | attr::X
            | attr::RW
            | attr::A
            | attr::G
            | (selector & 3) << 5
            | mode,
        ..data_segment(selector)
    }
}

/// The GDT, TSS and handlers for every vector, without mode-dependent parts.
fn tables(w: &mut World) {
    w.gdt(sel::DATA0, descriptor(0, 0xf_ffff, 0x93, 0xc));
    w.gdt(sel::CODE3, descriptor(0, 0xf_ffff, 0xfb, 0xc));
    w.gdt(sel::DATA3, descriptor(0, 0xf_ffff, 0xf3, 0xc));
    w.gdt(sel::CODE64_3, descriptor(0, 0xf_ffff, 0xfb, 0xa));
    w.gdt(sel::TSS, descriptor(TSS as u32, 0x67, 0x8b, 0));
}

fn machine(cs: Segment, ss: Segment) -> CpuState {
    let mut cpu = CpuState {
        cr0: cr0::PE | cr0::ET | cr0::NE,
        cr4: cr4::PAE,
        rip: CODE,
        rflags: flags::FIXED1 | flags::IF,
        gpr: [0; 16],
        gdtr: DescTable {
            base: GDT,
            limit: 0x7f,
        },
        idtr: DescTable {
            base: IDT,
            limit: 0xfff,
        },
        ..CpuState::default()
    };
    for s in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
        *cpu.seg_mut(s) = data_segment(sel::DATA3);
    }
    *cpu.seg_mut(Seg::Cs) = cs;
    *cpu.seg_mut(Seg::Ss) = ss;
    *cpu.seg_mut(Seg::Tr) = Segment {
        base: TSS,
        limit: 0x67,
        selector: sel::TSS,
        attr: attr::P | 0xb,
    };
    *cpu.seg_mut(Seg::Ldtr) = Segment::default();
    cpu.gpr[gpr::RSP] = STACK;
    cpu
}

/// 64-bit mode at privilege level `cpl`; vector n's handler is an interrupt
/// gate at `HANDLER + n`.
pub(crate) fn long(cpl: u8) -> (CpuState, World) {
    let mut w = World::new();
    tables(&mut w);
    w.gdt(sel::CODE0, descriptor(0, 0xf_ffff, 0x9b, 0xa));
    w.put(TSS + 4, 8, STACK0);
    w.put(TSS + 36, 8, IST1);
    for v in 0..=255 {
        w.idt64(v, HANDLER + u64::from(v), 0x8e, 0);
    }
    let (cs, ss) = if cpl == 0 {
        (sel::CODE0, sel::DATA0)
    } else {
        (sel::CODE64_3, sel::DATA3)
    };
    let mut cpu = machine(code_segment(cs, attr::L), data_segment(ss));
    cpu.cr0 |= cr0::PG;
    cpu.efer = efer::LME | efer::LMA | efer::SCE;
    (cpu, w)
}

/// Flat 32-bit protected mode at privilege level `cpl`.
pub(crate) fn protected(cpl: u8) -> (CpuState, World) {
    let mut w = World::new();
    tables(&mut w);
    w.gdt(sel::CODE0, descriptor(0, 0xf_ffff, 0x9b, 0xc));
    w.put(TSS + 4, 4, STACK0);
    w.put(TSS + 8, 4, u64::from(sel::DATA0));
    for v in 0..=255 {
        w.idt32(v, sel::CODE0, HANDLER + u64::from(v), 0x8e);
    }
    let (cs, ss) = if cpl == 0 {
        (sel::CODE0, sel::DATA0)
    } else {
        (sel::CODE3, sel::DATA3)
    };
    (machine(code_segment(cs, attr::DB), data_segment(ss)), w)
}

/// Real mode with flat bases.
pub(crate) fn real() -> (CpuState, World) {
    let mut w = World::new();
    let mut cpu = CpuState {
        rip: CODE,
        rflags: flags::FIXED1 | flags::IF,
        gpr: [0; 16],
        ..CpuState::default()
    };
    cpu.seg_mut(Seg::Cs).base = 0;
    cpu.seg_mut(Seg::Cs).selector = 0;
    cpu.gpr[gpr::RSP] = STACK;
    for v in 0..256 {
        w.put(v * 4, 4, 0x0050_0000 + v);
    }
    (cpu, w)
}

/// Runs one step of the instruction `code`.
pub(crate) fn run(cpu: &mut CpuState, w: &mut World, code: &[u8]) -> Result<crate::Flow, Stop> {
    w.code(code);
    crate::step(cpu, w)
}

/// Executes `code` without delivery and returns the exception it raises.
pub(crate) fn fault(cpu: &mut CpuState, w: &mut World, code: &[u8]) -> Option<Exception> {
    w.code(code);
    let insn = match crate::fetch(cpu, w) {
        Ok(insn) => insn,
        Err(Stop::Fault(e)) => return Some(e),
        Err(_) => return None,
    };
    match crate::execute_only(cpu, w, &insn) {
        Err(Stop::Fault(e)) => Some(e),
        _ => None,
    }
}
