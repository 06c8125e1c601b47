//! PCI: configuration spaces, the root bus with its moving address ranges,
//! configuration mechanism #1, ECAM and the chips of QEMU's boards.
//!
//! A function is a [`ConfigSpace`] plus whatever its BARs reach. The
//! [`PciRoot`] finds functions by bus address and asks them after every
//! configuration write which ranges they decode.

mod bridge;
mod bus;
mod chips;
mod config;
mod ecam;
mod express;
mod function;
mod mechanism;
mod msi;
mod msix;
mod pirq;
mod setup;

pub use bridge::{Bridge, BridgeKind};
pub use bus::{BusId, PciRoot, Place, PlugError};
pub use chips::{
    Chip, ChipRow, ECAM_BASE, PC_CHIPS, PIRQ_IRQ, PM_FUNCTION, Q35_CHIPS, ich9_pirq, piix_pirq,
};
pub use config::{Bar, BarKind, ConfigSpace, Identity, Space, command, header};
pub use ecam::Mch;
pub use express::add_endpoint;
pub use function::{Address, Forwarding, PciFunction, Range, Window};
pub use mechanism::{LEN, PORT, PciConfig};
pub use msi::{Msi, MsiLayout};
pub use msix::{Message, Msix, MsixCapability};
pub use pirq::{PirqOutputs, PirqRouter};
pub use setup::{Apertures, assign};
