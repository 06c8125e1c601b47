//! PCI: configuration spaces, the root bus with its moving address ranges,
//! configuration mechanism #1 and the chips of QEMU's `pc`.
//!
//! A function is a [`ConfigSpace`] plus whatever its BARs reach. The
//! [`PciRoot`] finds functions by bus address and asks them after every
//! configuration write which ranges they decode.

mod bus;
mod chips;
mod config;
mod function;
mod mechanism;
mod msix;
mod setup;

pub use bus::{PciRoot, PlugError};
pub use chips::{Chip, ChipRow, PC_CHIPS, PIRQ_GSI, PM_FUNCTION, pirq};
pub use config::{Bar, BarKind, ConfigSpace, Identity, Space, command, header};
pub use function::{Address, PciFunction, Window};
pub use mechanism::{LEN, PORT, PciConfig};
pub use msix::{Msix, MsixCapability};
pub use setup::{Apertures, assign};
