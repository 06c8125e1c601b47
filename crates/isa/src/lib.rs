//! The instruction set: one table that classifies every instruction, and an
//! interpreter that executes one instruction at a time on a
//! [`x86::CpuState`].
//!
//! The interpreter knows no memory, no devices and no host: everything outside
//! the vCPU's registers goes through [`Env`]. It is the engine's path for the
//! modes and instructions that are not translated, and the translator's second
//! oracle.
//!
//! # Restartability
//!
//! An instruction changes registers only after its last access that can fail.
//! [`Env`] may stop any access with [`Stop::Suspend`] (a device read whose data
//! is not there yet); the instruction is then executed again from its start and
//! the environment answers the accesses it already saw from a log. `rep`
//! string instructions commit after every iteration and call
//! [`Env::commit`], which empties that log.
#![forbid(unsafe_code)]

mod env;
mod int;
mod operand;
mod step;
mod sys;

pub mod table;

pub use env::{Access, Counted, Env, MmuEvent, Stop};
pub use step::{Flow, execute_only, fetch, resume, step, step_decoded};
pub use sys::{
    Event, PlainPort, XsaveAreas, deliver, is_amd, read_msr, write_msr, xcr0_supported, xcr0_valid,
};
