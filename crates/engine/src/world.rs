//! What an interpreted instruction sees: memory through the TLBs, devices of
//! the engine directly, everything else through exits.
#![allow(
    unsafe_code,
    reason = "host pages found by the TLBs are accessed through raw pointers"
)]

use crate::counters::bump;
use crate::cpuid;
use crate::features::FeatureSet;
use crate::halt::HaltPoll;
use crate::jumps::{Jumps, Now};
use crate::msr::ClockMsrs;
use crate::replay::{Op, Replay};
use crate::stress::Dice;
use crate::vm::SoftVm;
use hv::abi::kvm_cpuid_entry2;
use iced_x86::Instruction;
use irqchip::IOAPIC_BASE;
use isa::{Access, Counted, Env, MmuEvent, Stop, XsaveAreas};
use jit::cache::Area;
use jit::cache::CodeCache;
use jit::native::NativeExec;
use softmmu::SlotMap;
use softmmu::tlb::{Bank, Resolved, Tlb};
use softmmu::walk::Need;
use x86::paging::{PAGE_MASK, PAGE_SIZE};
use x86::{CpuState, Exception, canonical48, cr4};

/// State of a vCPU that is neither architectural nor shared.
pub struct Local {
    /// The guest's CPUID table.
    pub cpuid: Vec<kvm_cpuid_entry2>,
    /// What the table offers.
    pub features: FeatureSet,
    /// What the table says of XSAVE, if it was asked.
    pub xsave_areas: Option<XsaveAreas>,
    /// TSC and kvmclock.
    pub clock: ClockMsrs,
    /// Jump caches of the address spaces.
    pub jumps: Jumps,
    /// An exit that replaces the instruction's outcome (emulation failure).
    pub abort: Option<hv::VcpuExit>,
    /// Jump caches of kernel code hold addresses reached through mappings
    /// that are not global.
    pub kernel_jumps_local: bool,
    /// Whether other vCPUs are stopped.
    pub alone: Alone,
    /// How it waits for its wake-up.
    pub halt: HaltPoll,
    /// PAUSE instructions executed.
    pub pauses: u32,
    /// Where a translation without windows shall run: one with windows was left
    /// there, since a window lies in two pages.
    pub narrow_at: Option<u64>,
    /// For [`crate::Options::profile`].
    pub(crate) sampling: crate::profile::Sampling,
    /// Where translations are made from.
    pub(crate) code_bytes: Box<crate::blocks::CodeBytes>,
    /// For [`crate::Stress`].
    pub dice: Dice,
}

/// PAUSE instructions between offers to let another thread run.
const PAUSES: u32 = 32;
/// Bytes of a cache line.
const LINE: u64 = 64;

/// Whether the vCPU has the machine for itself, for a LOCK that no host
/// instruction can make well: an operand in two cache lines or pages. Hosts
/// may trap a locked access to two lines and make the thread wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alone {
    /// Others may run.
    No,
    /// The instruction stopped because it must be alone.
    Wanted,
    /// The other vCPUs are stopped.
    Yes,
}

/// The world of one vCPU for the duration of an instruction.
pub struct World<'a> {
    /// The VM.
    pub vm: &'a SoftVm,
    /// Index of the vCPU in the VM.
    pub index: usize,
    /// TLBs.
    pub tlb: &'a mut Tlb,
    /// Memory slots.
    pub map: &'a SlotMap,
    /// Accesses of the instruction in flight.
    pub replay: &'a mut Replay,
    /// Host execution of vector instructions.
    pub native: &'a mut NativeExec,
    /// Everything else.
    pub local: &'a mut Local,
}

/// A part of an access that lies in one page.
#[derive(Clone, Copy)]
struct Chunk {
    page: Resolved,
    offset: u64,
    range: (usize, usize),
}

impl Chunk {
    fn gpa(&self) -> u64 {
        self.page.gpa + self.offset
    }
    fn len(&self) -> usize {
        self.range.1 - self.range.0
    }
}

/// What an access by an instruction needs of its page.
pub fn need(cpu: &CpuState, how: Access) -> Need {
    Need {
        write: how.is_write(),
        exec: false,
        user: cpu.cpl() == 3 && !how.is_system(),
        implicit: how.is_system() && cpu.cpl() == 3,
    }
}

impl World<'_> {
    /// Resolves every page of an access before any of it is done.
    fn chunks(
        &mut self,
        cpu: &CpuState,
        la: u64,
        len: usize,
        how: Access,
    ) -> Result<[Option<Chunk>; 2], Stop> {
        let need = need(cpu, how);
        let offset = la & PAGE_MASK;
        let first = len.min((PAGE_SIZE - offset) as usize);
        let page = self.tlb.resolve(cpu, self.map, la, need)?;
        let one = Chunk {
            page,
            offset,
            range: (0, first),
        };
        if first == len {
            return Ok([Some(one), None]);
        }
        let mut next = la.wrapping_add(first as u64);
        if !cpu.long_mode() {
            next &= 0xffff_ffff;
        } else if !canonical48(next) {
            return Err(Exception::GP0.into());
        }
        let page = self.tlb.resolve(cpu, self.map, next, need)?;
        Ok([
            Some(one),
            Some(Chunk {
                page,
                offset: 0,
                range: (first, len),
            }),
        ])
    }

    /// Host address of an access that the first level has. What the processor itself
    /// reads and writes is a supervisor access that SMAP holds for.
    fn hit(&self, cpu: &CpuState, la: u64, len: usize, how: Access) -> Option<u64> {
        let bank = match how.is_system() {
            true => Bank::Kernel,
            false => Bank::of(cpu),
        };
        self.tlb.hit(bank, la, len as u32, how.is_write())
    }

    fn read_into(
        &mut self,
        cpu: &CpuState,
        la: u64,
        buf: &mut [u8],
        how: Access,
    ) -> Result<(), Stop> {
        if let Some(host) = self.hit(cpu, la, buf.len(), how) {
            // SAFETY: the first level has but pages of slots, mapped as long as
            // these exist; a hit stays inside its page.
            unsafe { softmmu::host_read(host, buf) };
            return Ok(());
        }
        for c in self.chunks(cpu, la, buf.len(), how)?.into_iter().flatten() {
            let part = &mut buf[c.range.0..c.range.1];
            match c.page.host {
                // SAFETY: `host` is a page of a slot, mapped as long as the
                // slot exists; the chunk stays inside it.
                Some(host) => unsafe { softmmu::host_read(host + c.offset, part) },
                None => self.device_read(c.gpa(), part)?,
            }
        }
        Ok(())
    }

    /// Writes `buf` to memory or devices.
    pub(crate) fn write_from(
        &mut self,
        cpu: &CpuState,
        la: u64,
        buf: &[u8],
        how: Access,
    ) -> Result<(), Stop> {
        if let Some(host) = self.hit(cpu, la, buf.len(), how) {
            // SAFETY: as in `read_into`; writes hit where they may go straight there.
            unsafe { softmmu::host_write(host, buf) };
            return Ok(());
        }
        for c in self.chunks(cpu, la, buf.len(), how)?.into_iter().flatten() {
            let part = &buf[c.range.0..c.range.1];
            // SAFETY: as in `read_into`; read-only slots are not written.
            let done = self.write_chunk(&c, |host| unsafe { softmmu::host_write(host, part) });
            if done.is_none() {
                self.device_write(c.gpa(), part)?;
            }
        }
        Ok(())
    }

    /// Writes to a chunk with `f`, which is given its host address, and marks
    /// its page dirty; `None` if the write belongs to the VMM.
    fn write_chunk<T>(&mut self, c: &Chunk, f: impl FnOnce(u64) -> T) -> Option<T> {
        let host = c.page.host? + c.offset;
        if c.page.plain_write {
            return Some(f(host));
        }
        let page = self.map.page(c.page.gpa)?;
        if page.slot.readonly {
            return None;
        }
        page.mark_dirty();
        if !page.has_code() {
            return Some(f(host));
        }
        // While the lock is held nobody translates: who sees the new bytes has
        // been told before to forget the translations of the old ones.
        let vm = self.vm;
        let mut code = vm.code.lock();
        self.drop_code(&mut code, c.gpa(), c.len() as u64);
        Some(f(host))
    }

    /// After a write on the engine's behalf, like [`hv::Vm::memory_written`].
    pub fn code_written(&mut self, gpa: u64, len: u64) {
        let vm = self.vm;
        for (at, len) in softmmu::pages_of(gpa, len) {
            self.drop_code(&mut vm.code.lock(), at, len);
        }
    }

    /// Drops translations made from the range (inside one page).
    fn drop_code(&mut self, code: &mut CodeCache, gpa: u64, len: u64) {
        let dropped = code.invalidate(gpa, len);
        if !code.has_page(gpa)
            && let Some(page) = self.map.page(gpa)
        {
            page.set_code(false);
        }
        if dropped.is_empty() {
            return;
        }
        self.local.jumps.forget(&dropped);
        self.vm.ask_others(self.index, |f| f.code(&dropped));
        bump(&self.vm.counters.remote_tlb_flush);
    }

    // ---- devices ---------------------------------------------------------

    /// Makes an access outside memory, once: in the engine or through the VMM.
    fn external(&mut self, op: Op) -> Result<u64, Stop> {
        if let Some(value) = self.replay.next(op) {
            return Ok(value);
        }
        if self.vm.has_irqchip()
            && let Some(value) = self.engine_device(op)
        {
            self.replay.record(op, value);
            return Ok(value);
        }
        self.replay.ask(op);
        Err(Stop::Suspend)
    }

    /// Interrupt controllers and timer chip.
    fn engine_device(&mut self, op: Op) -> Option<u64> {
        let (me, now) = (self.index, self.vm.clock.now_ns());
        let chipset = self.vm.chipset.lock();
        let mine = match op {
            Op::In { port, .. } | Op::Out { port, .. } => chipset.owns_port(port),
            Op::Read { gpa, .. } | Op::Write { gpa, .. } => {
                chipset.ioapic_owns_gpa(gpa) || chipset.lapic_owns_gpa(me, gpa)
            }
        };
        drop(chipset);
        mine.then(|| {
            self.vm
                .with_chipset_on(me, |c| access_chipset(c, me, now, op))
        })
    }

    fn device_read(&mut self, gpa: u64, buf: &mut [u8]) -> Result<(), Stop> {
        for (i, part) in buf.chunks_mut(8).enumerate() {
            let op = Op::Read {
                gpa: gpa + 8 * i as u64,
                size: part.len() as u8,
            };
            let value = self.external(op)?.to_le_bytes();
            part.copy_from_slice(&value[..part.len()]);
        }
        Ok(())
    }

    fn device_write(&mut self, gpa: u64, buf: &[u8]) -> Result<(), Stop> {
        for (i, part) in buf.chunks(8).enumerate() {
            let mut value = [0; 8];
            value[..part.len()].copy_from_slice(part);
            self.external(Op::Write {
                gpa: gpa + 8 * i as u64,
                size: part.len() as u8,
                value: u64::from_le_bytes(value),
            })?;
        }
        Ok(())
    }

    fn pcid(cpu: &CpuState) -> u16 {
        if cpu.cr4 & cr4::PCIDE != 0 {
            (cpu.cr3 & 0xfff) as u16
        } else {
            0
        }
    }

    /// The TLB forgot everything: links between pages hold only through
    /// mappings that are still there. Jump caches find out when they are used.
    fn flush_all(&mut self, cpu: &CpuState) {
        self.tlb.flush_all();
        let now = Now::new(cpu, self.tlb, self.map);
        let mut code = self.vm.code.lock();
        code.unlink_changed(Area::ALL, |la, gpa| now.kernel(la, gpa));
    }

    /// The TLB forgot mappings that are not global.
    fn flushed_local(&mut self) {
        if std::mem::take(&mut self.local.kernel_jumps_local) {
            self.local.jumps.clear_kernel();
        }
    }
}

fn access_chipset(c: &mut irqchip::Chipset, me: usize, now: u64, op: Op) -> u64 {
    match op {
        Op::In { port, size } => (0..size)
            .map(|i| u64::from(c.pio_read(port + u16::from(i), now)) << (8 * i))
            .sum(),
        Op::Out { port, size, value } => {
            for i in 0..size {
                c.pio_write(port + u16::from(i), (value >> (8 * i)) as u8, now);
            }
            0
        }
        Op::Read { gpa, size } if c.ioapic_owns_gpa(gpa) => {
            let value = u64::from(c.ioapic_read((gpa - IOAPIC_BASE) as u32));
            if size < 4 {
                value & ((1 << (8 * size)) - 1)
            } else {
                value
            }
        }
        Op::Write { gpa, value, .. } if c.ioapic_owns_gpa(gpa) => {
            c.ioapic_write((gpa - IOAPIC_BASE) as u32, value as u32);
            0
        }
        Op::Read { gpa, size } => c.lapic_read(me, (gpa & PAGE_MASK) as u32, u32::from(size), now),
        Op::Write { gpa, size, value } => {
            c.lapic_write(me, (gpa & PAGE_MASK) as u32, u32::from(size), value, now);
            0
        }
    }
}

impl Env for World<'_> {
    fn load(&mut self, cpu: &mut CpuState, la: u64, size: u32, how: Access) -> Result<u64, Stop> {
        let mut buf = [0; 8];
        let part = &mut buf[..size as usize & 15];
        if how == Access::Read
            && let Some(host) = self.tlb.hit(Bank::of(cpu), la, size, false)
        {
            // SAFETY: a first-level entry covers the whole access.
            unsafe { softmmu::host_read(host, part) };
            return Ok(u64::from_le_bytes(buf));
        }
        self.read_into(cpu, la, part, how)?;
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
        let bytes = value.to_le_bytes();
        let part = &bytes[..size as usize & 15];
        if how == Access::Write
            && let Some(host) = self.tlb.hit(Bank::of(cpu), la, size, true)
        {
            // SAFETY: as in `load`; write tags cover plain memory only.
            unsafe { softmmu::host_write(host, part) };
            return Ok(());
        }
        self.write_from(cpu, la, part, how)
    }
    fn load_bytes(
        &mut self,
        cpu: &mut CpuState,
        la: u64,
        buf: &mut [u8],
        how: Access,
    ) -> Result<(), Stop> {
        self.read_into(cpu, la, buf, how)
    }
    fn store_bytes(
        &mut self,
        cpu: &mut CpuState,
        la: u64,
        buf: &[u8],
        how: Access,
    ) -> Result<(), Stop> {
        self.write_from(cpu, la, buf, how)
    }
    fn probe(&mut self, cpu: &mut CpuState, la: u64, len: u32, how: Access) -> Result<(), Stop> {
        self.chunks(cpu, la, (len as usize).clamp(1, 4096), how)
            .map(|_| ())
    }
    fn plain(&mut self, cpu: &mut CpuState, la: u64, len: u32, how: Access) -> bool {
        if (la & PAGE_MASK) + u64::from(len) > PAGE_SIZE {
            return false;
        }
        let page = self.tlb.resolve(cpu, self.map, la, need(cpu, how));
        page.is_ok_and(|p| p.host.is_some() && (p.plain_write || !how.is_write()))
    }
    fn fetch(&mut self, cpu: &mut CpuState, la: u64, buf: &mut [u8]) -> Result<(), Stop> {
        let user = cpu.cpl() == 3;
        let need = Need {
            write: false,
            exec: true,
            user,
            implicit: false,
        };
        let page = self.tlb.resolve(cpu, self.map, la, need)?;
        let Some(host) = page.host else {
            self.local.abort = Some(hv::VcpuExit::InternalError {
                suberror: 1, // KVM_INTERNAL_ERROR_EMULATION
                rip: cpu.rip,
                bytes: [0; 15],
                len: 0,
            });
            return Err(Stop::Suspend);
        };
        // SAFETY: the caller keeps the range inside the page.
        unsafe { softmmu::host_read(host + (la & PAGE_MASK), buf) };
        Ok(())
    }
    fn update(
        &mut self,
        cpu: &mut CpuState,
        la: u64,
        size: u32,
        f: &mut dyn FnMut(u64) -> u64,
    ) -> Result<u64, Stop> {
        let [first, _] = self.chunks(cpu, la, size as usize, Access::ReadModify)?;
        let split = la % LINE + u64::from(size) > LINE;
        if let (Some(c), false) = (first, split) {
            // SAFETY: as in `write_from`.
            let done =
                self.write_chunk(&c, |host| unsafe { softmmu::atomic_update(host, size, f) });
            if let Some(old) = done {
                return Ok(old);
            }
        }
        if split && self.local.alone == Alone::No {
            self.local.alone = Alone::Wanted;
            return Err(Stop::Suspend);
        }
        let old = self.load(cpu, la, size, Access::ReadModify)?;
        self.store(cpu, la, size, f(old), Access::Write)?;
        Ok(old)
    }
    fn cmpxchg16(
        &mut self,
        cpu: &mut CpuState,
        la: u64,
        expected: u128,
        new: u128,
    ) -> Result<u128, Stop> {
        let [first, _] = self.chunks(cpu, la, 16, Access::ReadModify)?;
        // SAFETY: the operand is 16-byte aligned (checked by the instruction),
        // so it lies in the resolved page.
        let swap = |host| unsafe { softmmu::atomic_cmpxchg16(host, expected, new) };
        if let Some(old) = first.and_then(|c| self.write_chunk(&c, swap)) {
            return Ok(old);
        }
        let mut buf = [0; 16];
        self.read_into(cpu, la, &mut buf, Access::ReadModify)?;
        let old = u128::from_le_bytes(buf);
        let stored = if old == expected { new } else { old };
        self.write_from(cpu, la, &stored.to_le_bytes(), Access::Write)?;
        Ok(old)
    }
    fn pause(&mut self) {
        // Most waits are short; in a long one the processor that the guest
        // waits for may need this host CPU.
        self.local.pauses = self.local.pauses.wrapping_add(1);
        if self.local.pauses.is_multiple_of(PAUSES) {
            std::thread::yield_now();
        }
    }
    fn commit(&mut self, _cpu: &mut CpuState) {
        self.replay.commit();
    }
    fn io_in(&mut self, _cpu: &mut CpuState, port: u16, size: u32) -> Result<u32, Stop> {
        Ok(self.external(Op::In {
            port,
            size: size as u8,
        })? as u32)
    }
    fn io_out(
        &mut self,
        _cpu: &mut CpuState,
        port: u16,
        size: u32,
        value: u32,
    ) -> Result<(), Stop> {
        self.external(Op::Out {
            port,
            size: size as u8,
            value,
        })
        .map(|_| ())
    }
    fn cpuid(&mut self, cpu: &CpuState, leaf: u32, subleaf: u32) -> [u32; 4] {
        let mut r = cpuid::lookup(&self.local.cpuid, leaf, subleaf);
        match (leaf, subleaf) {
            (1, _) => {
                let osxsave = cpu.cr4 & cr4::OSXSAVE != 0;
                r[2] = r[2] & !(1 << 27) | u32::from(osxsave) << 27;
                let apic = !self.vm.has_irqchip()
                    || self.vm.chipset.lock().apic_base(self.index) & (1 << 11) != 0;
                r[3] = r[3] & !(1 << 9) | u32::from(apic) << 9;
            }
            (0xd, 0) if r[0] != 0 => r[1] = self.xsave_size(cpu.xcr0, false),
            (0xd, 1) if r[0] & 2 != 0 => r[1] = self.xsave_size(cpu.xcr0 | cpu.msr.xss, true),
            _ => {}
        }
        r
    }
    fn xsave_areas(&mut self, cpu: &CpuState) -> XsaveAreas {
        let known = self.local.xsave_areas.take();
        let areas = known.unwrap_or_else(|| XsaveAreas::new(cpu, self));
        *self.local.xsave_areas.insert(areas)
    }
    fn has_feature(&self, feature: iced_x86::CpuidFeature) -> bool {
        self.local.features.has(feature)
    }
    fn rdmsr(&mut self, cpu: &mut CpuState, index: u32) -> Result<u64, Stop> {
        self.read_msr(cpu, index)
    }
    fn wrmsr(&mut self, cpu: &mut CpuState, index: u32, value: u64) -> Result<(), Stop> {
        self.write_msr(cpu, index, value, false)
    }
    fn tsc(&mut self, _cpu: &CpuState) -> u64 {
        self.guest_tsc()
    }
    fn cr8(&mut self, cpu: &CpuState) -> u64 {
        if self.vm.has_irqchip() {
            self.vm.chipset.lock().cr8(self.index)
        } else {
            cpu.cr8
        }
    }
    fn set_cr8(&mut self, cpu: &mut CpuState, value: u64) {
        cpu.cr8 = value;
        if self.vm.has_irqchip() {
            let me = self.index;
            self.vm.with_chipset_on(me, |c| c.set_cr8(me, value));
        }
    }
    fn load_pdptes(&mut self, cr3: u64) -> bool {
        self.tlb.load_valid_pdptes(cr3, self.map)
    }
    fn mmu(&mut self, cpu: &mut CpuState, event: MmuEvent) {
        match event {
            MmuEvent::Cr3 { keep } => {
                self.tlb.load_space(Self::pcid(cpu), keep);
                self.flushed_local();
            }
            MmuEvent::FlushAll => self.flush_all(cpu),
            MmuEvent::Invlpg(la) => self.invlpg(cpu, la),
            MmuEvent::Invpcid { kind, pcid, addr } => self.invpcid(cpu, kind, pcid, addr),
            MmuEvent::Mode => {}
        }
    }
    fn native(
        &mut self,
        cpu: &mut CpuState,
        insn: &Instruction,
        mem: &mut [u8],
    ) -> Result<(), Exception> {
        self.native.run(cpu, insn, mem)
    }
    fn hypercall(&mut self, _cpu: &mut CpuState) -> Result<u64, Stop> {
        bump(&self.vm.counters.hypercalls);
        Ok((-1000i64).cast_unsigned()) // -KVM_ENOSYS
    }
    fn executing(&mut self, cpu: &CpuState, insn: &Instruction) {
        log::trace!(target: crate::INSN_LOG, "{:#018x} {:?}: {insn}", cpu.rip, insn.code());
    }
    fn count(&mut self, what: Counted) {
        let c = &self.vm.counters;
        bump(match what {
            Counted::Invlpg => &c.invlpg,
            Counted::EferReload => &c.efer_reload,
            Counted::FpuReload => &c.fpu_reload,
        });
    }
}

impl World<'_> {
    fn invlpg(&mut self, cpu: &CpuState, la: u64) {
        let area = Area::page(la, self.tlb.invlpg(la));
        let now = Now::new(cpu, self.tlb, self.map);
        self.local.jumps.recheck(area, &now);
        let mut code = self.vm.code.lock();
        code.unlink_changed(area, |la, gpa| now.kernel(la, gpa));
    }

    fn invpcid(&mut self, cpu: &CpuState, kind: u8, pcid: u16, addr: u64) {
        let current = Self::pcid(cpu);
        match kind {
            0 if pcid == current => return self.invlpg(cpu, addr),
            0 | 1 => self.tlb.flush_pcid(pcid, current),
            2 => return self.flush_all(cpu),
            _ => self.tlb.flush_non_global(current),
        }
        self.flushed_local();
    }

    /// Bytes of an XSAVE image with these components (SDM vol 1, 13.4).
    fn xsave_size(&self, components: u64, compacted: bool) -> u32 {
        let mut end = 576u32;
        for i in (2..63).filter(|i| components >> i & 1 != 0) {
            let [size, offset, flags, _] = cpuid::lookup(&self.local.cpuid, 0xd, i);
            let at = match (compacted, flags & 2 != 0) {
                (false, _) => offset,
                (true, true) => end.next_multiple_of(64),
                (true, false) => end,
            };
            end = if compacted {
                at + size
            } else {
                end.max(at + size)
            };
        }
        end
    }
}
