//! PCI-to-PCI bridges (PCI-to-PCI Bridge Architecture 1.2): `pci-bridge` and
//! `pcie-root-port` of QEMU. A bridge forwards configuration accesses by bus
//! number and the ranges of its windows; [`super::PciRoot`] asks it for both.

mod saved;

use super::config::{Bar, BarKind, ConfigSpace, Identity, Space, command, header};
use super::express::{self, PortLayout};
use super::function::{Forwarding, PciFunction, Range, Window};
use super::msix::{Msix, MsixCapability};
use crate::{Effect, MsiSink, Stateful};
use parking_lot::Mutex;
use std::sync::Arc;

/// Red Hat's vendor id for devices of QEMU's own.
const VENDOR: u16 = 0x1b36;
const PCI_TO_PCI: u32 = 0x06_04_00;
/// Capabilities: slot identification, subsystem ids of a bridge.
const SLOT_ID: u8 = 0x04;
const SUBSYSTEM_ID: u8 = 0x0d;
/// The bridge is the first of its chassis.
const FIRST_IN_CHASSIS: u8 = 1 << 5;
/// 66 MHz and fast back-to-back transfers, of both buses of a `pci-bridge`.
const FAST: u16 = 0x00a0;
const MSIX_PLACE: MsixCapability = MsixCapability { bar: 0, pba: 0x800 };
const MSIX_BAR_SIZE: u64 = 0x1000;

/// Windows begin and end at multiples of these.
pub(super) const IO_WINDOW: u64 = 0x1000;
/// Of memory windows.
pub(super) const MEMORY_WINDOW: u64 = 0x10_0000;

/// The kinds of bridges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BridgeKind {
    /// `pci-bridge`, from PCI to PCI.
    Pci {
        /// Number of the chassis it opens.
        chassis: u8,
    },
    /// `pcie-root-port`: behind it is one slot, a link.
    RootPort {
        /// Port number.
        port: u8,
        /// Number of its slot.
        slot: u16,
    },
}

/// A bridge.
pub struct Bridge {
    state: Mutex<State>,
    msi: Arc<dyn MsiSink>,
}

struct State {
    config: ConfigSpace,
    /// A root port's vector. What it could signal (hot-plug, errors, power
    /// management events) does not happen.
    msix: Option<Msix>,
}

impl Bridge {
    /// As after reset: no bus behind it has a number, all windows are shut.
    pub fn new(kind: BridgeKind, msi: Arc<dyn MsiSink>) -> Arc<Self> {
        let state = match kind {
            BridgeKind::Pci { chassis } => pci_bridge(chassis),
            BridgeKind::RootPort { port, slot } => root_port(port, slot),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            msi,
        })
    }
}

fn pci_bridge(chassis: u8) -> State {
    let mut config = ConfigSpace::bridge(&Identity {
        vendor: VENDOR,
        device: 0x0001,
        revision: 0,
        class: PCI_TO_PCI,
        subsystem: (0, 0),
    });
    config.set(header::STATUS, &FAST.to_le_bytes());
    config.set(header::SECONDARY_STATUS, &FAST.to_le_bytes());
    config.add_capability(SLOT_ID, &[FIRST_IN_CHASSIS, chassis]);
    State { config, msix: None }
}

fn root_port(port: u8, slot: u16) -> State {
    let mut config = ConfigSpace::bridge(&Identity {
        vendor: VENDOR,
        device: 0x000c,
        revision: 0,
        class: PCI_TO_PCI,
        subsystem: (0, 0),
    });
    config.extend();
    config.set_interrupt_pin(1);
    let size = MSIX_BAR_SIZE;
    let kind = BarKind::Memory32;
    config.add_bar(MSIX_PLACE.bar, Bar { kind, size });
    let [low, high] = VENDOR.to_le_bytes();
    config.add_capability(SUBSYSTEM_ID, &[0, 0, low, high, 0, 0]);
    let msix = Msix::new(&mut config, 1, MSIX_PLACE);
    express::add_root_port(&mut config, PortLayout { port, slot });
    State {
        config,
        msix: Some(msix),
    }
}

/// A range, unless it is shut: base beyond limit. The registers hold the upper
/// bits of its first and last address (3.2.5.6, 3.2.5.8, 3.2.5.9).
fn window(space: Space, base: u64, limit: u64) -> Option<Range> {
    let range = Range {
        space,
        first: base,
        last: limit,
    };
    (base <= limit).then_some(range)
}

fn forwarding(config: &ConfigSpace) -> Forwarding {
    let read = |offset: usize, size| u64::from(config.read(offset as u16, size));
    let io = |offset| (read(offset, 1) & 0xf0) << 8;
    let memory = |offset| (read(offset, 2) & 0xfff0) << 16;
    let upper = |offset| read(offset, 4) << 32;
    let on = |bit| config.command() & bit != 0;
    let ports = window(
        Space::Io,
        io(header::IO_BASE),
        io(header::IO_LIMIT) + (IO_WINDOW - 1),
    );
    let plain = window(
        Space::Memory,
        memory(header::MEMORY_BASE),
        memory(header::MEMORY_LIMIT) + (MEMORY_WINDOW - 1),
    );
    let prefetchable = window(
        Space::Memory,
        upper(header::PREFETCH_BASE_UPPER) | memory(header::PREFETCH_BASE),
        upper(header::PREFETCH_LIMIT_UPPER) | memory(header::PREFETCH_LIMIT) | (MEMORY_WINDOW - 1),
    );
    let ports = ports.filter(|_| on(command::IO));
    let memory = [plain, prefetchable].into_iter().flatten();
    let memory = memory.filter(|_| on(command::MEMORY));
    Forwarding {
        secondary: read(header::SECONDARY_BUS, 1) as u8,
        subordinate: read(header::SUBORDINATE_BUS, 1) as u8,
        ranges: ports.into_iter().chain(memory).collect(),
    }
}

impl PciFunction for Bridge {
    fn stateful(&self) -> Option<&dyn Stateful> {
        Some(self)
    }

    fn config_read(&self, offset: u16, size: u8) -> u32 {
        self.state.lock().config.read(offset, size)
    }

    fn config_write(&self, offset: u16, size: u8, value: u32) -> Option<Effect> {
        let mut state = self.state.lock();
        let State { config, msix } = &mut *state;
        config.write(offset, size, value);
        let due = msix.as_mut().map(|msix| msix.refresh(config));
        drop(state);
        for (address, data) in due.into_iter().flatten() {
            self.msi.send(address, data);
        }
        None
    }

    fn bars(&self) -> Vec<(u8, Bar)> {
        self.state.lock().config.bars()
    }

    fn windows(&self) -> Vec<Window> {
        self.state.lock().config.windows()
    }

    fn forwarding(&self) -> Option<Forwarding> {
        Some(forwarding(&self.state.lock().config))
    }

    fn bar_read(&self, _bar: u8, offset: u64, size: u8) -> u64 {
        let state = self.state.lock();
        state
            .msix
            .as_ref()
            .map_or(0, |msix| msix.read(offset, size))
    }

    fn bar_write(&self, _bar: u8, offset: u64, size: u8, value: u64) -> Option<Effect> {
        let mut state = self.state.lock();
        let due = state
            .msix
            .as_mut()
            .and_then(|m| m.write(offset, size, value));
        drop(state);
        if let Some((address, data)) = due {
            self.msi.send(address, data);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NoMessages;

    impl MsiSink for NoMessages {
        fn send(&self, _address: u64, _data: u32) {}
    }

    fn bytes(kind: BridgeKind, offset: u16) -> [u32; 4] {
        let bridge = Bridge::new(kind, Arc::new(NoMessages));
        [0, 4, 8, 12].map(|i| bridge.config_read(offset + i, 4).swap_bytes())
    }

    /// Lines of `lspci -xxxx` under QEMU 10 with hotplug=off and shpc=off;
    /// addresses and what drivers write left out.
    #[test]
    fn registers_are_qemus() {
        let port = BridgeKind::RootPort { port: 5, slot: 7 };
        let at = |offset| bytes(port, offset);
        assert_eq!(
            at(0x00),
            [0x361b_0c00, 0x0000_1000, 0x0000_0406, 0x0000_0100]
        );
        assert_eq!(at(0x30), [0, 0x5400_0000, 0, 0x0001_0000]);
        assert_eq!(at(0x40), [0x0d00_0000, 0x361b_0000, 0x1140_0000, 0]);
        assert_eq!(at(0x50)[..3], [0x0008_0000, 0x1048_4201, 0x2080_0000]);
        assert_eq!(at(0x60)[0], 0x0406_3005);
        assert_eq!(at(0x70)[2], 0x2000_3000);
        assert_eq!(at(0x80)[..2], [0x1e00_0000, 0x0400_0000]);
        assert_eq!(at(0x100), [0; 4], "no extended capability");
        let at = |offset| bytes(BridgeKind::Pci { chassis: 9 }, offset);
        assert_eq!(
            at(0x00),
            [0x361b_0100, 0x0000_b000, 0x0000_0406, 0x0000_0100]
        );
        assert_eq!(at(0x40)[0], 0x0400_2009);
        assert_eq!(at(0x100)[0], u32::MAX);
    }

    #[test]
    fn shut_and_senseless_windows_forward_nothing() {
        let bridge = Bridge::new(BridgeKind::Pci { chassis: 1 }, Arc::new(NoMessages));
        let ranges = || bridge.forwarding().map_or(0, |f| f.ranges.len());
        bridge.config_write(4, 2, 7);
        assert_eq!(ranges(), 0);
        for offset in (0..0x40).step_by(4) {
            bridge.config_write(offset, 4, u32::MAX);
            bridge.forwarding();
        }
        // Base equals limit: one unit of each.
        assert_eq!(ranges(), 3);
        bridge.config_write(4, 2, 0);
        assert_eq!(ranges(), 0);
    }
}
