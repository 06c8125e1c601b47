//! How drivers reach a device. [`Setup`] is what all transports share: the
//! negotiation and the set-up of queues (virtio 1.2, 2 and 3).

mod mmio;
mod pci;
mod pci_legacy;
mod pci_registers;
#[cfg(test)]
mod pci_tests;
mod setup;

pub use mmio::{MMIO_LEN, MmioWiring, VirtioMmio};
pub use pci::{MAX_VECTORS, PciWiring, VirtioPci};

use setup::{Setup, Signals};
