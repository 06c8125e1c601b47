//! Memory slots: guest-physical ranges backed by host-virtual ones.

/// Flags of a slot (`KVM_MEM_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemFlags(pub u32);

impl MemFlags {
    /// Record written pages for [`crate::Vm::dirty_log`].
    pub const LOG_DIRTY: Self = Self(1);
    /// Writes leave as [`crate::VcpuExit::MmioWrite`].
    pub const READONLY: Self = Self(2);
    /// The backing is private anonymous memory: a backend that maps it itself
    /// may have the host provide pages before the guest touches them. Ours, not
    /// KVM's, whose host does so as it likes.
    pub const ANONYMOUS: Self = Self(1 << 31);
    /// What KVM knows of.
    pub const KVM: Self = Self(Self::LOG_DIRTY.0 | Self::READONLY.0);
    /// No flag.
    pub const NONE: Self = Self(0);
    /// True if every flag of `other` is set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
    /// Both sets.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// One memory slot (`kvm_userspace_memory_region`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemSlot {
    /// Slot number.
    pub slot: u32,
    /// Guest-physical start, multiple of 4 KiB.
    pub gpa: u64,
    /// Size in bytes, multiple of 4 KiB; 0 deletes the slot.
    pub size: u64,
    /// Host-virtual start of the backing, multiple of 4 KiB.
    pub hva: u64,
    /// Flags.
    pub flags: MemFlags,
}
