//! The translator: guest blocks to host code of the same instruction set.
//!
//! Instructions keep their opcode; registers are renamed, memory operands go
//! through an inline TLB check, control flow becomes chained jumps. Stages, in
//! the order a block passes them:
//!
//! 1. [`block`]: decode a run of instructions inside one page, classify each
//!    ([`classify`]), find accesses that one check covers ([`windows`]), compute
//!    which flags are live where.
//! 2. [`translate`]: emit host code into a hot and a cold stream.
//! 3. [`cache`]: place it in the [`arena`], remember it under its
//!    guest-physical address and mode, link it to other blocks.
//!
//! [`stubs`] holds the code around blocks: entry, exits, the slow path. The
//! crate knows the vCPU's memory only by the offsets in [`Layout`].
#![warn(missing_docs)]

mod alignment;
pub mod arena;
mod asm;
pub mod block;
mod buffer;
pub mod cache;
pub mod classify;
mod codes;
mod facts;
pub mod fault;
#[cfg(test)]
mod find;
mod gates;
mod layout;
mod moved;
pub mod native;
mod regs;
mod returns;
pub mod stubs;
pub mod translate;
pub mod windows;

pub use gates::FlatSegments;
pub use layout::{ExitKind, GateLayout, Gathered, JitCtx, Layout, Realm, WIDEST};
pub use moved::moved;
pub use returns::Returns;
