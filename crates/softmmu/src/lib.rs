//! Guest-physical memory, page walks and software TLBs.
//!
//! * [`GuestMemory`]: memory slots, raw accesses to host mappings, dirty log
//!   and the per-page mark "translations were made from this page".
//! * [`ahead`]: memory provided by the host before it is needed.
//! * [`walk`]: the page walk of every paging mode, with A/D updates.
//! * [`tlb`]: the inline first-level TLB whose layout translated code knows,
//!   and the PCID-tagged second level behind it.

pub mod ahead;
mod memory;
pub mod tlb;
pub mod walk;

pub use memory::{
    GuestMemory, HostPage, NewSlot, Slot, SlotError, SlotMap, atomic_cmpxchg16, atomic_update,
    host_read, host_write, pages_of,
};
