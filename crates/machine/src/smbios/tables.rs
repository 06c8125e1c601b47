//! The structures (DSP0134 2.8, clause 7) of the machine.

use super::fields::Values;
use super::structure::Structure;
use crate::config::MachineConfig;
use crate::layout::{HIGH_RAM, Layout};

/// Handles, QEMU's.
mod handle {
    pub const BIOS: u16 = 0x0000;
    pub const SYSTEM: u16 = 0x0100;
    pub const BOARD: u16 = 0x0200;
    pub const CHASSIS: u16 = 0x0300;
    pub const PROCESSOR: u16 = 0x0400;
    pub const OEM: u16 = 0x0e00;
    pub const ARRAY: u16 = 0x1000;
    pub const MEMORY: u16 = 0x1100;
    pub const RANGE: u16 = 0x1300;
    pub const BOOT: u16 = 0x2000;
    pub const END: u16 = 0x7f00;
}

const MANUFACTURER: &str = "Trapeze";
/// Memory devices hold up to this much, as QEMU's.
const DEVICE_BYTES: u64 = 16 << 30;
const NONE: u16 = 0xffff;
/// "No error information".
const NO_ERROR: u16 = 0xfffe;

/// Every structure, the end marker last.
pub(super) fn all(config: &MachineConfig, layout: &Layout) -> Vec<Structure> {
    // Product and version, unless the user says otherwise.
    let values = &Values {
        set: &config.smbios,
        product: config.board.help,
        version: config.board.name,
    };
    let mut all = vec![bios(values), system(values, config.uuid)];
    if values.has(2) {
        all.push(board(values));
    }
    all.push(chassis(values));
    let sockets = config.topology.sockets;
    all.extend((0..sockets).map(|n| processor(values, n, config)));
    if values.has(11) {
        all.push(oem_strings(values));
    }
    all.extend(memory(values, config.ram_bytes, layout));
    all.push(Structure::new(32, handle::BOOT).raw(&[0; 7]));
    all.push(Structure::new(127, handle::END));
    all
}

/// Type 0. There is no firmware: this is who did its work.
fn bios(v: &Values<'_>) -> Structure {
    /// Characteristics are not told.
    const NOT_SUPPORTED: u64 = 1 << 3;
    /// Extension byte 2: targeted content distribution, virtual machine.
    const VIRTUAL: u8 = 0x14;
    Structure::new(0, handle::BIOS)
        .text(v.text(0, "vendor", MANUFACTURER))
        .text(v.text(0, "version", env!("CARGO_PKG_VERSION")))
        .u16(0xe000)
        .text(v.text(0, "date", "01/01/2026"))
        .u8(0)
        .u64(NOT_SUPPORTED)
        .raw(&[0, VIRTUAL])
        .raw(&[0, 0, 0xff, 0xff])
}

/// Type 1. The first three fields of the UUID are little-endian (7.2.1).
fn system(v: &Values<'_>, uuid: [u8; 16]) -> Structure {
    const POWER_SWITCH: u8 = 6;
    let mut id = uuid;
    id[..4].reverse();
    id[4..6].reverse();
    id[6..8].reverse();
    Structure::new(1, handle::SYSTEM)
        .text(v.text(1, "manufacturer", MANUFACTURER))
        .text(v.text(1, "product", v.product))
        .text(v.text(1, "version", v.version))
        .text(v.text(1, "serial", ""))
        .raw(&id)
        .u8(POWER_SWITCH)
        .text(v.text(1, "sku", ""))
        .text(v.text(1, "family", ""))
}

/// Type 2.
fn board(v: &Values<'_>) -> Structure {
    const HOSTING: u8 = 1;
    const MOTHERBOARD: u8 = 0x0a;
    Structure::new(2, handle::BOARD)
        .text(v.text(2, "manufacturer", MANUFACTURER))
        .text(v.text(2, "product", v.product))
        .text(v.text(2, "version", v.version))
        .text(v.text(2, "serial", ""))
        .text(v.text(2, "asset", ""))
        .u8(HOSTING)
        .text(v.text(2, "location", ""))
        .u16(handle::CHASSIS)
        .u8(MOTHERBOARD)
        .u8(0)
}

/// Type 3.
fn chassis(v: &Values<'_>) -> Structure {
    const OTHER: u8 = 1;
    const SAFE: u8 = 3;
    const UNKNOWN: u8 = 2;
    Structure::new(3, handle::CHASSIS)
        .text(v.text(3, "manufacturer", MANUFACTURER))
        .u8(OTHER)
        .text(v.text(3, "version", v.version))
        .text(v.text(3, "serial", ""))
        .text(v.text(3, "asset", ""))
        .raw(&[SAFE, SAFE, SAFE, UNKNOWN])
        .u32(0)
        .raw(&[0, 0, 0, 0])
        .text(v.text(3, "sku", ""))
}

/// Type 4, one for each socket.
fn processor(v: &Values<'_>, number: u32, config: &MachineConfig) -> Structure {
    const CENTRAL: u8 = 3;
    const OTHER: u8 = 1;
    /// Socket populated, enabled.
    const ENABLED: u8 = 0x41;
    /// No characteristics known.
    const UNKNOWN: u16 = 2;
    let count = |n: u32| u8::try_from(n).unwrap_or(0xff);
    let prefix = v.text(4, "sock_pfx", "CPU");
    let (cores, threads) = (config.topology.cores, config.topology.threads);
    Structure::new(4, handle::PROCESSOR + number as u16)
        .text(&format!("{prefix} {number}"))
        .raw(&[CENTRAL, OTHER])
        .text(v.text(4, "manufacturer", MANUFACTURER))
        .u64(0)
        .text(v.text(4, "version", v.version))
        .u8(0)
        .u16(0)
        .u16(v.number(4, "max-speed", 2000))
        .u16(v.number(4, "current-speed", 2000))
        .raw(&[ENABLED, OTHER])
        .u16(NONE)
        .u16(NONE)
        .u16(NONE)
        .text(v.text(4, "serial", ""))
        .text(v.text(4, "asset", ""))
        .text(v.text(4, "part", ""))
        .raw(&[count(cores), count(cores), count(cores * threads)])
        .u16(UNKNOWN)
        .u16(OTHER.into())
}

/// Type 11.
fn oem_strings(v: &Values<'_>) -> Structure {
    let count = v.all(11, "value").count();
    let head = Structure::new(11, handle::OEM).u8(count as u8);
    v.all(11, "value").fold(head, |s, text| s.string(text))
}

/// Types 16, 17 and 19.
fn memory(v: &Values<'_>, bytes: u64, layout: &Layout) -> Vec<Structure> {
    let devices = bytes.div_ceil(DEVICE_BYTES).clamp(1, 128) as u16;
    let mut all = vec![array(bytes, devices)];
    for n in 0..devices {
        let last = n + 1 == devices;
        let size = match last {
            true => bytes - u64::from(n) * DEVICE_BYTES,
            false => DEVICE_BYTES,
        };
        all.push(module(v, n, size));
    }
    let mut number = handle::RANGE;
    let mut range = |first: u64, end: u64| {
        all.push(mapped(number, first, end));
        number += 1;
    };
    range(0, layout.low_end);
    if layout.high_end > HIGH_RAM {
        range(HIGH_RAM, layout.high_end);
    }
    all
}

fn array(bytes: u64, devices: u16) -> Structure {
    const OTHER: u8 = 1;
    const SYSTEM_MEMORY: u8 = 3;
    const MULTI_BIT_ECC: u8 = 6;
    /// The size is in the extended field.
    const EXTENDED: u32 = 1 << 31;
    let kib = u32::try_from(bytes >> 10)
        .ok()
        .filter(|k| k & EXTENDED == 0);
    Structure::new(16, handle::ARRAY)
        .raw(&[OTHER, SYSTEM_MEMORY, MULTI_BIT_ECC])
        .u32(kib.unwrap_or(EXTENDED))
        .u16(NO_ERROR)
        .u16(devices)
        .u64(if kib.is_some() { 0 } else { bytes })
}

fn module(v: &Values<'_>, number: u16, bytes: u64) -> Structure {
    const DIMM: u8 = 9;
    const RAM: u8 = 7;
    const OTHER: u16 = 1 << 1;
    /// The size is in the extended field, in MiB.
    const EXTENDED: u16 = 0x7fff;
    let mib = (bytes >> 20) as u32;
    let small = u16::try_from(mib).ok().filter(|&m| m < EXTENDED);
    let prefix = v.text(17, "loc_pfx", "DIMM");
    let speed = v.number(17, "speed", 0);
    Structure::new(17, handle::MEMORY + number)
        .u16(handle::ARRAY)
        .u16(NO_ERROR)
        .u16(NONE)
        .u16(NONE)
        .u16(small.unwrap_or(EXTENDED))
        .u8(DIMM)
        .u8(0)
        .text(&format!("{prefix} {number}"))
        .text(v.text(17, "bank", ""))
        .u8(RAM)
        .u16(OTHER)
        .u16(speed)
        .text(v.text(17, "manufacturer", MANUFACTURER))
        .text(v.text(17, "serial", ""))
        .text(v.text(17, "asset", ""))
        .text(v.text(17, "part", ""))
        .u8(0)
        .u32(if small.is_some() { 0 } else { mib })
        .u16(speed)
        .raw(&[0; 6])
}

fn mapped(number: u16, first: u64, end: u64) -> Structure {
    /// The range is in the extended fields.
    const EXTENDED: u32 = u32::MAX;
    let last_kib = u32::try_from((end >> 10).saturating_sub(1)).ok();
    let range = last_kib
        .filter(|&k| k != EXTENDED)
        .map(|k| ((first >> 10) as u32, k));
    let (low, high) = range.unwrap_or((EXTENDED, EXTENDED));
    let extended = if range.is_some() {
        (0, 0)
    } else {
        (first, end - 1)
    };
    Structure::new(19, number)
        .u32(low)
        .u32(high)
        .u16(handle::ARRAY)
        .u8(1)
        .u64(extended.0)
        .u64(extended.1)
}
