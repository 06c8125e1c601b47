//! What a machine is made of, as plain data.

use crate::cpu::{CpuConfig, Topology};
use crate::memory_serial::MemorySerial;
use std::path::PathBuf;
use std::sync::Arc;

/// Everything [`crate::Machine::new`] needs to know. Plain data: it neither
/// parses nor validates; [`crate::Machine::new`] refuses what cannot be.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// Guest RAM in bytes; rounded down to a multiple of 4 KiB.
    pub ram_bytes: u64,
    /// The processors.
    pub topology: Topology,
    /// Kernel: a bzImage, or an ELF file with a PVH entry.
    pub kernel: Option<Image>,
    /// Initial RAM disk.
    pub initrd: Option<Image>,
    /// Kernel command line.
    pub cmdline: String,
    /// Serial ports COM1, COM2, ...: at most four.
    pub serial: Vec<SerialConfig>,
    /// A guest reset ends the machine ([`crate::Outcome::Reset`]).
    pub no_reboot: bool,
    /// What a guest panic does.
    pub panic_action: PanicAction,
    /// The CPU the guest sees.
    pub cpu: CpuConfig,
}

impl Default for MachineConfig {
    /// QEMU's defaults: 128 MiB, one vCPU, no kernel.
    fn default() -> Self {
        Self {
            ram_bytes: 128 << 20,
            topology: Topology::default(),
            kernel: None,
            initrd: None,
            cmdline: String::new(),
            serial: Vec::new(),
            no_reboot: false,
            panic_action: PanicAction::Shutdown,
            cpu: CpuConfig::default(),
        }
    }
}

/// A file the machine loads at every reset.
#[derive(Clone, Debug)]
pub enum Image {
    /// A file of the host.
    Path(PathBuf),
    /// Bytes already in memory, with a name for messages.
    Bytes {
        /// Name used in messages.
        name: String,
        /// The contents.
        bytes: Arc<[u8]>,
    },
}

/// The host end of a serial port.
#[derive(Clone, Debug)]
pub enum SerialConfig {
    /// The port exists, output is dropped.
    None,
    /// The process's standard input and output; a terminal is put into raw
    /// mode, Ctrl-A is the escape key.
    Stdio,
    /// Output to a file, truncated first; no input.
    File(PathBuf),
    /// A buffer in memory.
    Memory(MemorySerial),
}

/// What a guest panic (pvpanic, or a kernel panic seen on the console before
/// a reset) does; QEMU's `-action panic=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicAction {
    /// Report and go on.
    None,
    /// Stop the vCPUs and wait for the user to quit.
    Pause,
    /// End with [`crate::Outcome::GuestPanic`], exit code 0.
    Shutdown,
    /// End with [`crate::Outcome::GuestPanic`], exit code 1.
    ExitFailure,
}
