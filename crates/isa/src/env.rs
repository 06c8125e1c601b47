//! What an executing instruction needs from the outside.

use crate::XsaveAreas;
use iced_x86::Instruction;
use x86::{CpuState, Exception};

/// Why an instruction did not complete. Registers are as before it (or as of
/// the last completed `rep` iteration).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It raised an exception that is to be delivered.
    Fault(Exception),
    /// The environment needs to leave to the VMM first; it has recorded why.
    /// The instruction will be executed again.
    Suspend,
    /// Triple fault.
    Shutdown,
}

impl From<Exception> for Stop {
    fn from(e: Exception) -> Self {
        Self::Fault(e)
    }
}

/// How a linear address is accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Data read with the current privilege.
    Read,
    /// Data write with the current privilege.
    Write,
    /// Read that will be followed by a write to the same place: needs write
    /// permission and faults as a write.
    ReadModify,
    /// Implicit supervisor read (descriptor tables, TSS, IDT; SDM vol 3, 4.6).
    SystemRead,
    /// Implicit supervisor write.
    SystemWrite,
}

impl Access {
    /// Needs write permission.
    pub const fn is_write(self) -> bool {
        matches!(self, Self::Write | Self::ReadModify | Self::SystemWrite)
    }
    /// Treated as CPL 0 whatever the CPL.
    pub const fn is_system(self) -> bool {
        matches!(self, Self::SystemRead | Self::SystemWrite)
    }
}

/// Changes that invalidate cached translations of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MmuEvent {
    /// CR3 was written; `keep` is bit 63 of the source (with CR4.PCIDE):
    /// entries of the new PCID survive. `cpu.cr3` already holds the new value
    /// without bit 63.
    Cr3 {
        /// Do not flush.
        keep: bool,
    },
    /// A bit of CR0, CR4 or EFER that changes translation was written: drop
    /// everything, global entries included.
    FlushAll,
    /// INVLPG at a linear address.
    Invlpg(u64),
    /// INVPCID with its type (0..=3), PCID and address, already validated.
    Invpcid {
        /// INVPCID type.
        kind: u8,
        /// Process-context identifier.
        pcid: u16,
        /// Linear address (type 0).
        addr: u64,
    },
    /// CPL, mode, EFLAGS.AC or another input of the block key may have changed.
    Mode,
}

/// The world of one vCPU as an instruction sees it. Addresses are linear
/// (segment base added, canonical and limit checks done, wrapped to 32 bits
/// outside 64-bit mode).
pub trait Env {
    /// Reads `size` (1, 2, 4, 8) bytes at `la`, little-endian. May cross a page.
    fn load(&mut self, cpu: &mut CpuState, la: u64, size: u32, how: Access) -> Result<u64, Stop>;
    /// Writes the low `size` bytes of `value` at `la`. May cross a page; no
    /// byte is written if any page faults.
    fn store(
        &mut self,
        cpu: &mut CpuState,
        la: u64,
        size: u32,
        value: u64,
        how: Access,
    ) -> Result<(), Stop>;
    /// Reads `buf.len()` (up to 4096) bytes: vector operands, state images.
    fn load_bytes(
        &mut self,
        cpu: &mut CpuState,
        la: u64,
        buf: &mut [u8],
        how: Access,
    ) -> Result<(), Stop>;
    /// Writes `buf.len()` bytes, all or none.
    fn store_bytes(
        &mut self,
        cpu: &mut CpuState,
        la: u64,
        buf: &[u8],
        how: Access,
    ) -> Result<(), Stop>;
    /// Checks that `len` bytes may be accessed so, without accessing them.
    fn probe(&mut self, cpu: &mut CpuState, la: u64, len: u32, how: Access) -> Result<(), Stop>;
    /// True if `len` bytes at `la`, inside one page, are mapped plain memory
    /// that may be accessed so without a fault or a device seeing it; then a
    /// `rep` string instruction moves them in one piece. False is always right.
    fn plain(&mut self, _cpu: &mut CpuState, _la: u64, _len: u32, _how: Access) -> bool {
        false
    }
    /// Fetches `buf.len()` instruction bytes; the range stays in one page.
    fn fetch(&mut self, cpu: &mut CpuState, la: u64, buf: &mut [u8]) -> Result<(), Stop>;
    /// Atomically replaces the value at `la` by `f(old)`; returns old. As given
    /// here it suits memory that nobody else writes.
    fn update(
        &mut self,
        cpu: &mut CpuState,
        la: u64,
        size: u32,
        f: &mut dyn FnMut(u64) -> u64,
    ) -> Result<u64, Stop> {
        let old = self.load(cpu, la, size, Access::ReadModify)?;
        self.store(cpu, la, size, f(old), Access::Write)?;
        Ok(old)
    }
    /// Atomic 16-byte compare and exchange; returns the old value.
    fn cmpxchg16(
        &mut self,
        cpu: &mut CpuState,
        la: u64,
        expected: u128,
        new: u128,
    ) -> Result<u128, Stop>;
    /// PAUSE: the guest waits for another processor.
    fn pause(&mut self) {}
    /// A `rep` iteration completed and its registers are committed.
    fn commit(&mut self, cpu: &mut CpuState);
    /// Port read, permission already checked.
    fn io_in(&mut self, cpu: &mut CpuState, port: u16, size: u32) -> Result<u32, Stop>;
    /// Port write, permission already checked.
    fn io_out(&mut self, cpu: &mut CpuState, port: u16, size: u32, value: u32) -> Result<(), Stop>;
    /// CPUID. `[eax, ebx, ecx, edx]`.
    fn cpuid(&mut self, cpu: &CpuState, leaf: u32, subleaf: u32) -> [u32; 4];
    /// What CPUID 0DH says, which changes only with the whole table.
    fn xsave_areas(&mut self, cpu: &CpuState) -> XsaveAreas
    where
        Self: Sized,
    {
        XsaveAreas::new(cpu, self)
    }
    /// True if the guest's CPUID offers `feature`.
    fn has_feature(&self, feature: iced_x86::CpuidFeature) -> bool;
    /// RDMSR of an MSR that is not plain storage in [`x86::Msrs`] or a
    /// register of [`CpuState`]; unknown ones fault #GP(0).
    fn rdmsr(&mut self, cpu: &mut CpuState, index: u32) -> Result<u64, Stop>;
    /// WRMSR, as above.
    fn wrmsr(&mut self, cpu: &mut CpuState, index: u32, value: u64) -> Result<(), Stop>;
    /// The guest's time-stamp counter.
    fn tsc(&mut self, cpu: &CpuState) -> u64;
    /// The task priority (CR8), owned by the local APIC if there is one.
    fn cr8(&mut self, cpu: &CpuState) -> u64;
    /// Sets the task priority.
    fn set_cr8(&mut self, cpu: &mut CpuState, value: u64);
    /// Takes over the four PDPTEs at `cr3` for PAE paging. False, and nothing
    /// changes, if one that is present has reserved bits set. An environment
    /// without paging has none to refuse.
    fn load_pdptes(&mut self, _cr3: u64) -> bool {
        true
    }
    /// Tells the MMU; registers already hold the new values.
    fn mmu(&mut self, cpu: &mut CpuState, event: MmuEvent);
    /// Executes an unprivileged non-branching instruction (x87, SSE to
    /// AVX-512, AES, BMI, ...) on the host CPU with the guest's registers. Its
    /// memory operand, if any, is replaced by `mem`: the caller has read the
    /// operand into it and writes it back if the instruction writes.
    fn native(
        &mut self,
        cpu: &mut CpuState,
        insn: &Instruction,
        mem: &mut [u8],
    ) -> Result<(), Exception>;
    /// VMCALL/VMMCALL with KVM's register convention; returns RAX.
    fn hypercall(&mut self, cpu: &mut CpuState) -> Result<u64, Stop>;
    /// Told of every instruction before it is executed.
    fn executing(&mut self, _cpu: &CpuState, _insn: &Instruction) {}
    /// Counts an occurrence; see the engine's counter table.
    fn count(&mut self, _what: Counted) {}
}

/// Occurrences the interpreter reports to the engine's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// An INVLPG was executed.
    Invlpg,
    /// EFER was loaded with another value.
    EferReload,
    /// Guest vector state was switched in.
    FpuReload,
}
