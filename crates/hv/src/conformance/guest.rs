//! A small VM with one program.

use super::frame::Frame;
use super::layout::*;
use super::paging::Tables;
use super::ram::Ram;
use super::watchdog::Watchdog;
use super::{Failure, ensure, expect};
use crate::abi::{kvm_cpuid_entry2, kvm_regs};
use crate::{DebugExit, Hypervisor, MemFlags, MemSlot, Vcpu, VcpuExit, Vm};
use iced_x86::IcedError;
use iced_x86::code_asm::CodeAssembler;
use std::collections::VecDeque;
use std::sync::Arc;

/// Processor mode a case starts in. Every mode but real and protected pages
/// the first 2 MiB one to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Real mode, CS = CODE/16, DS = DATA/16, ES = MMIO/16, SS = 0.
    Real,
    /// 32-bit protected mode, flat, no paging.
    Prot32,
    /// 32-bit protected mode with two-level paging and 4 MiB pages allowed.
    Paging32,
    /// 32-bit protected mode with PAE paging.
    Pae,
    /// 64-bit mode.
    Long,
    /// 32-bit code under long mode.
    Compat,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 6] = [
        Self::Real,
        Self::Prot32,
        Self::Paging32,
        Self::Pae,
        Self::Long,
        Self::Compat,
    ];
    /// The modes with flat segments.
    pub const FLAT: [Self; 5] = [
        Self::Prot32,
        Self::Paging32,
        Self::Pae,
        Self::Long,
        Self::Compat,
    ];
    /// Code bitness for the assembler.
    pub fn bits(self) -> u32 {
        match self {
            Self::Real => 16,
            Self::Long => 64,
            _ => 32,
        }
    }
    /// EFER.LMA.
    pub fn ia32e(self) -> bool {
        matches!(self, Self::Long | Self::Compat)
    }
}

/// Interrupt controllers of the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chips {
    /// None: the case injects.
    None,
    /// PIC, I/O APIC, local APIC.
    Irqchip,
    /// And the 8254.
    Pit,
}

/// Why a program stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// HLT exit.
    Halt,
    /// Write to [`DONE_PORT`].
    Done(u32),
    /// An exception's stub ran.
    Exception(Frame),
    /// Triple fault.
    Shutdown,
    /// Host debugging.
    Debug(DebugExit),
    /// Kick or immediate exit.
    Interrupted,
    /// The interrupt window opened.
    IrqWindow,
    /// Anything else.
    Other(VcpuExit),
}

/// More exits than any case makes.
const EXIT_LIMIT: usize = 100_000;
/// Value of reads for which a case queued none: recognisable in every width.
const DEFAULT_READ: u64 = 0x8877_6655_4433_2211;

/// VM, vCPU, memory and log of a case. The fields drop in this order: vCPU
/// and VM before the memory they use.
pub struct Guest {
    /// The boot processor.
    pub cpu: Box<dyn Vcpu>,
    /// The VM.
    pub vm: Arc<dyn Vm>,
    /// Memory behind the first 2 MiB.
    pub ram: Ram,
    /// Mode it was built for.
    pub mode: Mode,
    /// Controllers it was built with.
    pub chips: Chips,
    /// Port and MMIO exits so far, ends and exceptions excluded.
    pub log: Vec<VcpuExit>,
    /// Values for the next reads.
    pub reads: VecDeque<u64>,
    /// Pool of paging structures.
    pub(super) tables: Tables,
    /// CPUID table given to the vCPUs.
    pub cpuid: Vec<kvm_cpuid_entry2>,
    /// Load TR as available, not busy. AMD's VMRUN takes both, but QEMU's
    /// emulation of it stops with "invalid tss type" at the first stack switch
    /// if TR is busy; Intel's VM entry wants it busy.
    pub(super) idle_tss: bool,
}

impl Guest {
    /// A VM without interrupt controllers.
    pub fn new(hv: &dyn Hypervisor, mode: Mode) -> Result<Self, Failure> {
        Self::with(hv, mode, Chips::None)
    }

    /// A VM with the given controllers, its vCPU set up for `mode` with RIP
    /// at [`CODE`] and every stub, table and descriptor in place.
    pub fn with(hv: &dyn Hypervisor, mode: Mode, chips: Chips) -> Result<Self, Failure> {
        let vm = hv.create_vm()?;
        let ram = Ram::new();
        if chips != Chips::None {
            vm.create_irqchip()?;
        }
        if chips == Chips::Pit {
            vm.create_pit()?;
        }
        for (slot, gpa, end) in [(0, 0, MMIO), (1, MMIO_END, RAM_SIZE)] {
            let slot = MemSlot {
                slot,
                gpa,
                size: end - gpa,
                hva: ram.hva() + gpa,
                flags: MemFlags::NONE,
            };
            // SAFETY: `ram` lives in the guest behind `vm` and `cpu`, which
            // drop first, and is touched by raw pointers only.
            unsafe { vm.set_memory(slot)? };
        }
        let cpu = vm.create_vcpu(0)?;
        let cpuid = hv.supported_cpuid()?;
        let idle_tss = hv.name() == "kvm" && is_amd(&cpuid);
        let mut guest = Self {
            cpu,
            vm,
            ram,
            mode,
            chips,
            log: Vec::new(),
            reads: VecDeque::new(),
            tables: Tables::new(),
            cpuid,
            idle_tss,
        };
        guest.cpu.set_cpuid(&with_apic_id(&guest.cpuid, 0))?;
        guest.set_up_mode()?;
        Ok(guest)
    }

    /// Another vCPU with the same CPUID table.
    pub fn add_cpu(&self, id: u32) -> Result<Box<dyn Vcpu>, Failure> {
        let mut cpu = self.vm.create_vcpu(id)?;
        cpu.set_cpuid(&with_apic_id(&self.cpuid, id))?;
        Ok(cpu)
    }

    /// Adds a slot backed by `ram`, from its offset 0.
    ///
    /// The caller keeps `ram` alive longer than the guest.
    pub fn add_slot(
        &self,
        slot: u32,
        gpa: u64,
        ram: &Ram,
        size: u64,
        flags: MemFlags,
    ) -> Result<(), Failure> {
        ensure("a slot larger than its memory", size <= ram.size())?;
        let slot = MemSlot {
            slot,
            gpa,
            size,
            hva: ram.hva(),
            flags,
        };
        // SAFETY: cases declare their own memory before the guest, so that it
        // drops later; it is touched by raw pointers only.
        unsafe { self.vm.set_memory(slot)? };
        Ok(())
    }

    /// Deletes a slot.
    pub fn delete_slot(&self, slot: u32) -> Result<(), Failure> {
        let slot = MemSlot {
            slot,
            gpa: 0,
            size: 0,
            hva: 0,
            flags: MemFlags::NONE,
        };
        // SAFETY: a slot of size 0 names no memory.
        unsafe { self.vm.set_memory(slot)? };
        Ok(())
    }

    /// Skips the case unless a CPUID bit is offered.
    pub fn need(
        &self,
        leaf: u32,
        index: u32,
        reg: fn(&kvm_cpuid_entry2) -> u32,
        bit: u32,
        what: &'static str,
    ) -> Result<(), Failure> {
        let entry = self
            .cpuid
            .iter()
            .find(|e| e.function == leaf && e.index == index);
        match entry {
            Some(e) if reg(e) & (1 << bit) != 0 => Ok(()),
            _ => Err(Failure::Skipped(what)),
        }
    }

    /// An AMD processor.
    pub fn is_amd(&self) -> bool {
        is_amd(&self.cpuid)
    }

    /// Assembles at a guest-physical address; `ip` is where the code will run.
    pub fn code_at<F>(&mut self, gpa: u64, ip: u64, bits: u32, f: F) -> Result<u64, Failure>
    where
        F: FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    {
        let mut a = CodeAssembler::new(bits)?;
        f(&mut a)?;
        let bytes = a.assemble(ip)?;
        self.write(gpa, &bytes);
        let len = bytes.len() as u64;
        // A program that runs past its end shows at once, by #UD.
        self.write(gpa + len, &[0x0f, 0x0b]);
        Ok(len)
    }

    /// The program: at [`CODE`], in the mode's bitness. Returns its length.
    pub fn asm<F>(&mut self, f: F) -> Result<u64, Failure>
    where
        F: FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    {
        let ip = if self.mode == Mode::Real { 0 } else { CODE };
        self.code_at(CODE, ip, self.mode.bits(), f)
    }

    /// Code for user mode, at [`USER_CODE`].
    pub fn user_asm<F>(&mut self, f: F) -> Result<u64, Failure>
    where
        F: FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    {
        self.code_at(USER_CODE, USER_CODE, self.mode.bits(), f)
    }

    /// Writes guest-physical memory as the VMM does.
    pub fn write(&self, gpa: u64, data: &[u8]) {
        self.ram.write(gpa, data);
        self.vm.memory_written(gpa, data.len() as u64);
    }

    /// Writes `size` little-endian bytes.
    pub fn write_uint(&self, gpa: u64, size: u64, value: u64) {
        self.write(gpa, &value.to_le_bytes()[..size.min(8) as usize]);
    }

    /// Writes eight bytes.
    pub fn write_u64(&self, gpa: u64, value: u64) {
        self.write_uint(gpa, 8, value);
    }

    /// Reads `size` little-endian bytes.
    pub fn read_uint(&self, gpa: u64, size: u64) -> u64 {
        let mut raw = [0; 8];
        self.ram.read(gpa, &mut raw[..size.min(8) as usize]);
        u64::from_le_bytes(raw)
    }

    /// Reads eight bytes.
    pub fn read_u64(&self, gpa: u64) -> u64 {
        self.read_uint(gpa, 8)
    }

    /// Reads four bytes.
    pub fn read_u32(&self, gpa: u64) -> u32 {
        self.read_uint(gpa, 4) as u32
    }

    /// Changes general registers.
    pub fn set<F: FnOnce(&mut kvm_regs)>(&mut self, f: F) -> Result<(), Failure> {
        let mut regs = self.cpu.regs()?;
        f(&mut regs);
        Ok(self.cpu.set_regs(&regs)?)
    }

    /// General registers.
    pub fn regs(&self) -> Result<kvm_regs, Failure> {
        Ok(self.cpu.regs()?)
    }

    /// Runs until the program stops, serving and logging its I/O.
    pub fn run(&mut self) -> Result<Stop, Failure> {
        let watchdog = Watchdog::arm(self.cpu.kicker());
        for _ in 0..EXIT_LIMIT {
            let exit = self.cpu.run()?;
            if exit == VcpuExit::Interrupted && watchdog.fired() {
                return Err(self.stuck());
            }
            if let Some(stop) = self.serve(exit)? {
                return Ok(stop);
            }
        }
        Err(Failure::Wrong("the program does not end".to_owned()))
    }

    fn stuck(&self) -> Failure {
        let place = self.cpu.regs().map_or(0, |r| r.rip);
        Failure::Wrong(format!("no exit in time, RIP {place:#x}"))
    }

    /// Answers one exit; `Some` if it ends the program.
    fn serve(&mut self, exit: VcpuExit) -> Result<Option<Stop>, Failure> {
        let stop = match exit {
            VcpuExit::IoOut {
                port: DONE_PORT,
                value,
                ..
            } => Stop::Done(value),
            VcpuExit::IoOut { port, .. }
                if (EXCEPTION_PORT..EXCEPTION_PORT + 32).contains(&port) =>
            {
                self.exception((port - EXCEPTION_PORT) as u8)?
            }
            VcpuExit::IoIn { .. } | VcpuExit::MmioRead { .. } => {
                let value = self.reads.pop_front().unwrap_or(DEFAULT_READ);
                self.cpu.complete_read(value);
                self.log.push(exit);
                return Ok(None);
            }
            VcpuExit::IoOut { .. } | VcpuExit::MmioWrite { .. } => {
                self.log.push(exit);
                return Ok(None);
            }
            VcpuExit::Hlt => Stop::Halt,
            VcpuExit::Shutdown => Stop::Shutdown,
            VcpuExit::Debug(debug) => Stop::Debug(debug),
            VcpuExit::Interrupted => Stop::Interrupted,
            VcpuExit::IrqWindowOpen => Stop::IrqWindow,
            other => Stop::Other(other),
        };
        Ok(Some(stop))
    }

    /// A stub's OUT: without controllers its HLT makes the registers exact.
    fn exception(&mut self, vector: u8) -> Result<Stop, Failure> {
        if self.chips == Chips::None {
            expect("exit after the stub's OUT", self.cpu.run()?, VcpuExit::Hlt)?;
        }
        let regs = self.cpu.regs()?;
        let sregs = self.cpu.sregs()?;
        let at = sregs.ss.base.wrapping_add(regs.rsp);
        Ok(Stop::Exception(Frame::decode(self, vector, at)))
    }

    /// Runs; anything but a regular end fails.
    pub fn run_to_end(&mut self) -> Result<(), Failure> {
        match self.run()? {
            Stop::Halt | Stop::Done(_) => Ok(()),
            other => Err(self.unexpected("HLT", other)),
        }
    }

    /// Runs; anything but an exception fails.
    pub fn run_to_exception(&mut self) -> Result<Frame, Failure> {
        match self.run()? {
            Stop::Exception(frame) => Ok(frame),
            other => Err(self.unexpected("an exception", other)),
        }
    }

    /// Runs; anything but a host debug exit fails.
    pub fn run_to_debug(&mut self) -> Result<DebugExit, Failure> {
        match self.run()? {
            Stop::Debug(debug) => Ok(debug),
            other => Err(self.unexpected("a debug exit", other)),
        }
    }

    /// A failure that says where the program is.
    pub fn unexpected(&self, want: &str, got: Stop) -> Failure {
        let rip = self.cpu.regs().map_or(0, |r| r.rip);
        Failure::Wrong(format!("got {got:x?} at RIP {rip:#x}, expected {want}"))
    }

    /// Compares the I/O log with what was expected, then clears it.
    pub fn expect_log(&mut self, want: &[VcpuExit]) -> Result<(), Failure> {
        let got = std::mem::take(&mut self.log);
        expect("exits", got.as_slice(), want)
    }
}

/// Vendor string "AuthenticAMD" (APM vol 3, appendix E.3.1).
fn is_amd(table: &[kvm_cpuid_entry2]) -> bool {
    table
        .iter()
        .any(|e| e.function == 0 && e.ebx.to_le_bytes() == *b"Auth")
}

/// The table with the initial APIC id in the leaves that carry it (SDM vol 2,
/// CPUID leaves 1, 0xb and 0x1f).
fn with_apic_id(table: &[kvm_cpuid_entry2], id: u32) -> Vec<kvm_cpuid_entry2> {
    let mut table = table.to_vec();
    for entry in &mut table {
        match entry.function {
            1 => entry.ebx = (entry.ebx & 0x00ff_ffff) | (id << 24),
            0xb | 0x1f => entry.edx = id,
            _ => {}
        }
    }
    table
}
