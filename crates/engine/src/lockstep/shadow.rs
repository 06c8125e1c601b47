//! The world of a rehearsed instruction: reads go to guest memory, writes to an
//! overlay, and what the instruction would change elsewhere is not changed.

use super::overlay::{Overlay, Tables};
use crate::features::FeatureSet;
use crate::world::need;
use iced_x86::{CpuidFeature, Instruction};
use isa::{Access, Env, MmuEvent, Stop};
use jit::native::NativeExec;
use softmmu::SlotMap;
use softmmu::tlb::{Bank, Tlb};
use softmmu::walk::{self, Mapping};
use std::cell::RefCell;
use x86::paging::{PAGE_MASK, PAGE_SIZE};
use x86::{CpuState, Exception, canonical48};

/// A rehearsal's world.
pub struct Shadow<'a> {
    /// Memory slots.
    pub map: &'a SlotMap,
    /// The vCPU's TLBs, which are not filled.
    pub tlb: &'a Tlb,
    /// What was written.
    pub overlay: &'a RefCell<&'a mut Overlay>,
    /// Host execution of vector instructions.
    pub native: &'a mut NativeExec,
    /// What the guest is offered.
    pub features: &'a FeatureSet,
    /// Walks done, as the TLB would remember them: page and mapping.
    pub walks: Vec<(u64, Mapping)>,
}

/// Parts of an access, each inside one page: host address and length.
type Parts = [(u64, usize); 2];

impl Shadow<'_> {
    /// Host address of `la`, by what the TLBs hold or a walk. Device memory and
    /// writes to ROM leave to the VMM: the instruction ends the rehearsal.
    fn host(&mut self, cpu: &CpuState, la: u64, how: Access) -> Result<u64, Stop> {
        let bank = Bank::of(cpu);
        if !how.is_system()
            && let Some(host) = self.tlb.hit(bank, la, 1, how.is_write())
        {
            return Ok(host);
        }
        let gpa = self.mapping(cpu, la, how)?.gpa | la & PAGE_MASK;
        match self.map.page(gpa) {
            Some(page) if !(how.is_write() && page.slot.readonly) => {
                Ok(page.hva + (gpa & PAGE_MASK))
            }
            _ => Err(Stop::Suspend),
        }
    }

    fn mapping(&mut self, cpu: &CpuState, la: u64, how: Access) -> Result<Mapping, Exception> {
        let need = need(cpu, how);
        let page = la & !PAGE_MASK;
        let own = self.walks.iter().rev().find(|(p, _)| *p == page);
        let own = own.map(|(_, m)| *m).filter(|m| m.dirty || !need.write);
        let known = own.or_else(|| self.tlb.known(la, need.write));
        if let Some(known) = known.filter(|m| walk::check(cpu, m, need).is_ok()) {
            return Ok(known);
        }
        let tables = Tables {
            map: self.map,
            overlay: self.overlay,
        };
        let found = walk::translate(cpu, &tables, la, need, self.tlb.roots())?;
        self.walks.push((page, found));
        Ok(found)
    }

    /// Resolves every page of an access before any of it is done.
    fn parts(&mut self, cpu: &CpuState, la: u64, len: usize, how: Access) -> Result<Parts, Stop> {
        let first = len.min((PAGE_SIZE - (la & PAGE_MASK)) as usize);
        let one = (self.host(cpu, la, how)?, first);
        if first == len {
            return Ok([one, (0, 0)]);
        }
        let mut next = la.wrapping_add(first as u64);
        if !cpu.long_mode() {
            next &= 0xffff_ffff;
        } else if !canonical48(next) {
            return Err(Exception::GP0.into());
        }
        Ok([one, (self.host(cpu, next, how)?, len - first)])
    }

    fn read(&mut self, cpu: &CpuState, la: u64, buf: &mut [u8], how: Access) -> Result<(), Stop> {
        let [(one, n), (two, _)] = self.parts(cpu, la, buf.len(), how)?;
        let (head, tail) = buf.split_at_mut(n);
        let overlay = self.overlay.borrow();
        overlay.read(one, head);
        if !tail.is_empty() {
            overlay.read(two, tail);
        }
        Ok(())
    }

    fn write(&mut self, cpu: &CpuState, la: u64, buf: &[u8], how: Access) -> Result<(), Stop> {
        let [(one, n), (two, _)] = self.parts(cpu, la, buf.len(), how)?;
        let (head, tail) = buf.split_at(n);
        let mut overlay = self.overlay.borrow_mut();
        overlay.write(one, head);
        if !tail.is_empty() {
            overlay.write(two, tail);
        }
        Ok(())
    }
}

/// Translations contain no instruction that needs what is not answered here:
/// ports, MSRs, time, the MMU. Such a one would end the rehearsal.
impl Env for Shadow<'_> {
    fn load(&mut self, cpu: &mut CpuState, la: u64, size: u32, how: Access) -> Result<u64, Stop> {
        let mut buf = [0; 8];
        self.read(cpu, la, &mut buf[..size as usize & 15], how)?;
        Ok(u64::from_le_bytes(buf))
    }
    fn store(
        &mut self,
        cpu: &mut CpuState,
        la: u64,
        size: u32,
        value: u64,
        how: Access,
    ) -> Result<(), Stop> {
        self.write(cpu, la, &value.to_le_bytes()[..size as usize & 15], how)
    }
    fn load_bytes(
        &mut self,
        cpu: &mut CpuState,
        la: u64,
        buf: &mut [u8],
        how: Access,
    ) -> Result<(), Stop> {
        self.read(cpu, la, buf, how)
    }
    fn store_bytes(
        &mut self,
        cpu: &mut CpuState,
        la: u64,
        buf: &[u8],
        how: Access,
    ) -> Result<(), Stop> {
        self.write(cpu, la, buf, how)
    }
    fn probe(&mut self, cpu: &mut CpuState, la: u64, len: u32, how: Access) -> Result<(), Stop> {
        self.parts(cpu, la, (len as usize).clamp(1, 4096), how)
            .map(|_| ())
    }
    fn plain(&mut self, cpu: &mut CpuState, la: u64, len: u32, how: Access) -> bool {
        (la & PAGE_MASK) + u64::from(len) <= PAGE_SIZE && self.host(cpu, la, how).is_ok()
    }
    fn fetch(&mut self, _cpu: &mut CpuState, _la: u64, _buf: &mut [u8]) -> Result<(), Stop> {
        Err(Stop::Suspend)
    }
    fn cmpxchg16(
        &mut self,
        cpu: &mut CpuState,
        la: u64,
        expected: u128,
        new: u128,
    ) -> Result<u128, Stop> {
        let mut buf = [0; 16];
        self.read(cpu, la, &mut buf, Access::ReadModify)?;
        let old = u128::from_le_bytes(buf);
        let stored = if old == expected { new } else { old };
        self.write(cpu, la, &stored.to_le_bytes(), Access::Write)?;
        Ok(old)
    }
    fn commit(&mut self, _cpu: &mut CpuState) {}
    fn io_in(&mut self, _cpu: &mut CpuState, _port: u16, _size: u32) -> Result<u32, Stop> {
        Err(Stop::Suspend)
    }
    fn io_out(&mut self, _: &mut CpuState, _: u16, _: u32, _: u32) -> Result<(), Stop> {
        Err(Stop::Suspend)
    }
    fn cpuid(&mut self, _cpu: &CpuState, _leaf: u32, _subleaf: u32) -> [u32; 4] {
        [0; 4]
    }
    fn has_feature(&self, feature: CpuidFeature) -> bool {
        self.features.has(feature)
    }
    fn rdmsr(&mut self, _cpu: &mut CpuState, _index: u32) -> Result<u64, Stop> {
        Err(Stop::Suspend)
    }
    fn wrmsr(&mut self, _cpu: &mut CpuState, _index: u32, _value: u64) -> Result<(), Stop> {
        Err(Stop::Suspend)
    }
    fn tsc(&mut self, _cpu: &CpuState) -> u64 {
        0
    }
    fn cr8(&mut self, cpu: &CpuState) -> u64 {
        cpu.cr8
    }
    fn set_cr8(&mut self, cpu: &mut CpuState, value: u64) {
        cpu.cr8 = value;
    }
    fn mmu(&mut self, _cpu: &mut CpuState, _event: MmuEvent) {}
    fn native(
        &mut self,
        cpu: &mut CpuState,
        insn: &Instruction,
        mem: &mut [u8],
    ) -> Result<(), Exception> {
        self.native.run(cpu, insn, mem)
    }
    fn hypercall(&mut self, _cpu: &mut CpuState) -> Result<u64, Stop> {
        Err(Stop::Suspend)
    }
}
