//! QEMU's devices for test programs. Ports, ids and behaviour are QEMU's
//! (docs/specs/edu, pci-testdev and what QEMU 10 answers).

mod debug_exit;
mod debugcon;
mod edu;
mod edu_core;
mod pc;
mod pci;

pub use debug_exit::DebugExit;
pub use debugcon::DebugCon;
pub use edu::{Edu, EduWiring};
pub use edu_core::DMA_MASK;
pub use pc::{Iomem, LINE_COUNT, PcTestdev};
pub use pci::PciTestdev;
