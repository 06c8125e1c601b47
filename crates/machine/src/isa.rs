//! `-device` on the ISA bus: what test programs ask for.

use crate::config::{DeviceConfig, DeviceModel, MachineConfig};
use crate::console::Console;
use crate::outcome::{Error, Result};
use crate::saved::Named;
use devices::testdev::{DebugCon, DebugExit, Iomem, PcTestdev};
use devices::{BusError, IrqLine, MmioBus, PortBus, PortDevice};
use std::sync::Arc;

/// Where ISA devices are found.
pub struct Buses<'a> {
    /// I/O ports.
    pub ports: &'a mut PortBus,
    /// Guest-physical addresses without RAM.
    pub mmio: &'a mut MmioBus,
    /// What a saved state holds of devices.
    pub stateful: &'a mut Vec<Named>,
}

/// Adds the configured devices. `consoles` are those of `isa-debugcon`;
/// `line` is an interrupt input by number.
pub fn add(
    config: &MachineConfig,
    consoles: &[Console],
    line: impl Fn(u32) -> Arc<dyn IrqLine>,
    buses: &mut Buses<'_>,
) -> Result<()> {
    let mut consoles = consoles.iter();
    let devices = config.devices.iter().filter(|d| !d.model.is_pci());
    // What has ports inside of `pc-testdev`'s goes first.
    let is_testdev = |d: &&DeviceConfig| matches!(d.model, DeviceModel::PcTestdev);
    let (last, first): (Vec<_>, Vec<_>) = devices.partition(is_testdev);
    for device in first {
        let (port, count, model): (u16, u16, Arc<dyn PortDevice>) = match device.model {
            DeviceModel::DebugExit { iobase, iosize } => {
                (iobase, iosize, Arc::new(DebugExit { ports: iosize }))
            }
            DeviceModel::DebugCon {
                iobase, readback, ..
            } => {
                let console = consoles.next().expect("one for each isa-debugcon");
                let sink = console.output.clone();
                (iobase, 1, Arc::new(DebugCon::new(sink, readback)))
            }
            ref model => unreachable!("{} is not handled", model.name()),
        };
        let registered = buses.ports.register(port, count, model);
        registered.map_err(|why| refuse(device, port, count, why))?;
    }
    last.into_iter()
        .try_for_each(|device| add_testdev(device, &line, buses))
}

fn add_testdev(
    device: &DeviceConfig,
    line: &impl Fn(u32) -> Arc<dyn IrqLine>,
    buses: &mut Buses<'_>,
) -> Result<()> {
    let lines = (0..devices::testdev::LINE_COUNT.into()).map(line);
    let registers = PcTestdev::new(lines.collect());
    for (port, count, part) in registers.rows() {
        // A console at 0xe9 hides one byte of the register, as under QEMU.
        let hidden = count == 1;
        match buses.ports.register(port, count, part) {
            Err(BusError::Overlap) if hidden => {}
            done => done.map_err(|why| refuse(device, port, count, why))?,
        }
    }
    let iomem = Arc::new(Iomem::default());
    let all: [Named; 2] = [(String::new(), registers), (String::new(), iomem.clone())];
    buses.stateful.extend(all);
    let registered = buses.mmio.register(Iomem::GPA, Iomem::SIZE, iomem);
    registered.map_err(|_| Error::Device {
        name: device.name(),
        why: format!("its memory at {:#x} is in use", Iomem::GPA),
    })
}

fn refuse(device: &DeviceConfig, port: u16, count: u16, why: BusError) -> Error {
    let why = match why {
        BusError::Overlap => format!("a port from {port:#x} ({count}) belongs to another device"),
        BusError::BadRange => format!("there are no {count} ports from {port:#x}"),
    };
    let name = device.name();
    Error::Device { name, why }
}
