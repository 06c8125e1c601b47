//! What tells a guest that something is to be plugged in or out, through
//! general-purpose events of ACPI: the registers that the DSDT's methods read
//! (QEMU's `acpi_pci_hotplug` and `acpi_cpu_hotplug` interfaces).

mod pci;
mod processors;
mod saved;

pub use pci::{ICH9_SLOTS, PIIX4_SLOTS, SLOTS_LEN, SlotRegisters, SlotsCore};
pub use processors::{
    ICH9_PROCESSORS, PIIX4_PROCESSORS, PROCESSORS_LEN, ProcessorRegisters, ProcessorsCore,
};

/// General-purpose event: look at the slots.
pub const SLOTS_EVENT: u8 = 1;
/// General-purpose event: look at the processors.
pub const PROCESSORS_EVENT: u8 = 2;

/// Who pulls things out when the guest has let go of them.
pub trait Ejector: Send + Sync {
    /// All functions of a slot of the bus with this selector. Called for
    /// slots that registers were told of only; they may be empty.
    fn eject_slot(&self, bus: u32, slot: u8);
    /// A processor, by its number.
    fn eject_processor(&self, number: u32);
}
