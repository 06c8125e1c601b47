//! The contract every backend fulfils: `Hypervisor -> Vm -> Vcpu`.
//!
//! Shape, names and semantics are KVM's (`KVM_RUN`, memory slots, GSI routing,
//! register groups); the register structures are KVM's own from
//! `kvm-bindings`. Exits are plain values: they can be logged, counted,
//! replayed and compared between backends.
//!
//! # What is precise at an exit
//!
//! * After [`VcpuExit::IoIn`], [`VcpuExit::IoOut`], [`VcpuExit::MmioRead`] and
//!   [`VcpuExit::MmioWrite`] the instruction is *in flight*: registers may be
//!   read but are consistent (RIP included) only after the next [`Vcpu::run`].
//!   To finish the instruction without running further guest code, set
//!   immediate exit ([`Kicker::set_immediate_exit`]) and call `run`, which
//!   then returns [`VcpuExit::Interrupted`]. This is KVM's rule (KVM API
//!   documentation, 5, `KVM_EXIT_IO` note).
//! * After every other exit all registers are exact.
//!
//! An instruction that moves more than one element, or more than 8 bytes,
//! leaves with one exit per element or per 8 bytes.

pub mod conformance;
mod error;
mod exit;
mod memory;

pub use error::{Error, Result};
pub use exit::{DebugExit, VcpuExit, internal_error_name};
pub use kvm_bindings as abi;
pub use memory::{MemFlags, MemSlot};

use abi::*;
use std::sync::Arc;

/// What a backend can do beyond the contract's core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Highest number of vCPUs per VM.
    pub max_vcpus: u32,
    /// Number of memory slots.
    pub max_slots: u32,
    /// Guest-physical address width in bits.
    pub phys_bits: u8,
    /// Slots may be read-only (`KVM_CAP_READONLY_MEM`).
    pub readonly_mem: bool,
    /// `set_guest_debug` with single-step and hardware breakpoints works.
    pub guest_debug: bool,
}

/// A backend: something that makes VMs.
pub trait Hypervisor: Send + Sync {
    /// Name for messages: `soft`, `kvm`.
    fn name(&self) -> &'static str;
    /// What this backend can do.
    fn capabilities(&self) -> Capabilities;
    /// CPUID leaves a guest may be given (`KVM_GET_SUPPORTED_CPUID`).
    fn supported_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>>;
    /// MSRs to save and restore (`KVM_GET_MSR_INDEX_LIST`).
    fn msr_index_list(&self) -> Result<Vec<u32>>;
    /// A new VM without memory, vCPUs or interrupt controllers.
    fn create_vm(&self) -> Result<Arc<dyn Vm>>;
}

/// A virtual machine. All methods may be called from any thread.
pub trait Vm: Send + Sync {
    /// Creates, moves or changes the flags of a memory slot; a slot of size 0
    /// deletes it (`KVM_SET_USER_MEMORY_REGION`). Slots must not overlap;
    /// addresses and size are multiples of 4 KiB.
    ///
    /// # Safety
    /// While the slot exists, `slot.hva .. slot.hva + slot.size` must stay
    /// mapped readable (and writable unless read-only) and must be accessed
    /// by the rest of the process only through raw pointers or atomics.
    #[allow(unsafe_code, reason = "the mapping's lifetime is the caller's promise")]
    unsafe fn set_memory(&self, slot: MemSlot) -> Result<()>;
    /// Returns and clears the dirty bitmap of a slot created with
    /// [`MemFlags::LOG_DIRTY`]: bit n of word n/64 is page n (`KVM_GET_DIRTY_LOG`).
    fn dirty_log(&self, slot: u32) -> Result<Vec<u64>>;
    /// Tells the backend that the process itself wrote guest memory in
    /// `gpa .. gpa + len`, so that dirty logs and cached translations of code
    /// follow. KVM needs no such call.
    fn memory_written(&self, gpa: u64, len: u64);
    /// PIC, I/O APIC and one local APIC per vCPU in the backend
    /// (`KVM_CREATE_IRQCHIP`); call it before any `create_vcpu`.
    fn create_irqchip(&self) -> Result<()>;
    /// 8254 in the backend (`KVM_CREATE_PIT2`), ports 0x40..=0x43 and 0x61
    /// with the speaker dummy.
    fn create_pit(&self) -> Result<()>;
    /// Drives an interrupt line of the irqchip (`KVM_IRQ_LINE`).
    fn set_irq_line(&self, gsi: u32, level: bool) -> Result<()>;
    /// Sends an MSI (`KVM_SIGNAL_MSI`); true if some vCPU accepted it.
    fn signal_msi(&self, address: u64, data: u32) -> Result<bool>;
    /// Replaces the GSI routing table (`KVM_SET_GSI_ROUTING`).
    fn set_gsi_routing(&self, routes: &[kvm_irq_routing_entry]) -> Result<()>;
    /// State of the 8259 pair (0, 1) or the I/O APIC (2).
    fn irqchip(&self, chip: u32) -> Result<kvm_irqchip>;
    /// Restores what [`Vm::irqchip`] returned.
    fn set_irqchip(&self, chip: &kvm_irqchip) -> Result<()>;
    /// How often the inputs of each interrupt controller rose, by the controller's
    /// name; nothing if the backend does not count them.
    fn irq_counts(&self) -> Vec<(&'static str, Vec<u64>)> {
        Vec::new()
    }
    /// State of the 8254.
    fn pit(&self) -> Result<kvm_pit_state2>;
    /// Restores what [`Vm::pit`] returned.
    fn set_pit(&self, pit: &kvm_pit_state2) -> Result<()>;
    /// kvmclock in ns since the VM began (`KVM_GET_CLOCK`).
    fn clock_ns(&self) -> Result<u64>;
    /// Sets kvmclock.
    fn set_clock_ns(&self, ns: u64) -> Result<()>;
    /// A new vCPU; `id` is its APIC id. The first one created should be 0,
    /// the bootstrap processor.
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>>;
    /// Named counters of the VM and its vCPUs with kvm_stat's meaning
    /// (inventory rows J06..J37). A counter without a real source is absent.
    fn counters(&self) -> Vec<(&'static str, u64)>;
    /// What the vCPUs' time went into, for people, if the backend was asked to find
    /// out.
    fn profile(&self) -> Option<String> {
        None
    }
}

/// One virtual CPU. Owned by the thread that runs it.
pub trait Vcpu: Send {
    /// Runs the guest until something needs the caller (`KVM_RUN`).
    fn run(&mut self) -> Result<VcpuExit>;
    /// The data for the read that the last [`VcpuExit::IoIn`] or
    /// [`VcpuExit::MmioRead`] asked for (low bytes count).
    fn complete_read(&mut self, value: u64);
    /// A handle that makes `run` return from any thread.
    fn kicker(&self) -> Arc<dyn Kicker>;
    /// Asks for [`VcpuExit::IrqWindowOpen`] as soon as an interrupt could be
    /// injected (VMs without irqchip only).
    fn request_irq_window(&mut self, on: bool);
    /// True if an external interrupt could be injected now.
    fn ready_for_irq(&self) -> bool;
    /// Injects an external interrupt (`KVM_INTERRUPT`; VMs without irqchip).
    fn inject_irq(&mut self, vector: u8) -> Result<()>;
    /// Queues an NMI (`KVM_NMI`).
    fn inject_nmi(&mut self) -> Result<()>;

    /// General-purpose registers, RIP, RFLAGS.
    fn regs(&self) -> Result<kvm_regs>;
    /// Sets what [`Vcpu::regs`] returns.
    fn set_regs(&mut self, regs: &kvm_regs) -> Result<()>;
    /// Segment and control registers.
    fn sregs(&self) -> Result<kvm_sregs>;
    /// Sets what [`Vcpu::sregs`] returns; invalid combinations are refused.
    fn set_sregs(&mut self, sregs: &kvm_sregs) -> Result<()>;
    /// x87 and SSE registers; `mxcsr` is not part of it on every kernel, use
    /// [`Vcpu::xsave`] for that.
    fn fpu(&self) -> Result<kvm_fpu>;
    /// Sets what [`Vcpu::fpu`] returns.
    fn set_fpu(&mut self, fpu: &kvm_fpu) -> Result<()>;
    /// The XSAVE image, standard format.
    fn xsave(&self) -> Result<kvm_xsave>;
    /// Sets what [`Vcpu::xsave`] returns.
    fn set_xsave(&mut self, xsave: &kvm_xsave) -> Result<()>;
    /// XCR0.
    fn xcr0(&self) -> Result<u64>;
    /// Sets XCR0.
    fn set_xcr0(&mut self, value: u64) -> Result<()>;
    /// DR0..=3, DR6, DR7.
    fn debug_regs(&self) -> Result<kvm_debugregs>;
    /// Sets what [`Vcpu::debug_regs`] returns.
    fn set_debug_regs(&mut self, regs: &kvm_debugregs) -> Result<()>;
    /// Reads one MSR; [`Error::NoSuchMsr`] if the guest has none.
    fn msr(&self, index: u32) -> Result<u64>;
    /// Writes one MSR with host privilege.
    fn set_msr(&mut self, index: u32, value: u64) -> Result<()>;
    /// The CPUID table the guest sees.
    fn cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>>;
    /// Sets the CPUID table; before the first run.
    fn set_cpuid(&mut self, entries: &[kvm_cpuid_entry2]) -> Result<()>;
    /// Pending and injected events, NMI and interrupt shadow.
    fn events(&self) -> Result<kvm_vcpu_events>;
    /// Sets what [`Vcpu::events`] returns.
    fn set_events(&mut self, events: &kvm_vcpu_events) -> Result<()>;
    /// `KVM_MP_STATE_*`.
    fn mp_state(&self) -> Result<u32>;
    /// Sets the MP state.
    fn set_mp_state(&mut self, state: u32) -> Result<()>;
    /// The local APIC's register page.
    fn lapic(&self) -> Result<kvm_lapic_state>;
    /// Sets what [`Vcpu::lapic`] returns.
    fn set_lapic(&mut self, lapic: &kvm_lapic_state) -> Result<()>;
    /// Host debugging of the guest: `KVM_GUESTDBG_ENABLE | SINGLESTEP |
    /// USE_SW_BP | USE_HW_BP`, `BLOCKIRQ` (no interrupt is taken in a single step),
    /// and `INJECT_BP` after a [`VcpuExit::Debug`] for a #BP that is the guest's.
    fn set_guest_debug(&mut self, debug: &kvm_guest_debug) -> Result<()>;
    /// Translates a guest-virtual address with the vCPU's current paging
    /// (`KVM_TRANSLATE`).
    fn translate(&self, gva: u64) -> Result<Option<u64>>;
    /// Guest TSC frequency in kHz.
    fn tsc_khz(&self) -> Result<u32>;
}

/// Interrupts a running vCPU from another thread.
pub trait Kicker: Send + Sync {
    /// Makes the current or, if none is running, the next `run` return
    /// [`VcpuExit::Interrupted`] once.
    fn kick(&self);
    /// While set, `run` completes an instruction in flight and returns
    /// [`VcpuExit::Interrupted`] before executing guest code
    /// (`kvm_run.immediate_exit`).
    fn set_immediate_exit(&self, on: bool);
}
