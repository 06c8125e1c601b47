//! The PC's interrupt controllers and timer chip as pure state machines:
//! 8259 pair, I/O APIC, local APICs and 8254.
//!
//! Nothing here reads a clock, takes a lock or touches the host. Time comes in
//! as nanoseconds (or as a [`Clock`] where the guest's TSC matters); what a
//! device wants done elsewhere it returns as a value. [`Chipset`] wires the
//! four together the way KVM's in-kernel irqchip does and is what a backend
//! uses: put it behind one lock, call [`Chipset::advance`] when
//! [`Chipset::next_deadline`] has passed, and after every call kick the vCPUs
//! that [`Chipset::take_attention`] yields.
//!
//! Guest input is hostile: every register accepts every value, and all indexes
//! that come from outside are checked.
//!
//! Saved state has KVM's fields (`kvm_pic_state`, `kvm_ioapic_state`,
//! `kvm_pit_state2`, the register page of `kvm_lapic_state`) but not its types.
#![forbid(unsafe_code)]

mod chipset;
mod clock;
mod ioapic;
mod lapic;
mod message;
mod pic;
mod pit;
mod routing;
mod vectors;

pub use chipset::{Attention, Chipset, Raised, Source};
pub use clock::Clock;
pub use ioapic::{IOAPIC_BASE, IOAPIC_SIZE, IoApic, IoApicState};
pub use lapic::{Effect, LAPIC_PAGE, Lapic, MsrFault};
pub use message::{Delivery, Destination, Message};
pub use pic::{Pic, PicState};
pub use pit::{Pit, PitChannelState, PitState};
pub use routing::{MAX_GSI, Route, RouteError, Routing};
