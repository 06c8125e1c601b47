//! Where devices go: `bus=`, `addr=` and what is left for the others.

use crate::boards::PciKind;
use crate::config::{DeviceConfig, DeviceModel, PciBridgeConfig};
use devices::pci::{Address, BusId, PciRoot, Place, PlugError};

type Result<T> = std::result::Result<T, String>;

/// The buses by name, and what the user reserved on them.
pub(super) struct Slots<'a> {
    kind: &'static PciKind,
    devices: &'a [DeviceConfig],
    /// Name and bus of the bridges so far.
    named: Vec<(&'a str, BusId)>,
}

impl<'a> Slots<'a> {
    pub(super) fn new(kind: &'static PciKind, devices: &'a [DeviceConfig]) -> Self {
        Self {
            kind,
            devices,
            named: vec![(kind.bus, BusId::ROOT)],
        }
    }

    /// Takes over the bus behind a bridge, under the name of the bridge.
    pub(super) fn add_bus(&mut self, bridge: &'a DeviceConfig, bus: BusId) {
        self.named.extend(bridge.id.as_deref().map(|id| (id, bus)));
    }

    fn bus(&self, name: &str) -> Result<BusId> {
        let found = self.named.iter().find(|(n, _)| *n == name);
        found.map(|(_, bus)| *bus).ok_or_else(|| {
            let names: Vec<&str> = self.named.iter().map(|(n, _)| *n).collect();
            format!(
                "there is no bus '{name}' at this point; there are {}",
                names.join(", ")
            )
        })
    }

    /// The place of a device: its own, or the first slot of its bus that is
    /// free and that no device asks for by name.
    pub(super) fn place(&self, root: &PciRoot, device: &DeviceConfig) -> Result<Place> {
        let name = device.bus.as_deref().unwrap_or(self.kind.bus);
        let bus = self.bus(name)?;
        self.check_bus(device, bus)?;
        self.check_chassis(device)?;
        let address = match device.address {
            Some((slot, function)) => Address::new(slot, function)
                .ok_or_else(|| format!("addr={slot:#x}.{function} is no place"))?,
            None => {
                let here = |d: &&DeviceConfig| d.bus.as_deref().unwrap_or(self.kind.bus) == name;
                let asked = self.devices.iter().filter(here);
                let slots: Vec<u8> = asked.filter_map(|d| Some(d.address?.0)).collect();
                root.free_slot(bus, &slots).map_err(explain)?
            }
        };
        Ok((bus, address))
    }

    /// What the kind of bus forbids.
    fn check_bus(&self, device: &DeviceConfig, bus: BusId) -> Result<()> {
        let express = self.kind.ecam.is_some() && bus == BusId::ROOT;
        match device.model {
            DeviceModel::PcieRootPort(_) if !express => {
                Err("a root port goes on pcie.0, which the board q35 has".into())
            }
            _ => Ok(()),
        }
    }

    /// Bridges open a chassis; no two root ports are the same slot of one.
    fn check_chassis(&self, device: &DeviceConfig) -> Result<()> {
        let slot = |d: &DeviceConfig| match d.model {
            DeviceModel::PcieRootPort(port) => Some((port.chassis, port.slot)),
            _ => None,
        };
        let same = |d: &&DeviceConfig| slot(device).is_some() && slot(d) == slot(device);
        if let DeviceModel::PciBridge(PciBridgeConfig { chassis: 0 }) = device.model {
            return Err("chassis_nr= is missing; it takes 1 to 255".into());
        }
        match self.devices.iter().filter(same).count() {
            0 | 1 => Ok(()),
            _ => Err("two root ports have the same chassis= and slot=".into()),
        }
    }
}

pub(super) fn explain(error: PlugError) -> String {
    match error {
        PlugError::Taken(address) => {
            format!("PCI slot {address} is in use; leave addr= out for a free one")
        }
        PlugError::Full => "all slots of the bus are in use".into(),
        PlugError::NoSlot(address) => {
            format!("PCI slot {address}: the bus behind a root port has slot 0 only")
        }
    }
}

/// A slot with several functions must say so in its function 0, or nobody
/// looks for the others.
pub(super) fn check_functions(root: &PciRoot, (bus, address): Place) -> Result<()> {
    let slot = |a: &Address| a.slot() == address.slot();
    let functions = || root.functions(bus).filter(|(a, _)| slot(a));
    let first = functions().find(|(a, _)| a.function() == 0);
    let says = first.is_none_or(|(a, _)| root.is_multifunction((bus, a)));
    match says || functions().count() == 1 {
        true => Ok(()),
        false => Err(format!(
            "PCI slot {:02x} has several functions: its function 0 needs multifunction=on",
            address.slot()
        )),
    }
}
