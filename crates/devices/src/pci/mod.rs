//! PCI: configuration spaces, the root bus with its moving address ranges,
//! configuration mechanism #1, ECAM and the chips of QEMU's boards.
//!
//! A function is a [`ConfigSpace`] plus whatever its BARs reach. The
//! [`PciRoot`] finds functions by bus address and asks them after every
//! configuration write which ranges they decode.

mod bus;
mod chips;
mod config;
mod ecam;
mod function;
mod mechanism;
mod msi;
mod msix;
mod pirq;
mod setup;

pub use bus::{PciRoot, PlugError};
pub use chips::{
    Chip, ChipRow, ECAM_BASE, PC_CHIPS, PIRQ_IRQ, PM_FUNCTION, Q35_CHIPS, ich9_pirq, piix_pirq,
};
pub use config::{Bar, BarKind, ConfigSpace, Identity, Space, command, header};
pub use ecam::Mch;
pub use function::{Address, PciFunction, Window};
pub use mechanism::{LEN, PORT, PciConfig};
pub use msi::{Msi, MsiLayout};
pub use msix::{Message, Msix, MsixCapability};
pub use pirq::{PirqOutputs, PirqRouter};
pub use setup::{Apertures, assign};
