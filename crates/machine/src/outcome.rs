//! How a machine ended, and why it could not be.

use crate::config::{PanicAction, SocketAddress};
use crate::events::Cause;
use std::path::PathBuf;

/// Why [`crate::Machine::run`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reset and `no_reboot` is set.
    Reset,
    /// A vCPU triple-faulted and `no_reboot` is set.
    TripleFault,
    /// The guest reported a panic.
    GuestPanic(PanicAction),
    /// The user quit (Ctrl-A X, or a request through the handle).
    Quit,
    /// The machine was saved ([`crate::MachineHandle::save`]).
    Saved,
    /// The guest ended the process by `isa-debug-exit`; the exit code.
    DebugExit(u8),
    /// The process got SIGINT, SIGTERM or SIGHUP; the signal's number.
    Signal(i32),
}

impl Outcome {
    /// The process exit code QEMU would use.
    pub fn exit_code(self) -> i32 {
        match self {
            Self::GuestPanic(PanicAction::ExitFailure) => 1,
            Self::DebugExit(code) => code.into(),
            _ => 0,
        }
    }

    /// Who wanted it.
    pub(crate) fn cause(self) -> Cause {
        match self {
            Self::PowerOff | Self::DebugExit(_) => Cause::GuestShutdown,
            Self::Reset | Self::TripleFault => Cause::GuestReset,
            Self::GuestPanic(_) => Cause::GuestPanic,
            Self::Quit | Self::Saved => Cause::HostUi,
            Self::Signal(_) => Cause::HostSignal,
        }
    }
}

/// Why a machine could not be built or had to stop. Every message names the
/// item and what would work.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages are the documentation")]
pub enum Error {
    #[error("guest memory of {bytes} bytes: {why}")]
    Ram { bytes: u64, why: String },
    #[error("memory backend '{id}': {why}")]
    Memory { id: String, why: String },
    #[error("NUMA: {0}")]
    Numa(String),
    #[error("{count} vCPUs: {why}")]
    Vcpus { count: u32, why: String },
    #[error("CPU features this accelerator does not have: {names}")]
    CpuFeatures { names: String },
    #[error("kernel '{name}': {why}")]
    Kernel { name: String, why: String },
    #[error("initrd '{name}': {why}")]
    Initrd { name: String, why: String },
    #[error("kernel command line: {0}")]
    Cmdline(String),
    #[error("no kernel given and there is no firmware to start instead; use -kernel FILE")]
    NoKernel,
    #[error("drive '{id}': {why}")]
    Drive { id: String, why: String },
    #[error("netdev '{id}': {why}")]
    Netdev { id: String, why: String },
    #[error("object '{id}': {why}")]
    Object { id: String, why: String },
    #[error("device {name}: {why}")]
    Device { name: String, why: String },
    #[error("fw_cfg file '{name}': {why}")]
    FwCfg { name: String, why: String },
    #[error("SMBIOS: {0}")]
    Smbios(String),
    #[error("serial port {index}: {why}")]
    Serial { index: usize, why: String },
    #[error("there is no chardev '{id}'")]
    NoChardev { id: String },
    #[error("serial file '{}': {source}", path.display())]
    SerialFile {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{address}: {source}")]
    Socket {
        address: SocketAddress,
        source: std::io::Error,
    },
    #[error("{what}: {source}")]
    Host {
        what: &'static str,
        source: std::io::Error,
    },
    #[error(transparent)]
    Backend(#[from] hv::Error),
    #[error(transparent)]
    SavedState(#[from] state::Error),
    #[error("saved state: {0}")]
    State(String),
    #[error("vCPU {vcpu} stopped: {why}")]
    VcpuStopped { vcpu: u32, why: String },
}

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;
