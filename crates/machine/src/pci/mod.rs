//! The PCI bus: the board's chips, the configured devices, and what firmware
//! would have set up.

mod models;
mod pins;
mod plugger;
mod slots;

pub use self::models::Ram;
pub use self::plugger::{HostEnds, Plugger};

use self::models::BusKind;
use self::slots::check_functions;
use crate::boards::PciKind;
use crate::config::{DeviceConfig, MachineConfig};
use crate::console::Console;
use crate::control::Control;
use crate::drives::Drives;
use crate::layout::IOAPIC;
use crate::networks::Networks;
use crate::outcome::{Error, Result};
use devices::pci::{Apertures, BusId, Chip, Mch, PciFunction, PciRoot, PirqRouter, Place, assign};
use devices::timed::{Timed, Waker};
use devices::{Clock, IrqLine, MsiSink};
use hv::Vm;
use std::sync::{Arc, Weak};
use virtio::GuestMemory;
use virtio::balloon::Reclaim;

/// First port for BARs; below are the board's own.
const FIRST_PORT: u64 = 0xc000;

/// Messages of devices, to the interrupt controllers.
struct VmMsi(Weak<dyn Vm>);

impl MsiSink for VmMsi {
    fn send(&self, address: u64, data: u32) {
        let Some(vm) = self.0.upgrade() else {
            return;
        };
        if let Err(error) = vm.signal_msi(address, data) {
            log::warn!(target: "guest_errors", "MSI {address:#x}, {data:#x}: {error}");
        }
    }
}

/// What the devices on the bus are connected to.
pub struct Connections<'a> {
    /// The virtual machine.
    pub vm: &'a Arc<dyn Vm>,
    /// Guest memory.
    pub memory: GuestMemory,
    /// The same memory, to give it back to the host.
    pub reclaim: Arc<dyn Reclaim>,
    /// The host's end of the balloon.
    pub balloon: &'a Arc<virtio::balloon::Host>,
    /// A line of the interrupt controllers.
    pub line: fn(&Arc<dyn Vm>, u32) -> Arc<dyn IrqLine>,
    /// Open disks.
    pub drives: &'a Drives,
    /// Networks.
    pub networks: &'a Networks,
    /// Of the ports of virtio console devices, in their order.
    pub port_consoles: &'a [Console],
    /// Stops the machine.
    pub control: &'a Arc<Control>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Wakes the thread that serves deadlines.
    pub waker: Waker,
}

/// The buses, and the functions with deadlines.
pub struct Buses {
    /// Functions by place.
    pub root: Arc<PciRoot>,
    /// Those that act when time passes.
    pub timed: Vec<Arc<dyn Timed>>,
    /// What plugs more in.
    pub plugger: Arc<Plugger>,
    /// Where the configured devices are; `None` if not on PCI.
    pub places: Vec<Option<Place>>,
}

/// Plugs the chips in; the bridge that shows configuration space in memory, if
/// the board has one, must still be told of the finished bus.
fn plug_chips(root: &PciRoot, kind: &PciKind, router: &Arc<PirqRouter>) -> Option<Arc<Mch>> {
    let mut mch = None;
    for (i, row) in kind.chips.iter().enumerate() {
        let function: Arc<dyn PciFunction> = match (i, kind.ecam) {
            (0, Some(_)) => mch.insert(Mch::new(row)).clone(),
            _ => {
                let router = row.has_routes().then(|| router.clone());
                Arc::new(Chip::new(row, router))
            }
        };
        let plugged = root.plug((BusId::ROOT, row.address()), function);
        assert!(plugged.is_ok(), "two chips at {}", row.address());
    }
    mch
}

/// Builds the buses. `low_end` is where RAM below 4 GiB ends.
/// `None` if the board has none.
pub fn build(config: &MachineConfig, to: &Connections<'_>, low_end: u64) -> Result<Option<Buses>> {
    let Some(kind) = &config.board.pci else {
        let on_pci = config.devices.iter().find(|d| d.is_pci());
        return on_pci.map_or(Ok(None), |device| {
            let why = "the board has no PCI bus; there are virtio-blk-device and others".into();
            let name = device.name();
            Err(Error::Device { name, why })
        });
    };
    let root = Arc::new(PciRoot::new());
    let router = pins::router(kind, to);
    let mch = plug_chips(&root, kind, &router);
    let mut builder = Builder {
        plugger: Plugger::new(config, kind, root.clone(), &router, to),
        timed: Vec::new(),
    };
    let mut places = Vec::new();
    for device in &config.devices {
        let place = device.is_pci().then(|| builder.add(config, to, device));
        places.push(place.transpose().map_err(|why| Error::Device {
            name: device.name(),
            why,
        })?);
    }
    let Builder { plugger, timed } = builder;
    set_up(&root, kind, low_end)?;
    if let Some(mch) = mch {
        mch.attach(&root);
    }
    Ok(Some(Buses {
        root,
        timed,
        plugger: Arc::new(plugger),
        places,
    }))
}

/// What devices on the bus are made from at start.
struct Builder {
    plugger: Plugger,
    timed: Vec<Arc<dyn Timed>>,
}

impl Builder {
    /// Makes a device and plugs it in; a bridge brings its bus along.
    fn add(
        &mut self,
        config: &MachineConfig,
        to: &Connections<'_>,
        device: &DeviceConfig,
    ) -> std::result::Result<Place, String> {
        let place = self.plugger.place(device, &config.devices)?;
        let made = self.plugger.plug(place, device, config, to)?;
        check_functions(&self.plugger.root, place)?;
        self.timed.extend(made.timed);
        if let Some(bus) = made.bus {
            let bus = self.plugger.root.add_bus(place, bus == BusKind::Link);
            self.plugger.slots.add_bus(device, bus);
        }
        Ok(place)
    }
}

/// What firmware does: bus numbers, addresses and interrupt lines.
fn set_up(root: &PciRoot, kind: &PciKind, low_end: u64) -> Result<()> {
    let apertures = Apertures {
        io_first: FIRST_PORT,
        io_end: 0x1_0000,
        memory_first: low_end.max(kind.memory_first),
        memory_end: IOAPIC.into(),
    };
    let own_line = |(bus, address): Place| {
        let place = (address.slot(), address.function());
        bus == BusId::ROOT && kind.own_line == Some(place)
    };
    let line = |place, pin| (!own_line(place)).then(|| pins::line(kind, root, place, pin));
    if assign(root, &apertures, line) {
        return Ok(());
    }
    let (name, why) = ("PCI".into(), "no room for all devices' addresses".into());
    Err(Error::Device { name, why })
}
