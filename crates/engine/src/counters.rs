//! Counters with kvm_stat's names and meaning (rows J06..J37 of the
//! requirements). One table; a counter without a source in this engine is
//! not in it.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// Counts of one VM. Each is bumped where the thing happens.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[doc = $doc])* pub $name: AtomicU64,)* }
        impl Counters {
            /// Names and values.
            pub fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Ordering::Relaxed)),)*]
            }
        }
    };
}

counters! {
    /// EFER was loaded with another value by the guest.
    efer_reload,
    /// Returns from generated code to the engine or from a run to the VMM.
    exits,
    /// Exits from generated code to make a link between blocks.
    exits_link,
    /// Exits for a jump that missed the jump cache.
    exits_lookup,
    /// Exits for an instruction that is interpreted.
    exits_interp,
    /// Exits for a memory access that is interpreted.
    exits_access,
    /// Exits for a memory access that faults.
    exits_fault,
    /// Exits to look at events.
    exits_poll,
    /// Guest vector state was loaded into the host's registers.
    fpu_reload,
    /// Times that a halted vCPU watched for its wake-up, and those of them in
    /// which it came.
    halt_attempted_poll,
    /// See `halt_attempted_poll`.
    halt_successful_poll,
    /// HLT executed.
    halt_exits,
    /// A halted vCPU was woken by an event.
    halt_wakeup,
    /// Returns to the VMM, which restore the host's whole state.
    host_state_reload,
    /// Hypercalls handled.
    hypercalls,
    /// Instructions the interpreter executed.
    insn_emulation,
    /// Instructions the interpreter refused with an internal error.
    insn_emulation_fail,
    /// Blocks compared in lockstep.
    lockstep_blocks,
    /// Comparisons that others' writes to guest memory had disturbed.
    lockstep_races,
    /// INVLPG executed.
    invlpg,
    /// Exits for port I/O to the VMM.
    io_exits,
    /// Returns from generated code because of an event for the vCPU.
    irq_exits,
    /// External interrupts delivered.
    irq_injections,
    /// Interrupt windows reported to the VMM.
    irq_window,
    /// Exits for MMIO to the VMM.
    mmio_exits,
    /// Page walks, the second-level TLB having missed.
    mmu_cache_miss,
    /// NMIs delivered.
    nmi_injections,
    /// First-level TLB entries filled without involving the guest.
    pf_fixed,
    /// Page faults reflected into the guest.
    pf_guest,
    /// Flush requests sent to other vCPUs.
    remote_tlb_flush,
    /// Interrupt windows asked for by the VMM.
    request_irq,
    /// Returns to the VMM because of a kick or signal.
    signal_exits,
    /// Flushes of an address space or of everything.
    tlb_flush,
    /// Blocks translated.
    translations,
    /// Guest instructions translated.
    translated_insns,
    /// Bytes of code they became.
    translated_bytes,
    /// Memory accesses in them that another's check covers.
    covered_accesses,
    /// Translations dropped because their bytes were written.
    invalidations,
}

impl Counters {
    /// Exits from generated code, in the order of [`jit::ExitKind`].
    pub fn exits_by_kind(&self) -> [&AtomicU64; 6] {
        [
            &self.exits_link,
            &self.exits_lookup,
            &self.exits_interp,
            &self.exits_access,
            &self.exits_fault,
            &self.exits_poll,
        ]
    }
}

/// Adds one.
pub fn bump(counter: &AtomicU64) {
    // Counters are statistics: a lost race between vCPUs is not worth a LOCK.
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}
