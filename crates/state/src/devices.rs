//! The board's devices.

use crate::image::schema;
use serde::{Deserialize, Serialize};

/// A 16550A.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the data sheet's names")]
pub struct Uart {
    pub ier: u8,
    pub fcr: u8,
    pub lcr: u8,
    pub mcr: u8,
    pub scr: u8,
    pub divisor: u16,
    /// Delta bits of MSR not read yet.
    pub msr_delta: u8,
    /// OE and BI not read yet.
    pub line_errors: u8,
    /// Received, not read.
    pub rx: Vec<u8>,
    /// The guest may know of the bytes in `rx`.
    pub noticed: bool,
    /// The transmitter became empty and nobody has taken notice.
    pub thre_pending: bool,
    /// Level of the interrupt line.
    pub level: bool,
}

/// The RTC. Its time is the host's plus an offset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the data sheet's names")]
pub struct Rtc {
    /// CMOS bytes.
    pub ram: Vec<u8>,
    pub a: u8,
    pub b: u8,
    pub c: u8,
    /// What the guest's setting added to the host's time, in ns.
    pub offset_ns: i64,
    /// Time registers while SET stops the updates: year, month, day, hour,
    /// minute, second, day of the week.
    pub stopped: Option<[u32; 7]>,
    /// Chip time up to which flags are accounted for, in ns since 1970.
    pub seen_ns: u64,
    /// Index latch.
    pub index: u8,
    /// Level of the interrupt line.
    pub level: bool,
}

/// A byte in the 8042's output buffer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyboardByte {
    /// The byte.
    pub value: u8,
    /// It is the mouse's, not the keyboard's.
    pub mouse: bool,
}

/// The 8042 with keyboard and mouse.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the manual's names")]
pub struct I8042 {
    pub keyboard_out: Vec<u8>,
    pub keyboard_waiting: Option<u8>,
    pub scan_set: u8,
    pub keyboard_disabled: bool,
    pub mouse_out: Vec<u8>,
    pub mouse_waiting: Option<u8>,
    pub mouse_status: u8,
    pub resolution: u8,
    pub rate: u8,
    pub buttons: u8,
    pub ctr: u8,
    pub out: Option<KeyboardByte>,
    pub answer: Option<KeyboardByte>,
    pub last: u8,
    pub last_was_command: bool,
    pub waiting: Option<u8>,
    pub output_port: u8,
    /// Levels of both interrupt lines.
    pub levels: [bool; 2],
}

/// ACPI's fixed hardware.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the specification's names")]
pub struct AcpiPm {
    pub status: u16,
    pub enable: u16,
    pub control: u16,
    pub gpe_status: u64,
    pub gpe_enable: u64,
    /// The timer; moves with time.
    pub timer_ns: u64,
    /// Level of the SCI.
    pub level: bool,
}

/// The generic event device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ged {
    /// Events that the guest has not read.
    pub events: u32,
}

/// Port 0x92.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FastA20 {
    /// The register.
    pub value: u8,
}

/// fw_cfg. Its items come with the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FwCfg {
    /// The selected item.
    pub key: u16,
    /// Position in it.
    pub at: u64,
    /// Upper half of the next DMA request's address.
    pub dma: u64,
}

/// The register of `pc-testdev`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PcTestdev {
    /// The register.
    pub data: u32,
}

/// The memory of `pc-testdev`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Iomem {
    /// Its bytes.
    pub bytes: Vec<u8>,
}

schema! {
    PcTestdev "pc-testdev" 1;
    Iomem "pc-testdev-memory" 1;
    Uart "uart" 1;
    Rtc "rtc" 1;
    I8042 "i8042" 1;
    AcpiPm "acpi-pm" 1;
    Ged "ged" 1;
    FastA20 "fast-a20" 1;
    FwCfg "fw-cfg" 1;
}
