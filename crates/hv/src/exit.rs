//! VM exits as plain values.

/// Why [`crate::Vcpu::run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VcpuExit {
    /// Port read of `size` bytes (1, 2, 4); answer with `complete_read`.
    IoIn {
        /// I/O port.
        port: u16,
        /// 1, 2 or 4.
        size: u8,
    },
    /// Port write.
    IoOut {
        /// I/O port.
        port: u16,
        /// 1, 2 or 4.
        size: u8,
        /// The value, zero-extended.
        value: u32,
    },
    /// Read of guest-physical memory without a slot; answer with
    /// `complete_read`.
    MmioRead {
        /// Guest-physical address.
        gpa: u64,
        /// 1..=8 bytes.
        size: u8,
    },
    /// Write to guest-physical memory without a slot, or to a read-only one.
    MmioWrite {
        /// Guest-physical address.
        gpa: u64,
        /// 1..=8 bytes.
        size: u8,
        /// Little-endian value.
        value: u64,
    },
    /// HLT on a vCPU without irqchip.
    Hlt,
    /// Triple fault.
    Shutdown,
    /// A debug event that host debugging asked for.
    Debug(DebugExit),
    /// A kick, a signal or immediate exit.
    Interrupted,
    /// The interrupt window asked for is open.
    IrqWindowOpen,
    /// The backend could not go on; `bytes` are the instruction's, if known.
    InternalError {
        /// `KVM_INTERNAL_ERROR_*`.
        suberror: u32,
        /// RIP at the failure.
        rip: u64,
        /// Instruction bytes.
        bytes: [u8; 15],
        /// How many of them are known.
        len: u8,
    },
    /// The backend refused to enter the guest.
    FailEntry {
        /// Backend-specific reason.
        reason: u64,
    },
    /// Anything else a kernel may report, by its KVM number.
    Unknown(u32),
}

/// What a [`VcpuExit::Debug`] reports (`kvm_debug_exit_arch`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebugExit {
    /// 1 for #DB, 3 for #BP.
    pub exception: u8,
    /// Linear address of the next instruction (#DB) or the breakpoint (#BP).
    pub pc: u64,
    /// DR6 as a guest handler would see it.
    pub dr6: u64,
    /// DR7 in force.
    pub dr7: u64,
}

impl VcpuExit {
    /// The reason's name in KVM's interface (`kvm_run.exit_reason`).
    pub fn reason(&self) -> &'static str {
        match self {
            Self::IoIn { .. } | Self::IoOut { .. } => "KVM_EXIT_IO",
            Self::MmioRead { .. } | Self::MmioWrite { .. } => "KVM_EXIT_MMIO",
            Self::Hlt => "KVM_EXIT_HLT",
            Self::Shutdown => "KVM_EXIT_SHUTDOWN",
            Self::Debug(_) => "KVM_EXIT_DEBUG",
            Self::Interrupted => "KVM_EXIT_INTR",
            Self::IrqWindowOpen => "KVM_EXIT_IRQ_WINDOW_OPEN",
            Self::InternalError { .. } => "KVM_EXIT_INTERNAL_ERROR",
            Self::FailEntry { .. } => "KVM_EXIT_FAIL_ENTRY",
            Self::Unknown(_) => "KVM_EXIT_UNKNOWN",
        }
    }
}

/// What a suberror of an internal error means, for a message; nothing for others
/// (`KVM_INTERNAL_ERROR_*`, KVM API 5).
pub fn internal_error_name(suberror: u32) -> &'static str {
    match suberror {
        1 => ", KVM_INTERNAL_ERROR_EMULATION",
        2 => ", KVM_INTERNAL_ERROR_SIMUL_EX",
        3 => ", KVM_INTERNAL_ERROR_DELIVERY_EV",
        4 => ", KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON",
        _ => "",
    }
}
