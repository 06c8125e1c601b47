//! Where devices go: `bus=`, `addr=` and what is left for the others.

use crate::boards::PciKind;
use crate::config::{DeviceConfig, DeviceModel, PciBridgeConfig, PcieRootPortConfig};
use devices::pci::{Address, BusId, PciRoot, Place, PlugError};

type Result<T> = std::result::Result<T, String>;

/// The buses by name.
pub(super) struct Slots {
    kind: &'static PciKind,
    /// Name and bus of the bridges so far.
    named: Vec<(String, BusId)>,
    /// Those whose slots are to stay as they are.
    fixed: Vec<BusId>,
}

impl Slots {
    pub(super) fn new(kind: &'static PciKind) -> Self {
        Self {
            kind,
            named: vec![(kind.bus.into(), BusId::ROOT)],
            fixed: Vec::new(),
        }
    }

    /// Takes over the bus behind a bridge, under the name of the bridge.
    pub(super) fn add_bus(&mut self, bridge: &DeviceConfig, bus: BusId) {
        self.named.extend(bridge.id.clone().map(|id| (id, bus)));
        if let DeviceModel::PcieRootPort(PcieRootPortConfig { fixed: true, .. }) = bridge.model {
            self.fixed.push(bus);
        }
    }

    /// The user said that what is there stays.
    pub(super) fn is_fixed(&self, bus: BusId) -> bool {
        self.fixed.contains(&bus)
    }

    /// The name of the bus a device is on.
    pub(super) fn bus_name<'a>(&self, device: &'a DeviceConfig) -> &'a str {
        device.bus.as_deref().unwrap_or(self.kind.bus)
    }

    pub(super) fn bus(&self, name: &str) -> Result<BusId> {
        let found = self.named.iter().find(|(n, _)| *n == name);
        found.map(|(_, bus)| *bus).ok_or_else(|| {
            format!(
                "there is no bus '{name}' at this point; there are {}",
                self.names(|_| true)
            )
        })
    }

    /// The names of some buses.
    pub(super) fn names(&self, which: impl Fn(BusId) -> bool) -> String {
        let chosen = self.named.iter().filter(|(_, bus)| which(*bus));
        let names: Vec<&str> = chosen.map(|(name, _)| name.as_str()).collect();
        names.join(", ")
    }

    /// The place of a device: its own, or the first slot of its bus that is
    /// free and that none of `all` asks for by name.
    pub(super) fn place(
        &self,
        root: &PciRoot,
        device: &DeviceConfig,
        all: &[DeviceConfig],
    ) -> Result<Place> {
        let name = self.bus_name(device);
        let bus = self.bus(name)?;
        self.check_bus(device, bus)?;
        check_chassis(device, all)?;
        let address = match device.address {
            Some((slot, function)) => Address::new(slot, function)
                .ok_or_else(|| format!("addr={slot:#x}.{function} is no place"))?,
            None => {
                let asked = all.iter().filter(|d| self.bus_name(d) == name);
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
}

/// Bridges open a chassis; no two root ports are the same slot of one.
fn check_chassis(device: &DeviceConfig, all: &[DeviceConfig]) -> Result<()> {
    let slot = |d: &DeviceConfig| match d.model {
        DeviceModel::PcieRootPort(port) => Some((port.chassis, port.slot)),
        _ => None,
    };
    let same = |d: &&DeviceConfig| slot(device).is_some() && slot(d) == slot(device);
    if let DeviceModel::PciBridge(PciBridgeConfig { chassis: 0 }) = device.model {
        return Err("chassis_nr= is missing; it takes 1 to 255".into());
    }
    match all.iter().filter(same).count() {
        0 | 1 => Ok(()),
        _ => Err("two root ports have the same chassis= and slot=".into()),
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
    let functions = root.functions(bus).into_iter().map(|(a, _)| a);
    let functions: Vec<_> = functions.filter(slot).collect();
    let first = functions.iter().find(|a| a.function() == 0);
    let says = first.is_none_or(|a| root.is_multifunction((bus, *a)));
    match says || functions.len() == 1 {
        true => Ok(()),
        false => Err(format!(
            "PCI slot {:02x} has several functions: its function 0 needs multifunction=on",
            address.slot()
        )),
    }
}
