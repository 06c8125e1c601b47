//! The PCI Express capability (PCI Express Base 3.0, 7.8) and power management
//! (PCI Power Management 1.2, 3.2), as QEMU's root ports and the endpoints
//! behind them show them.

use super::config::ConfigSpace;

const CAPABILITY: u8 = 0x10;
const POWER_MANAGEMENT: u8 = 0x01;
/// Bytes of the capability, version 2, with its id and next pointer.
const LEN: usize = 0x3c;

/// Offsets in it.
mod at {
    pub const FLAGS: usize = 0x02;
    pub const DEVICE_CAPABILITIES: usize = 0x04;
    pub const DEVICE_CONTROL: usize = 0x08;
    pub const LINK_CAPABILITIES: usize = 0x0c;
    pub const LINK_STATUS: usize = 0x12;
    pub const SLOT_CAPABILITIES: usize = 0x14;
    pub const DEVICE_CAPABILITIES_2: usize = 0x24;
    pub const LINK_CAPABILITIES_2: usize = 0x2c;
    pub const LINK_CONTROL_2: usize = 0x30;
}

/// Flags: version 2, and the type in bits 7:4.
const VERSION: u16 = 2;
const ENDPOINT: u16 = 0 << 4;
const ROOT_PORT: u16 = 4 << 4;
const HAS_SLOT: u16 = 1 << 8;
/// Role-based error reporting, extended tags.
const DEVICE: u32 = 1 << 15 | 1 << 5;
/// Control: which errors are reported; nothing here makes any.
const REPORTING: u16 = 0x000f;
/// Formats of requests beyond the basic ones.
const DEVICE_2: u32 = 3 << 20;
/// The port forwards alternative routing ids.
const ARI: u32 = 1 << 5;
/// Links: L0s. An endpoint's is 2.5 GT/s, one lane.
const L0S: u32 = 1 << 10;
const ENDPOINT_LINK: u32 = L0S | 1 << 4 | 1;
/// A root port's: 16 GT/s, 32 lanes; it reports when the link comes up and
/// changes.
const PORT_LINK: u32 = 3 << 20 | L0S | 32 << 4 | 4;
/// All speeds up to 16 GT/s.
const PORT_SPEEDS: u32 = 0b1_1110;
const PORT_TARGET_SPEED: u16 = 4;
/// Status: 2.5 GT/s, one lane.
const TRAINED: u16 = 0x0011;
const PORT_NUMBER_SHIFT: u32 = 24;
const SLOT_NUMBER_SHIFT: u32 = 19;

/// Numbers of a root port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PortLayout {
    pub port: u8,
    /// 13 bits.
    pub slot: u16,
}

/// The capability's bytes.
struct Body([u8; LEN]);

impl Body {
    fn new(kind: u16) -> Self {
        let mut body = Self([0; LEN]);
        body.put(at::FLAGS, &(VERSION | kind).to_le_bytes());
        body.put(at::DEVICE_CAPABILITIES, &DEVICE.to_le_bytes());
        body.put(at::LINK_STATUS, &TRAINED.to_le_bytes());
        body
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn add(&self, config: &mut ConfigSpace) {
        let at = config.add_capability(CAPABILITY, &self.0[2..]);
        config.allow(at + self::at::DEVICE_CONTROL, &REPORTING.to_le_bytes());
    }
}

/// Adds the capability of a root port. Its slot does no hot-plug, and like
/// QEMU's then does not say whether it is occupied.
pub(super) fn add_root_port(config: &mut ConfigSpace, layout: PortLayout) {
    let mut body = Body::new(ROOT_PORT | HAS_SLOT);
    let link = PORT_LINK | u32::from(layout.port) << PORT_NUMBER_SHIFT;
    let slot = u32::from(layout.slot) << SLOT_NUMBER_SHIFT;
    body.put(at::LINK_CAPABILITIES, &link.to_le_bytes());
    body.put(at::SLOT_CAPABILITIES, &slot.to_le_bytes());
    body.put(at::DEVICE_CAPABILITIES_2, &(DEVICE_2 | ARI).to_le_bytes());
    body.put(at::LINK_CAPABILITIES_2, &PORT_SPEEDS.to_le_bytes());
    body.put(at::LINK_CONTROL_2, &PORT_TARGET_SPEED.to_le_bytes());
    body.add(config);
}

/// Adds the capabilities of an endpoint behind a root port.
pub fn add_endpoint(config: &mut ConfigSpace) {
    let mut body = Body::new(ENDPOINT);
    body.put(at::LINK_CAPABILITIES, &ENDPOINT_LINK.to_le_bytes());
    body.put(at::DEVICE_CAPABILITIES_2, &DEVICE_2.to_le_bytes());
    body.add(config);
    add_power_management(config);
}

/// Version 3, no power management events. The power state can be written,
/// and is all there is to it.
fn add_power_management(config: &mut ConfigSpace) {
    let at = config.add_capability(POWER_MANAGEMENT, &[3, 0, 0, 0, 0, 0]);
    config.allow(at + 4, &[0b11]);
}
