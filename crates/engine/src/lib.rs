//! The software backend: vCPUs without hardware virtualization.
//!
//! A [`Soft`] makes VMs whose vCPUs run 64-bit guest code as translations
//! (crate `jit`) and everything else in the interpreter (crate `isa`), on the
//! software MMU of crate `softmmu`, with interrupt controllers of crate
//! `irqchip`.
//!
//! * `ctx`: the memory of one vCPU that generated code addresses.
//! * `world`: what an interpreted instruction sees of memory, ports and MSRs.
//! * `lockstep`: the interpreter as the translator's oracle.
//! * `run`: the loop that executes, injects events and leaves to the VMM.
//! * `kvmclock`: the guests' clock page and how it follows the host's clock.
//! * `vm`: memory, interrupt controllers, code cache and timer of one VM.

mod blocks;
mod clock;
mod counters;
mod cpuid;
mod ctx;
mod debug;
mod features;
mod halt;
mod jumps;
mod kvmclock;
mod lockstep;
mod msr;
mod pointers;
mod profile;
mod ram;
mod replay;
mod run;
mod shared;
mod slow;
mod state;
mod stress;
mod strings;
#[cfg(test)]
mod testing;
mod timer;
mod translated;
mod vcpu;
mod vm;
mod world;
mod world_stop;

pub use clock::begin_to_measure;
pub use stress::Stress;

use hv::abi::kvm_cpuid_entry2;
use std::sync::Arc;

/// Highest APIC id plus one.
pub const MAX_VCPUS: u32 = 255;

/// Target of the log records that name each interpreted instruction: its
/// address, code and text.
pub const INSN_LOG: &str = "insn";

/// The software backend.
#[derive(Clone, Copy, Debug, Default)]
pub struct Soft {
    options: Options,
}

/// How the engine runs.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Translate 64-bit code; off runs everything in the interpreter.
    pub translate: bool,
    /// Bytes of the code cache, see [`CODE_CACHE`]; none stands for the least that is
    /// comfortable.
    pub code_cache: Option<usize>,
    /// Execute every block both translated and interpreted, and stop where they
    /// differ; for one vCPU.
    pub lockstep: bool,
    /// Find out what vCPUs' time goes into.
    pub profile: bool,
    /// For tests.
    pub stress: Stress,
}

/// Sizes that a code cache may have, in bytes: at the least some blocks fit, and its
/// links are 32-bit displacements.
pub const CODE_CACHE: std::ops::RangeInclusive<usize> = 320 << 10..=1 << 30;

/// Bytes of a code cache for a guest with so much RAM. What does not fit is translated
/// again: many processes run more code than fits the least.
pub fn code_cache_for(ram_bytes: u64) -> usize {
    const MOST: usize = 256 << 20;
    usize::try_from(ram_bytes / 8)
        .unwrap_or(MOST)
        .clamp(jit::cache::ARENA_SIZE, MOST)
}

impl Options {
    pub(crate) fn code_cache_bytes(&self) -> usize {
        let size = self.code_cache.unwrap_or(jit::cache::ARENA_SIZE);
        size.clamp(*CODE_CACHE.start(), *CODE_CACHE.end())
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            translate: true,
            code_cache: None,
            lockstep: false,
            profile: false,
            stress: Stress::default(),
        }
    }
}

impl Soft {
    /// The backend with default options.
    pub fn new() -> Self {
        Self::default()
    }
    /// The backend with `options`.
    pub fn with_options(options: Options) -> Self {
        Self { options }
    }
}

impl hv::Hypervisor for Soft {
    fn name(&self) -> &'static str {
        "soft"
    }
    fn capabilities(&self) -> hv::Capabilities {
        hv::Capabilities {
            max_vcpus: MAX_VCPUS,
            max_slots: 509,
            phys_bits: cpuid::phys_bits() as u8,
            readonly_mem: true,
            guest_debug: true,
        }
    }
    fn supported_cpuid(&self) -> hv::Result<Vec<kvm_cpuid_entry2>> {
        Ok(cpuid::supported())
    }
    fn msr_index_list(&self) -> hv::Result<Vec<u32>> {
        Ok(msr::LIST.to_vec())
    }
    fn create_vm(&self) -> hv::Result<Arc<dyn hv::Vm>> {
        Ok(vm::SoftVm::create(self.options)?)
    }
}
