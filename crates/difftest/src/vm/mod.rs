//! The software engine as an executor: a whole vCPU behind the `hv` contract
//! runs the case's bytes until the INT3 after them or a fault, in user or
//! kernel mode, translated or interpreted.
//!
//! * [`guest`]: the VM: page tables, IDT, entry and exit.
//! * [`block`]: straight-line blocks with forward jumps, as cases.
//! * [`random`]: makes blocks.
//! * [`check`]: compares a block with the host CPU and shrinks what differs.

pub mod block;
pub mod check;
pub mod guest;
mod layout;
pub mod random;
#[cfg(test)]
mod tests;

pub use block::Block;
pub use guest::{Guest, Privilege};
