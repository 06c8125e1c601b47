//! What comes and goes while the machine runs: disks, networks, devices,
//! processors. It says what the next board is built of, too.

mod devices;
mod handle;
mod processors;

pub use self::processors::HotpluggableCpu;

use crate::acpi::SlotTree;
use crate::board::{Board, Registers};
use crate::config::{DeviceConfig, MachineConfig};
use crate::control::Control;
use crate::drives::Drives;
use crate::networks::Networks;
use crate::pci::Plugger;
use crate::processors::Crew;
use ::devices::hotplug::Ejector;
use ::devices::pci::Place;
use hv::{Hypervisor, Vm};
use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// A second request to let go of something within this time is refused: the
/// guest has had no time. One that comes later asks again: the first may have
/// been lost on a kernel that was just booting.
const PATIENCE: Duration = Duration::from_secs(1);

/// Something is gone: what QEMU's event `DEVICE_DELETED` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// The user's name for it.
    pub id: Option<String>,
    /// Its path in QEMU's tree of objects.
    pub path: String,
}

impl Deleted {
    fn new(id: Option<&str>, number: usize) -> Self {
        let path = match id {
            Some(id) => format!("/machine/peripheral/{id}"),
            None => format!("/machine/peripheral-anon/device[{number}]"),
        };
        let id = id.map(Into::into);
        Self { id, path }
    }
}

/// Who is told of what is gone.
pub type Listener = Box<dyn Fn(&Deleted) + Send + Sync>;

/// The inventory of a machine, and the board that runs.
#[derive(Default)]
pub struct Hotplug {
    drives: Drives,
    networks: Networks,
    control: Arc<Control>,
    state: Mutex<State>,
    listeners: Mutex<Vec<Listener>>,
}

#[derive(Default)]
struct State {
    /// Its devices are those of `devices`.
    config: MachineConfig,
    devices: Vec<Device>,
    /// Counts devices.
    next_number: usize,
    /// By number.
    processors: Vec<Processor>,
    live: Option<Live>,
}

struct Device {
    config: DeviceConfig,
    /// Never given twice.
    number: usize,
    place: Option<Place>,
    /// When the guest was last asked to let go of it.
    asked: Option<Instant>,
}

#[derive(Clone, Default)]
struct Processor {
    present: bool,
    id: Option<String>,
    asked: Option<Instant>,
}

/// The board that runs, as far as it takes part.
struct Live {
    plugger: Option<Arc<Plugger>>,
    registers: Option<Registers>,
    crew: Arc<Crew>,
    vm: Weak<dyn Vm>,
    hypervisor: Arc<dyn Hypervisor>,
}

/// The configuration of the next board.
pub struct Next {
    /// With the devices there are now.
    pub config: MachineConfig,
    /// Which processors there are, by number.
    pub present: Vec<bool>,
}

impl Hotplug {
    /// What a machine has at start.
    pub fn new(
        config: &MachineConfig,
        drives: Drives,
        networks: Networks,
        control: Arc<Control>,
    ) -> Arc<Self> {
        let count = config.topology.vcpus();
        let there = count.saturating_sub(config.absent_vcpus);
        let processor = |number| Processor {
            present: number < there,
            ..Processor::default()
        };
        let mut state = State {
            config: config.clone(),
            processors: (0..count).map(processor).collect(),
            ..State::default()
        };
        for device in &config.devices {
            state.push(device.clone(), None);
        }
        Arc::new(Self {
            drives,
            networks,
            control,
            state: Mutex::new(state),
            listeners: Mutex::default(),
        })
    }

    /// How the machine is configured now; `None` if it has not been made.
    pub fn config(&self) -> Option<MachineConfig> {
        let state = self.state.lock();
        let devices = state.devices.iter().map(|d| d.config.clone());
        (!state.processors.is_empty()).then(|| MachineConfig {
            devices: devices.collect(),
            ..state.config.clone()
        })
    }

    /// The user's name for the device at a place.
    pub fn id_at(&self, place: Place) -> Option<String> {
        let state = self.state.lock();
        let found = state.devices.iter().find(|d| d.place == Some(place));
        found?.config.id.clone()
    }

    /// The disks.
    pub fn drives(&self) -> &Drives {
        &self.drives
    }

    /// The networks.
    pub fn networks(&self) -> &Networks {
        &self.networks
    }

    /// What the next board is made of. What the guest was asked to let go of is
    /// gone: the last board has let go of everything.
    pub fn next(&self) -> Next {
        let mut state = self.state.lock();
        let (gone, stay) = std::mem::take(&mut state.devices)
            .into_iter()
            .partition(|d| d.asked.is_some());
        state.devices = stay;
        let gone: Vec<Device> = gone;
        let mut deleted: Vec<_> = gone.iter().map(Device::deleted).collect();
        for (number, processor) in state.processors.iter_mut().enumerate() {
            if processor.asked.take().is_some() {
                deleted.push(processor.deleted(number));
                *processor = Processor::default();
            }
        }
        let devices = state.devices.iter().map(|d| d.config.clone()).collect();
        state.config.devices = devices;
        let next = Next {
            config: state.config.clone(),
            present: state.processors.iter().map(|p| p.present).collect(),
        };
        drop(state);
        self.tell(&deleted);
        next
    }

    /// A board runs. Devices stay where they are from now on.
    pub fn begin(
        self: &Arc<Self>,
        board: &Board,
        crew: &Arc<Crew>,
        hypervisor: &Arc<dyn Hypervisor>,
    ) {
        let mut state = self.state.lock();
        for (device, place) in state.devices.iter_mut().zip(&board.places) {
            device.settle(*place);
        }
        if let Some(registers) = &board.registers {
            let this: Arc<dyn Ejector> = self.clone();
            registers.set_ejector(&Arc::downgrade(&this));
        }
        state.live = Some(Live {
            plugger: board.plugger.clone(),
            registers: board.registers.clone(),
            crew: crew.clone(),
            vm: Arc::downgrade(&board.vm),
            hypervisor: hypervisor.clone(),
        });
    }

    /// The board has stopped.
    pub fn end(&self) {
        self.state.lock().live = None;
    }

    fn listen(&self, listener: Listener) {
        self.listeners.lock().push(listener);
    }

    fn tell(&self, deleted: &[Deleted]) {
        let listeners = self.listeners.lock();
        for one in deleted {
            listeners.iter().for_each(|listener| listener(one));
        }
    }
}

impl State {
    fn push(&mut self, config: DeviceConfig, place: Option<Place>) {
        let number = self.next_number;
        self.next_number += 1;
        let mut device = Device {
            config,
            number,
            place: None,
            asked: None,
        };
        device.settle(place);
        self.devices.push(device);
    }

    /// The names of devices and processors.
    fn has_id(&self, id: &str) -> bool {
        let devices = self.devices.iter().filter_map(|d| d.config.id.as_deref());
        let processors = self.processors.iter().filter_map(|p| p.id.as_deref());
        devices.chain(processors).any(|other| other == id)
    }
}

impl Device {
    /// It is there and stays there, on later boards too.
    fn settle(&mut self, place: Option<Place>) {
        self.place = place;
        if let Some((_, address)) = place {
            self.config.address = Some((address.slot(), address.function()));
        }
    }

    fn deleted(&self) -> Deleted {
        Deleted::new(self.config.id.as_deref(), self.number)
    }
}

impl Processor {
    fn deleted(&self, number: usize) -> Deleted {
        Deleted::new(self.id.as_deref(), number)
    }
}

/// It was asked for too recently to be asked for again.
fn is_pending(asked: Option<Instant>) -> bool {
    asked.is_some_and(|at| at.elapsed() < PATIENCE)
}

/// The places of devices that stay.
pub fn fixed(devices: &[DeviceConfig], places: &[Option<Place>]) -> Vec<Place> {
    let pairs = devices.iter().zip(places);
    let fixed = pairs.filter(|(device, _)| !device.is_hot_pluggable());
    fixed.filter_map(|(_, place)| *place).collect()
}

/// The masks of all buses, by number.
pub fn masks(tree: &SlotTree) -> Vec<u32> {
    fn fill(tree: &SlotTree, masks: &mut Vec<u32>) {
        let at = tree.number as usize;
        if masks.len() <= at {
            masks.resize(at + 1, 0);
        }
        masks[at] = tree.slots;
        tree.bridges
            .iter()
            .for_each(|(_, behind)| fill(behind, masks));
    }
    let mut masks = Vec::new();
    fill(tree, &mut masks);
    masks
}

impl Ejector for Hotplug {
    fn eject_slot(&self, bus: u32, slot: u8) {
        self.eject_devices(bus, slot);
    }
    fn eject_processor(&self, number: u32) {
        self.eject_cpu(number);
    }
}
