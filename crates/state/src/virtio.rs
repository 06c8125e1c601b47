//! Virtio: a transport's registers, its queues, and what devices keep.

use crate::image::schema;
use serde::{Deserialize, Serialize};

/// A queue as the driver set it up. No request is in flight.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    /// Size chosen by the driver.
    pub size: u16,
    /// The driver uses it.
    pub enabled: bool,
    /// Guest-physical addresses of descriptor table, available and used ring.
    pub rings: [u64; 3],
    /// MSI-X vector.
    pub vector: u16,
    /// Index of the next request, in the available and in the used ring.
    pub next: u16,
}

/// The registers of a transport.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the specification's names")]
pub struct Transport {
    pub status: u8,
    pub generation: u8,
    pub isr: u8,
    pub config_vector: u16,
    pub device_feature_select: u32,
    pub driver_feature_select: u32,
    pub driver_features: u64,
    pub queue_select: u16,
    pub queues: Vec<Queue>,
    /// The device serves its queues.
    pub active: bool,
}

/// A virtio disk beside its image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blk {
    /// Configuration field `writeback`.
    pub write_cache: bool,
}

/// A balloon; sizes in pages of 4 KiB.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balloon {
    /// Pages the host asks for.
    pub target: u32,
    /// Pages the driver says it lent.
    pub actual: u32,
    /// What the driver fills free pages with.
    pub poison: u32,
}

/// A console device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Serial {
    /// Its ports.
    pub ports: Vec<SerialPort>,
    /// Control messages that the driver has not taken yet.
    pub messages: Vec<Vec<u8>>,
}

/// A port of a console device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SerialPort {
    /// Its number.
    pub number: u32,
    /// The driver knows it.
    pub ready: bool,
    /// A program of the guest has it open.
    pub open: bool,
    /// The driver thinks that somebody is at the host's end.
    pub told_connected: bool,
    /// Bytes of the first request in the queue from the driver that the
    /// host's end has taken.
    pub taken: u64,
}

/// A network adapter: what its driver set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Net {
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Promiscuous, all multicast, all unicast, no multicast, no unicast, no
    /// broadcast.
    pub modes: [bool; 6],
    /// More addresses of its own.
    pub unicast: Vec<[u8; 6]>,
    /// They were too many, so all are.
    pub all_unicast: bool,
    /// Addresses of groups.
    pub multicast: Vec<[u8; 6]>,
    /// They were too many, so all are.
    pub all_multicast: bool,
    /// Features that are offloads, and on; all if the driver did not say.
    pub offloads: Option<u64>,
    /// Pairs of queues that the driver uses.
    pub pairs: u16,
    /// The cable is plugged in.
    pub link_up: bool,
}

schema! {
    Transport "virtio" 1;
    Blk "virtio-blk" 1;
    Balloon "virtio-balloon" 1;
    Serial "virtio-serial" 1;
    Net "virtio-net" 2;
}
