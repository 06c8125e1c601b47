//! Backends with one defect each.

mod vcpu;
mod vm;

use hv::abi::kvm_cpuid_entry2;
use hv::{Capabilities, Hypervisor, Result};
use std::sync::Arc;

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// Port writes report the next port.
    PortNumber,
    /// Port writes report another value.
    PortValue,
    /// Read data arrives with its lowest bit flipped.
    ReadData,
    /// MMIO exits name the next byte.
    MmioAddress,
    /// MMIO writes report another value.
    MmioValue,
    /// HLT looks like a triple fault.
    HaltIsShutdown,
    /// A triple fault looks like HLT.
    ShutdownIsHalt,
    /// Exceptions arrive at the next vector's handler.
    Vector,
    /// Handlers find another error code.
    ErrorCode,
    /// Handlers find another return address.
    ReturnAddress,
    /// Accessed and dirty bits are lost.
    AccessedDirty,
    /// General registers read back one more.
    Registers,
    /// RIP reads back one more.
    InstructionPointer,
    /// Segment and control registers read back changed.
    SystemRegisters,
    /// x87, SSE and AVX state reads back changed.
    Vectors,
    /// XCR0 reads back changed.
    Xcr0,
    /// Debug registers read back changed.
    DebugRegisters,
    /// MSRs read back changed.
    Msrs,
    /// Events read back as if nothing were pending or masked.
    Events,
    /// MP state reads back changed.
    MpState,
    /// The local APIC's page reads back empty.
    Lapic,
    /// Impossible values are accepted (and ignored).
    AcceptsAll,
    /// The dirty log is always empty.
    DirtyLogEmpty,
    /// The dirty log always names every page.
    DirtyLogFull,
    /// Flags of memory slots are ignored.
    SlotFlags,
    /// Slots cannot be deleted or moved.
    SlotsStay,
    /// Addresses translate to the next page.
    Translate,
    /// kvmclock stands still.
    Clock,
    /// The TSC frequency is unknown.
    TscFrequency,
    /// Counters do not count.
    Counters,
    /// The PIT's state reads back changed.
    Pit,
    /// CPUID has no features.
    Cpuid,
    /// Every CPUID bit is offered.
    CpuidOffersAll,
    /// The CPUID table of the case is ignored.
    CpuidIgnored,
    /// Debug exits name the next byte.
    DebugExit,
    /// The vCPU is never ready for an interrupt.
    NeverReady,
    /// The interrupt window is never reported.
    NoWindow,
    /// Kicks and immediate exits are reported as HLT.
    InterruptedIsHalt,
    /// Memory loses the last byte the guest wrote in its data pages.
    Memory,
    /// The capabilities are nonsense.
    Capabilities,
}

/// Every defect.
#[rustfmt::skip]
pub const DEFECTS: &[Defect] = {
    use Defect::*;
    &[
        PortNumber, PortValue, ReadData, MmioAddress, MmioValue, HaltIsShutdown, ShutdownIsHalt,
        Vector, ErrorCode, ReturnAddress, AccessedDirty, Registers, InstructionPointer,
        SystemRegisters, Vectors, Xcr0, DebugRegisters, Msrs, Events, MpState, Lapic, AcceptsAll,
        DirtyLogEmpty, DirtyLogFull, SlotFlags, SlotsStay, Translate, Clock, TscFrequency,
        Counters, Pit, Cpuid, CpuidOffersAll, CpuidIgnored, DebugExit, NeverReady, NoWindow,
        InterruptedIsHalt, Memory, Capabilities,
    ]
};

/// A backend with a defect.
pub struct Broken<'a> {
    inner: &'a dyn Hypervisor,
    defect: Defect,
}

impl<'a> Broken<'a> {
    /// Breaks `inner`.
    pub fn new(inner: &'a dyn Hypervisor, defect: Defect) -> Self {
        Self { inner, defect }
    }
}

impl Hypervisor for Broken<'_> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        let mut caps = self.inner.capabilities();
        if self.defect == Defect::Capabilities {
            caps.max_vcpus = 0;
        }
        caps
    }

    fn supported_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>> {
        let mut table = self.inner.supported_cpuid()?;
        for entry in &mut table {
            match self.defect {
                Defect::Cpuid if entry.function & 0xffff != 0 => {
                    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
                }
                Defect::CpuidOffersAll if matches!(entry.function, 1 | 7 | 0x8000_0001) => {
                    (entry.ebx, entry.ecx, entry.edx) = (u32::MAX, u32::MAX, u32::MAX);
                }
                _ => {}
            }
        }
        Ok(table)
    }

    fn msr_index_list(&self) -> Result<Vec<u32>> {
        match self.defect {
            Defect::Msrs => Ok(vec![]),
            _ => self.inner.msr_index_list(),
        }
    }

    fn create_vm(&self) -> Result<Arc<dyn hv::Vm>> {
        let inner = self.inner.create_vm()?;
        Ok(Arc::new(vm::BrokenVm::new(inner, self.defect)))
    }
}
