//! A PC around any backend of the contract: memory layout, direct kernel
//! boot, ACPI tables, CPUID, the run loop and the host ends of its devices.
//!
//! Guest-visible addresses, interrupts and ports follow QEMU's `pc`.

mod config;
mod memory_serial;
mod outcome;

pub use config::{CpuModel, Image, MachineConfig, PanicAction, SerialConfig};
pub use memory_serial::MemorySerial;
pub use outcome::{Error, Outcome, Result};

use std::sync::Arc;

/// A machine that can run.
pub struct Machine {
    #[allow(dead_code, reason = "first version")]
    hypervisor: Arc<dyn hv::Hypervisor>,
    #[allow(dead_code, reason = "first version")]
    config: MachineConfig,
}

impl Machine {
    /// Checks the configuration and opens what it names.
    pub fn new(hypervisor: Arc<dyn hv::Hypervisor>, config: MachineConfig) -> Result<Self> {
        Ok(Self { hypervisor, config })
    }
    /// Runs until the guest or the user ends it.
    pub fn run(self) -> Result<Outcome> {
        Err(Error::NoKernel)
    }
}
