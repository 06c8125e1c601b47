//! What plugs devices in, at start and while the machine runs.

use super::models::{self, Made};
use super::pins::Pins;
use super::slots::{Slots, check_functions, explain};
use super::{Connections, VmMsi};
use crate::acpi::SlotTree;
use crate::boards::{BoardKind, PciKind};
use crate::config::{DeviceConfig, MachineConfig};
use crate::console::Console;
use crate::control::Control;
use crate::drives::Drives;
use crate::networks::Networks;
use devices::pci::{Address, BusId, PciFunction, PciRoot, PirqRouter, Place};
use devices::timed::Waker;
use devices::{Clock, IrqLine, MsiSink};
use hv::Vm;
use std::sync::{Arc, Weak};
use virtio::GuestMemory;
use virtio::balloon::Reclaim;
use virtio::transport::PciWiring;

type Result<T> = std::result::Result<T, String>;

/// The buses of a board and what devices on them are connected to.
pub struct Plugger {
    pub(super) root: Arc<PciRoot>,
    pub(super) slots: Slots,
    board: &'static BoardKind,
    kind: &'static PciKind,
    pins: Pins,
    msi: Arc<dyn MsiSink>,
    /// Weak: whoever holds this may outlive the board.
    vm: Weak<dyn Vm>,
    memory: GuestMemory,
    reclaim: Arc<dyn Reclaim>,
    line: fn(&Arc<dyn Vm>, u32) -> Arc<dyn IrqLine>,
    clock: Arc<dyn Clock>,
    waker: Waker,
}

/// Host ends for what is plugged in while the machine runs.
pub struct HostEnds<'a> {
    /// Open disks.
    pub drives: &'a Drives,
    /// Networks.
    pub networks: &'a Networks,
    /// Stops the machine.
    pub control: &'a Arc<Control>,
}

const NO_CONSOLES: &[Console] = &[];

impl Plugger {
    pub(super) fn new(
        config: &MachineConfig,
        kind: &'static PciKind,
        root: Arc<PciRoot>,
        router: &Arc<PirqRouter>,
        to: &Connections<'_>,
    ) -> Self {
        Self {
            root,
            slots: Slots::new(kind),
            board: config.board,
            kind,
            pins: Pins::new(kind, router),
            msi: Arc::new(VmMsi(Arc::downgrade(to.vm))),
            vm: Arc::downgrade(to.vm),
            memory: to.memory.clone(),
            reclaim: to.reclaim.clone(),
            line: to.line,
            clock: to.clock.clone(),
            waker: to.waker.clone(),
        }
    }

    /// Where a device goes that is or will be one of `all`.
    pub(super) fn place(&self, device: &DeviceConfig, all: &[DeviceConfig]) -> Result<Place> {
        self.slots.place(&self.root, device, all)
    }

    /// Makes a device and plugs it in.
    pub(super) fn plug(
        &self,
        place: Place,
        device: &DeviceConfig,
        config: &MachineConfig,
        to: &Connections<'_>,
    ) -> Result<Made> {
        let wiring = PciWiring {
            intx: self.pins.inta(&self.root, place),
            msi: self.msi.clone(),
            memory: self.memory.clone(),
            express: self.root.is_link(place.0),
        };
        let made = models::make(&device.model, config, to, wiring)?;
        let plugged = self.root.plug(place, made.function.clone());
        plugged.map_err(explain)?;
        if device.multifunction {
            self.root.set_multifunction(place);
        }
        Ok(made)
    }

    /// Plugs a device into the running machine of `config`.
    pub fn hot_plug(
        &self,
        device: &DeviceConfig,
        config: &MachineConfig,
        ends: &HostEnds<'_>,
    ) -> Result<Place> {
        let name = self.slots.bus_name(device);
        let bus = self.slots.bus(name)?;
        self.check_bus(name, bus)?;
        let place = self.place(device, &config.devices)?;
        if place.1.function() != 0 || device.multifunction {
            return Err(
                "what is plugged into a running machine has a slot of its own: \
                        function 0, without multifunction=on"
                    .into(),
            );
        }
        let vm = self.vm.upgrade();
        let vm = vm.ok_or("the machine is about to start again")?;
        let to = Connections {
            vm: &vm,
            memory: self.memory.clone(),
            reclaim: self.reclaim.clone(),
            balloon: &Arc::default(),
            line: self.line,
            drives: ends.drives,
            networks: ends.networks,
            port_consoles: NO_CONSOLES,
            control: ends.control,
            clock: self.clock.clone(),
            waker: self.waker.clone(),
        };
        if self.functions(place).next().is_some() {
            let slot = place.1.slot();
            return Err(format!("PCI slot {slot:02x} is in use"));
        }
        self.plug(place, device, config, &to)?;
        check_functions(&self.root, place)?;
        Ok(place)
    }

    /// The name of the bus a device is on.
    pub fn bus_name<'a>(&self, device: &'a DeviceConfig) -> &'a str {
        self.slots.bus_name(device)
    }

    /// Refuses buses whose slots stay as they are.
    pub fn check_bus(&self, name: &str, bus: BusId) -> Result<()> {
        if self.takes_part(bus) {
            return Ok(());
        }
        let others = self.slots.names(|bus| self.takes_part(bus));
        let advice = match others.is_empty() {
            true => "a pcie-root-port that is there from the start has one that does".into(),
            false => format!("those that do are {others}"),
        };
        Err(format!(
            "Bus '{name}' does not support hotplugging; {advice}"
        ))
    }

    fn takes_part(&self, bus: BusId) -> bool {
        let kind = self.board.hotplug.as_ref();
        kind.is_some_and(|kind| kind.root || bus != BusId::ROOT) && !self.slots.is_fixed(bus)
    }

    /// Pulls all functions of a slot out. They must still be told.
    pub fn unplug(&self, bus: u32, slot: u8) -> Vec<(Place, Arc<dyn PciFunction>)> {
        let Some(bus) = self.root.buses().find(|b| b.number() == bus) else {
            return Vec::new();
        };
        let Some(first) = Address::new(slot, 0) else {
            return Vec::new();
        };
        let places = self.functions((bus, first)).collect::<Vec<_>>().into_iter();
        places
            .filter_map(|place| Some((place, self.root.unplug(place)?)))
            .collect()
    }

    /// The functions in the slot of a place.
    pub fn functions(&self, (bus, address): Place) -> impl Iterator<Item = Place> {
        let functions = self.root.functions(bus).into_iter();
        let same = move |a: &Address| a.slot() == address.slot();
        functions
            .map(|(a, _)| a)
            .filter(same)
            .map(move |a| (bus, a))
    }

    /// The slots that can be filled and emptied: those without chips, bridges
    /// and `fixed` devices.
    pub fn tree(&self, fixed: &[Place]) -> SlotTree {
        self.branch(BusId::ROOT, fixed)
    }

    fn branch(&self, bus: BusId, fixed: &[Place]) -> SlotTree {
        let chips = self
            .kind
            .chips
            .iter()
            .map(|row| (BusId::ROOT, row.address()));
        let behind = self.root.behind(bus);
        let bridges = behind.iter().map(|(address, _)| (bus, *address));
        let taken = chips.chain(bridges).chain(fixed.iter().copied());
        let taken = taken.filter(|(on, _)| *on == bus);
        let taken = taken.fold(0u32, |bits, (_, a)| bits | 1 << a.slot());
        let all = u32::MAX >> (32 - u32::from(self.root.slots(bus)).clamp(1, 32));
        SlotTree {
            number: bus.number(),
            slots: if self.takes_part(bus) {
                all & !taken
            } else {
                0
            },
            bridges: behind
                .iter()
                .map(|(address, behind)| (*address, self.branch(*behind, fixed)))
                .collect(),
        }
    }
}
