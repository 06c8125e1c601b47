//! Devices of the PC as pure state machines with thin adaptors.
//!
//! A device's *core* turns register reads and writes into values; time comes
//! in as an argument. Its *adaptor* adds the lock, the bus interface, the
//! interrupt line and the clock. Machine-level consequences (reset, power
//! off) are returned from the write that asked for them, never performed.
//! No device knows a backend: interrupts leave through [`IrqLine`].
#![forbid(unsafe_code)]

pub mod acpi_pm;
mod bus;
mod clock;
mod dma;
pub mod fw_cfg;
pub mod ged;
pub mod hotplug;
pub mod i8042;
mod irq;
pub mod pci;
pub mod pvpanic;
pub mod reset;
pub mod rtc;
pub mod sink_port;
mod stateful;
pub mod testdev;
pub mod timed;
pub mod uart;

pub use bus::{BusError, Claim, Decoder, MmioBus, MmioDevice, PortBus, PortDevice, all_ones};
pub use clock::{Clock, ManualClock, ShiftedClock, SystemClock};
pub use dma::Dma;
pub use irq::{IrqLine, MsiSink, NoIrq, OrGate};

pub use stateful::Stateful;

/// What has a power button.
pub trait PowerButton: Send + Sync {
    /// Presses it: an ACPI guest shuts down.
    fn press_power_button(&self);
}

/// A machine-level consequence of a register write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Reset the whole machine.
    Reset,
    /// Switch the machine off (ACPI S5).
    PowerOff,
    /// The guest says that it panicked (pvpanic bit 0).
    GuestPanicked,
    /// The guest panicked and handles it itself, by a crash kernel (bit 1).
    CrashLoaded,
    /// End the process with this code (`isa-debug-exit`).
    DebugExit(u8),
}
