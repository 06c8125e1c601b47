//! A PC around any backend of the contract: memory layout, direct kernel
//! boot, ACPI tables, CPUID, the run loop and the host ends of its devices.
//!
//! Guest-visible addresses, interrupts and ports follow QEMU's boards, of which
//! [`boards`] is the table.
//!
//! [`MachineConfig`] says what to build, [`Machine::new`] checks it,
//! [`Machine::run`] runs it to its [`Outcome`]. A reset builds everything
//! guest-visible anew (`Board`); host ends (`Console`) stay.

mod acpi;
mod board;
pub mod boards;
pub mod boot;
mod config;
pub mod console;
mod control;
mod counted;
pub mod cpu;
mod debugger;
mod drives;
mod events;
mod exits;
mod fw_cfg;
mod handle;
mod hotplug;
mod image;
mod isa;
pub mod layout;
mod machine;
pub mod memory;
mod memory_serial;
mod mmio;
mod networks;
pub mod numa;
mod outcome;
mod pci;
mod processors;
pub mod ram;
mod routing;
mod saved;
mod signals;
mod smbios;
mod stop_pipe;
mod timers;
mod vcpu_loop;
mod views;
mod virtio_models;

pub use config::{
    DeviceConfig, DeviceModel, DriveConfig, Image, LogFile, MachineConfig, MonitorConfig,
    MuxConfig, NetdevConfig, NetdevKind, PanicAction, PciBridgeConfig, PcieRootPortConfig,
    SerialConfig, SocketAddress, SocketConfig, VirtioBlkConfig, VirtioFsConfig, VirtioNetConfig,
    VirtioPortConfig, VirtioSerialConfig,
};
pub use control::RunState;
pub use counted::{BlockStats, Requests};
pub use debugger::Debugger;
pub use devices::rtc::DateTime;
pub use devices::testdev::DMA_MASK as EDU_DMA_MASK;
pub use events::{Cause, Event};
pub use exits::{ExitRecord, Recorded};
pub use fw_cfg::FwCfgFile;
pub use handle::{HandleError, MachineHandle};
pub use hotplug::{Deleted, HotpluggableCpu};
pub use image::HostFile;
pub use machine::Machine;
pub use memory::{MemoryBackend, MemorySource, Merge};
pub use memory_serial::MemorySerial;
pub use net::{DumpConfig, HostForward, Transport, UserSocket};
pub use networks::Socket as NetworkSocket;
pub use outcome::{Error, Outcome, Result};
pub use smbios::{FIELDS as SMBIOS_FIELDS, FieldRow as SmbiosRow, SmbiosValue};
pub use views::{DriveView, IoApicView, PciView};
pub use virtio::net::{RxFilter, RxMode};
