//! Differential tests of unprivileged instructions: random encodings, operands
//! and state, run on the host CPU itself and on our executors, and compared.
//!
//! The host runs the original bytes at the same virtual addresses (see
//! [`layout`]), so page crossings, faults and every addressing form are real.

pub mod amd;
pub mod bounced;
pub mod case;
pub mod class;
pub mod compare;
#[cfg(test)]
mod encodings;
pub mod features;
pub mod flat;
pub mod generate;
pub mod interp;
pub mod layout;
pub mod metal;
mod operand;
pub mod rng;
pub mod run;
pub mod state;
#[cfg(test)]
mod tests;
pub mod vm;
mod window;

pub use case::{Case, Executor, Outcome};
pub use generate::Generator;
pub use metal::Metal;
