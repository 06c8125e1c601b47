//! Devices on PCI, and the disks and networks they use.

use super::{Device, Hotplug, State, is_pending};
use crate::config::{DeviceConfig, DeviceModel, DriveConfig, NetdevConfig, NetdevKind};
use crate::outcome::{Error, Result};
use crate::pci::HostEnds;
use ::devices::pci::Place;
use std::time::Instant;

/// Models that can be plugged into a running machine, for messages.
const PLUGGABLE: &str = "virtio-blk-pci, virtio-net-pci, virtio-rng-pci, virtio-fs-pci and \
                         pci-testdev can come and go while the machine runs";

/// What of the host's a device uses.
fn drive(model: &DeviceModel) -> Option<&str> {
    match model {
        DeviceModel::VirtioBlk(config) => Some(&config.drive),
        _ => None,
    }
}

fn netdev(model: &DeviceModel) -> Option<&str> {
    match model {
        DeviceModel::VirtioNet(config) => config.netdev.as_deref(),
        _ => None,
    }
}

impl State {
    /// Which device uses something of the host's.
    fn user(&self, what: fn(&DeviceModel) -> Option<&str>, id: &str) -> Option<String> {
        let mut devices = self.devices.iter();
        let found = devices.find(|d| what(&d.config.model) == Some(id));
        found.map(|d| d.config.name())
    }

    /// What forbids a device before anything of it is made.
    fn check_new(&self, device: &DeviceConfig) -> std::result::Result<(), String> {
        if let Some(id) = device.id.as_deref().filter(|id| self.has_id(id)) {
            return Err(format!("Duplicate device ID '{id}'"));
        }
        if self.config.board.pci.is_none() {
            let board = self.config.board.name;
            return Err(format!(
                "the board {board} has no PCI bus, which is what hot-plug needs; pc and q35 have"
            ));
        }
        if !device.is_hot_pluggable() {
            return Err(format!("it does not support hotplugging; {PLUGGABLE}"));
        }
        for (what, used) in [
            ("drive", drive as fn(&DeviceModel) -> Option<&str>),
            ("netdev", netdev),
        ] {
            let used = used_by(self, used, &device.model);
            if let Some((id, user)) = used {
                return Err(format!("{what} '{id}' is in use by {user}"));
            }
        }
        Ok(())
    }
}

/// What a new device wants that another one has.
fn used_by(
    state: &State,
    what: fn(&DeviceModel) -> Option<&str>,
    model: &DeviceModel,
) -> Option<(String, String)> {
    let id = what(model)?;
    Some((id.into(), state.user(what, id)?))
}

impl Hotplug {
    pub(super) fn add_drive(&self, config: &DriveConfig) -> Result<()> {
        self.drives.add(config)
    }

    pub(super) fn remove_drive(&self, id: &str) -> Result<()> {
        // Locked until it is closed: no device takes it meanwhile.
        let state = self.state.lock();
        match state.user(drive, id) {
            Some(user) => Err(Error::Drive {
                id: id.into(),
                why: format!("it is in use by {user}"),
            }),
            None => self.drives.remove(id),
        }
    }

    pub(super) fn add_netdev(&self, config: &NetdevConfig) -> Result<()> {
        // Locked until it is there: no adapter takes what a hub's port does.
        let state = self.state.lock();
        if let NetdevKind::HubPort {
            netdev: Some(behind),
            ..
        } = &config.kind
            && let Some(user) = state.user(netdev, behind)
        {
            return Err(Error::Netdev {
                id: config.id.clone(),
                why: format!("the netdev '{behind}' is in use by {user}"),
            });
        }
        self.networks.add(config)
    }

    pub(super) fn remove_netdev(&self, id: &str) -> Result<()> {
        let state = self.state.lock();
        match state.user(netdev, id) {
            Some(user) => Err(Error::Netdev {
                id: id.into(),
                why: format!("it is in use by {user}"),
            }),
            None => self.networks.remove(id),
        }
    }

    pub(super) fn add_device(&self, device: DeviceConfig) -> Result<()> {
        let mut state = self.state.lock();
        self.try_add(&mut state, &device).map_err(|why| {
            let name = device.name();
            Error::Device { name, why }
        })
    }

    fn try_add(&self, state: &mut State, device: &DeviceConfig) -> std::result::Result<(), String> {
        state.check_new(device)?;
        let Some(live) = &state.live else {
            return Err("the machine does not run".into());
        };
        let (plugger, registers) = live.plugger.as_ref().zip(live.registers.as_ref()).ok_or(
            "this machine has nothing to plug into while it runs; the boards pc and q35 have",
        )?;
        let ends = HostEnds {
            drives: &self.drives,
            networks: &self.networks,
            control: &self.control,
        };
        state.config.devices = state.devices.iter().map(|d| d.config.clone()).collect();
        let place = plugger.hot_plug(device, &state.config, &ends)?;
        let (bus, address) = place;
        if !registers.slots.filled(bus.number(), address.slot()) {
            for (_, function) in plugger.unplug(bus.number(), address.slot()) {
                function.removed();
            }
            let slot = address.slot();
            return Err(format!("slot {slot:02x} does not support hotplugging"));
        }
        state.push(device.clone(), Some(place));
        Ok(())
    }

    pub(super) fn remove_device(&self, id: &str) -> Result<()> {
        let mut state = self.state.lock();
        let error = |name: String, why: String| Err(Error::Device { name, why });
        let found = state.devices.iter();
        let Some(at) = found
            .clone()
            .position(|d| d.config.id.as_deref() == Some(id))
        else {
            return error(format!("'{id}'"), format!("Device '{id}' not found"));
        };
        let device = &state.devices[at];
        let name = device.config.name();
        if is_pending(device.asked) {
            let why = format!("Device {id} is already in the process of unplug");
            return error(name, why);
        }
        if !device.config.is_hot_pluggable() {
            let why = format!("it does not support unplugging; {PLUGGABLE}");
            return error(name, why);
        }
        let Some((place, live)) = device.place.zip(state.live.as_ref()) else {
            return error(name, "the machine does not run, or has no PCI bus".into());
        };
        if let Err(why) = live.let_go(place, &device.config) {
            return error(name, why);
        }
        state.devices[at].asked = Some(Instant::now());
        Ok(())
    }

    /// The guest has let go of a slot.
    pub(super) fn eject_devices(&self, bus: u32, slot: u8) {
        let taken = {
            let state = self.state.lock();
            let plugger = state.live.as_ref().and_then(|live| live.plugger.as_ref());
            plugger.map_or(Vec::new(), |plugger| plugger.unplug(bus, slot))
        };
        // Outside of the lock: it waits for requests in flight, which may be
        // waiting for the user to let the machine go on.
        let taken = taken.into_iter().map(|(place, function)| {
            function.removed();
            place
        });
        let taken: Vec<_> = taken.collect();
        let mut state = self.state.lock();
        let gone = |device: &Device| device.place.is_some_and(|place| taken.contains(&place));
        let deleted = state.devices.iter().filter(|d| gone(d));
        let deleted: Vec<_> = deleted.map(Device::deleted).collect();
        state.devices.retain(|d| !gone(d));
        drop(state);
        self.tell(&deleted);
    }
}

impl super::Live {
    /// Asks the guest to let go of a device.
    fn let_go(&self, place: Place, device: &DeviceConfig) -> std::result::Result<(), String> {
        let parts = self.plugger.as_ref().zip(self.registers.as_ref());
        let (plugger, registers) = parts.ok_or("this board has no hot-plug")?;
        plugger.check_bus(plugger.bus_name(device), place.0)?;
        if plugger.functions(place).count() > 1 {
            return Err("other functions are in its slot, which goes as a whole".into());
        }
        match registers.slots.to_empty(place.0.number(), place.1.slot()) {
            true => Ok(()),
            false => Err("its slot does not support hotplugging".into()),
        }
    }
}
