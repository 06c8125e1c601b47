//! The x86 architecture as data: registers, descriptors, page-table entries,
//! MSRs, exceptions and the vCPU state every backend reads and writes.
//!
//! Nothing here touches the host. Sources are the Intel SDM (volume/section
//! given per item) and, where AMD differs in a way guests see, the AMD APM.
#![forbid(unsafe_code)]

pub mod bits;
pub mod cpu;
pub mod exception;
pub mod msr;
pub mod paging;
pub mod segment;
pub mod xstate;

/// Longest instruction in bytes (SDM vol 2, 2.3.11).
pub const LONGEST_INSTRUCTION: usize = 15;

pub use bits::*;
pub use cpu::{CpuState, Events, MpState, Msrs, Pending, Shadow};
pub use exception::{Exception, vector};
pub use segment::{DescTable, Seg, Segment};
