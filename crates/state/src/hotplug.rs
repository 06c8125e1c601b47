//! The registers of hot-plug.

use crate::image::schema;
use serde::{Deserialize, Serialize};

/// PCI slots, as bits; a word for each bus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slots {
    /// The selected bus.
    pub selected: u32,
    /// Filled, and the guest does not know.
    pub up: Vec<u32>,
    /// To be emptied, and the guest does not know.
    pub down: Vec<u32>,
}

/// Processors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Processors {
    /// The selected one.
    pub selected: u32,
    /// What the data register shows.
    pub command: u8,
    /// Of each: it is there; it came, or it shall go, and the guest does not
    /// know.
    pub processors: Vec<(bool, bool, bool)>,
}

schema! {
    Slots "pci-hotplug" 1;
    Processors "cpu-hotplug" 1;
}
