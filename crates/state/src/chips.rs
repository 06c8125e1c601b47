//! What the backend keeps beside vCPUs: interrupt controllers, 8254, clock.

use crate::image::schema;
use serde::{Deserialize, Serialize};

/// An 8259.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "KVM's names (struct kvm_pic_state)")]
pub struct Pic {
    pub last_irr: u8,
    pub irr: u8,
    pub imr: u8,
    pub isr: u8,
    pub priority_add: u8,
    pub irq_base: u8,
    pub read_reg_select: u8,
    pub poll: u8,
    pub special_mask: u8,
    pub init_state: u8,
    pub auto_eoi: u8,
    pub rotate_on_auto_eoi: u8,
    pub special_fully_nested_mode: u8,
    pub init4: u8,
    pub elcr: u8,
    pub elcr_mask: u8,
}

/// The I/O APIC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "KVM's names (struct kvm_ioapic_state)")]
pub struct IoApic {
    pub base_address: u64,
    pub ioregsel: u32,
    pub id: u32,
    pub irr: u32,
    pub redirtbl: Vec<u64>,
}

/// A channel of the 8254.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "KVM's names (struct kvm_pit_channel_state)")]
pub struct PitChannel {
    pub count: u32,
    pub latched_count: u16,
    pub count_latched: u8,
    pub status_latched: u8,
    pub status: u8,
    pub read_state: u8,
    pub write_state: u8,
    pub write_latch: u8,
    pub rw_mode: u8,
    pub mode: u8,
    pub bcd: u8,
    pub gate: u8,
    /// Moment of the last load, in ns of the machine's time.
    pub count_load_time: i64,
}

/// The 8254.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "KVM's names (struct kvm_pit_state2)")]
pub struct Pit {
    pub channels: Vec<PitChannel>,
    pub flags: u32,
}

/// kvmclock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clock {
    /// ns since the VM began; moves with time.
    pub kvmclock_ns: u64,
}

schema! {
    Pic "8259" 1;
    IoApic "ioapic" 1;
    Pit "8254" 1;
    Clock "kvmclock" 1;
}
