//! Tests of the unprivileged instructions in a small world of their own.

mod hardware;
mod hostile;
mod memory;
mod native;
mod strings;
mod table;

use crate::env::{Access, Env, MmuEvent, Stop};
use crate::operand::{Ctx, Handled};
use iced_x86::{Code, CpuidFeature, Decoder, DecoderOptions, Instruction};
use x86::segment::attr;
use x86::{CpuState, Exception, Seg, cr0, efer, flags};

/// One MiB of linear memory; page 8 is not mapped, page 9 is read-only, page
/// 10 suspends.
pub(crate) struct World {
    pub mem: Vec<u8>,
    pub hidden: Vec<CpuidFeature>,
    /// Codes that went to the host, with the bytes of their memory operand.
    pub natives: Vec<(Code, Vec<u8>)>,
    /// What a native store leaves in its operand.
    pub native_out: u8,
    pub commits: u32,
    pub plain: bool,
    pub bulk: u32,
}

pub(crate) const UNMAPPED: u64 = 0x8000;
pub(crate) const READ_ONLY: u64 = 0x9000;
pub(crate) const SUSPENDS: u64 = 0xa000;

impl World {
    pub fn new() -> Self {
        Self {
            mem: vec![0; 1 << 20],
            hidden: Vec::new(),
            natives: Vec::new(),
            native_out: 0xaa,
            commits: 0,
            plain: false,
            bulk: 0,
        }
    }
    fn check(&self, la: u64, len: u64, how: Access) -> Result<usize, Stop> {
        let end = la.saturating_add(len).min(self.mem.len() as u64 + 1);
        if la >= end {
            return Err(Exception::pf(la, u32::from(how.is_write()) << 1).into());
        }
        for page in (la & !0xfff..end).step_by(0x1000) {
            let at = page.max(la);
            let bad = page == UNMAPPED || (page == READ_ONLY && how.is_write());
            if bad || page >= self.mem.len() as u64 {
                return Err(Exception::pf(at, u32::from(how.is_write()) << 1).into());
            }
            if page == SUSPENDS {
                return Err(Stop::Suspend);
            }
        }
        Ok(la as usize)
    }
    pub fn get(&self, la: u64, size: usize) -> u64 {
        let mut b = [0; 8];
        b[..size].copy_from_slice(&self.mem[la as usize..la as usize + size]);
        u64::from_le_bytes(b)
    }
    pub fn put(&mut self, la: u64, size: usize, v: u64) {
        self.mem[la as usize..la as usize + size].copy_from_slice(&v.to_le_bytes()[..size]);
    }
}

impl Env for World {
    fn load(&mut self, _: &mut CpuState, la: u64, size: u32, how: Access) -> Result<u64, Stop> {
        let at = self.check(la, u64::from(size), how)?;
        Ok(self.get(at as u64, size as usize))
    }
    fn store(
        &mut self,
        _: &mut CpuState,
        la: u64,
        size: u32,
        value: u64,
        how: Access,
    ) -> Result<(), Stop> {
        self.check(la, u64::from(size), how)?;
        self.put(la, size as usize, value);
        Ok(())
    }
    fn load_bytes(
        &mut self,
        _: &mut CpuState,
        la: u64,
        buf: &mut [u8],
        how: Access,
    ) -> Result<(), Stop> {
        let at = self.check(la, buf.len() as u64, how)?;
        buf.copy_from_slice(&self.mem[at..at + buf.len()]);
        self.bulk += 1;
        Ok(())
    }
    fn store_bytes(
        &mut self,
        _: &mut CpuState,
        la: u64,
        buf: &[u8],
        how: Access,
    ) -> Result<(), Stop> {
        let at = self.check(la, buf.len() as u64, how)?;
        self.mem[at..at + buf.len()].copy_from_slice(buf);
        self.bulk += 1;
        Ok(())
    }
    fn probe(&mut self, _: &mut CpuState, la: u64, len: u32, how: Access) -> Result<(), Stop> {
        self.check(la, u64::from(len), how).map(|_| ())
    }
    fn plain(&mut self, _: &mut CpuState, la: u64, len: u32, how: Access) -> bool {
        self.plain && self.check(la, u64::from(len), how).is_ok()
    }
    fn fetch(&mut self, _: &mut CpuState, _: u64, _: &mut [u8]) -> Result<(), Stop> {
        Err(Stop::Shutdown)
    }
    fn update(
        &mut self,
        _: &mut CpuState,
        la: u64,
        size: u32,
        f: &mut dyn FnMut(u64) -> u64,
    ) -> Result<u64, Stop> {
        self.check(la, u64::from(size), Access::ReadModify)?;
        let old = self.get(la, size as usize);
        let new = f(old);
        self.put(la, size as usize, new);
        Ok(old)
    }
    fn cmpxchg16(
        &mut self,
        _: &mut CpuState,
        la: u64,
        expected: u128,
        new: u128,
    ) -> Result<u128, Stop> {
        let at = self.check(la, 16, Access::ReadModify)?;
        let mut b = [0; 16];
        b.copy_from_slice(&self.mem[at..at + 16]);
        let old = u128::from_le_bytes(b);
        if old == expected {
            self.mem[at..at + 16].copy_from_slice(&new.to_le_bytes());
        }
        Ok(old)
    }
    fn commit(&mut self, _: &mut CpuState) {
        self.commits += 1;
    }
    fn io_in(&mut self, _: &mut CpuState, _: u16, _: u32) -> Result<u32, Stop> {
        Err(Stop::Shutdown)
    }
    fn io_out(&mut self, _: &mut CpuState, _: u16, _: u32, _: u32) -> Result<(), Stop> {
        Err(Stop::Shutdown)
    }
    fn cpuid(&mut self, _: &CpuState, _: u32, _: u32) -> [u32; 4] {
        [0; 4]
    }
    fn has_feature(&self, feature: CpuidFeature) -> bool {
        !self.hidden.contains(&feature)
    }
    fn rdmsr(&mut self, _: &mut CpuState, _: u32) -> Result<u64, Stop> {
        Err(Stop::Shutdown)
    }
    fn wrmsr(&mut self, _: &mut CpuState, _: u32, _: u64) -> Result<(), Stop> {
        Err(Stop::Shutdown)
    }
    fn tsc(&mut self, _: &CpuState) -> u64 {
        0
    }
    fn cr8(&mut self, _: &CpuState) -> u64 {
        0
    }
    fn set_cr8(&mut self, _: &mut CpuState, _: u64) {}
    fn mmu(&mut self, _: &mut CpuState, _: MmuEvent) {}
    fn native(
        &mut self,
        _: &mut CpuState,
        insn: &Instruction,
        mem: &mut [u8],
    ) -> Result<(), Exception> {
        self.natives.push((insn.code(), mem.to_vec()));
        mem.fill(self.native_out);
        Ok(())
    }
    fn hypercall(&mut self, _: &mut CpuState) -> Result<u64, Stop> {
        Err(Stop::Shutdown)
    }
}

const CODE: u16 = attr::P | attr::S | attr::X | attr::RW | attr::A;
const DATA: u16 = attr::P | attr::S | attr::RW | attr::A;

/// 64-bit code at CPL 0 with vector state enabled, RIP 0x1000, RSP 0x7000.
pub(crate) fn cpu64() -> CpuState {
    let mut cpu = cpu32();
    cpu.efer = efer::LME | efer::LMA;
    cpu.cr0 |= cr0::PG;
    cpu.seg[Seg::Cs as usize].attr = CODE | attr::L;
    cpu
}

/// Flat 32-bit protected mode.
pub(crate) fn cpu32() -> CpuState {
    let mut cpu = CpuState {
        cr0: cr0::PE | cr0::ET,
        cr4: x86::cr4::OSFXSR | x86::cr4::OSXSAVE,
        xcr0: 0xe7,
        rip: 0x1000,
        rflags: flags::FIXED1,
        gpr: [0; 16],
        ..CpuState::default()
    };
    for s in cpu.seg.iter_mut().take(6) {
        s.base = 0;
        s.limit = u32::MAX;
        s.attr = DATA | attr::DB | attr::G;
    }
    cpu.seg[Seg::Cs as usize].attr = CODE | attr::DB | attr::G;
    cpu.gpr[x86::gpr::RSP] = 0x7000;
    cpu
}

/// Real mode with all bases 0.
pub(crate) fn cpu16() -> CpuState {
    let mut cpu = CpuState {
        rip: 0x1000,
        gpr: [0; 16],
        ..CpuState::default()
    };
    cpu.seg[Seg::Cs as usize].base = 0;
    cpu.gpr[x86::gpr::RSP] = 0x7000;
    cpu
}

/// Decodes and executes one instruction; moves RIP on as the driver does.
pub(crate) fn step(cpu: &mut CpuState, w: &mut World, code: &[u8]) -> Result<Handled, Stop> {
    let insn = Decoder::with_ip(cpu.bitness(), code, cpu.rip, DecoderOptions::NONE).decode();
    let mut ctx = Ctx::new(cpu, w, &insn);
    let next = ctx.next_rip();
    let done = super::execute(&mut ctx)?;
    if done == Handled::Next {
        cpu.rip = next;
    }
    Ok(done)
}
