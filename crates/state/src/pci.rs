//! PCI: the configuration mechanism, functions, MSI-X.

use crate::image::schema;
use serde::{Deserialize, Serialize};

/// Configuration mechanism #1 and the reset control register.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mechanism {
    /// CONFIG_ADDRESS.
    pub address: u32,
    /// Port 0xcf9.
    pub reset: u8,
}

/// A function's configuration space. What the guest cannot change must be as
/// the function has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// All its bytes.
    pub bytes: Vec<u8>,
}

/// An MSI-X table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Msix {
    /// Address low and high, data, vector control of each entry.
    pub table: Vec<[u32; 4]>,
    /// Which entries wait behind a mask.
    pub pending: Vec<bool>,
}

/// `edu`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the specification's names")]
pub struct Edu {
    pub liveness: u32,
    pub factorial: u32,
    pub status: u32,
    pub interrupts: u32,
    /// Source, destination, count, command.
    pub dma: [u64; 4],
    /// ns until the transfer is done; moves with time.
    pub due_in_ns: Option<u64>,
    pub buffer: Vec<u8>,
}

/// `pci-testdev`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PciTestdev {
    /// The test that runs: BAR, number among the BAR's, writes counted.
    pub run: Option<(u8, u8, u32)>,
}

schema! {
    PciTestdev "pci-testdev" 1;
    Mechanism "pci-mechanism" 1;
    Config "pci-config" 1;
    Msix "msix" 1;
    Edu "edu" 1;
}
