//! Virtio devices from their configuration, whatever carries them: the table
//! of what [`DeviceModel`] makes.

use crate::config::{DeviceModel, MachineConfig, VirtioPortConfig, VirtioSerialConfig};
use crate::console::Console;
use crate::drives::StopsMachine;
use crate::pci::Connections;
use std::sync::Arc;
use virtio::{VirtioDevice, balloon, blk, fs, net, rng, serial};

/// A device, and how many MSI-X vectors it wants.
pub type Made = (Arc<dyn VirtioDevice>, u16);

/// Makes the device of a model; `None` if it is not a virtio device.
pub fn make(
    model: &DeviceModel,
    config: &MachineConfig,
    to: &Connections<'_>,
) -> Result<Option<Made>, String> {
    let made: Made = match model {
        DeviceModel::VirtioRng => (Arc::new(rng::Rng::new()), 2),
        DeviceModel::VirtioBalloon(options) => {
            let (host, reclaim) = (to.balloon.clone(), to.reclaim.clone());
            (Arc::new(balloon::Balloon::new(host, reclaim, *options)), 2)
        }
        DeviceModel::VirtioSerial(serial) => {
            let ports = ports(model, serial, config, to.port_consoles);
            (Arc::new(serial::Serial::new(serial.max_ports, ports)), 2)
        }
        DeviceModel::VirtioNet(model) => {
            let socket = to.networks.plug(model.netdev.as_deref())?;
            let net = net::Net::new(socket.networks, socket.link, model.options.clone());
            let vectors = net_vectors(model.vectors, net.pairs())?;
            (Arc::new(net), vectors)
        }
        DeviceModel::VirtioFs(config) => {
            let share = fs::Share::open(&config.folder, config.read_only);
            let share = share.map_err(|e| {
                let why = crate::image::describe(&e);
                format!("folder '{}': {why}", config.folder.display())
            })?;
            // Requests, those that must not wait, and the configuration.
            let vectors = config.options.queues + 2;
            (
                Arc::new(fs::Fs::new(share, config.options.clone())),
                vectors,
            )
        }
        DeviceModel::VirtioBlk(model) => {
            let disk = to.drives.get(&model.drive)?;
            let mut options = model.options.clone();
            // As QEMU: a queue for each vCPU at start.
            if options.queues == 0 {
                let vcpus = config.topology.vcpus().saturating_sub(config.absent_vcpus);
                options.queues = vcpus.clamp(1, u16::MAX.into()) as u16;
            }
            let vectors = options.queues.saturating_add(1);
            let stops = StopsMachine {
                control: to.control.clone(),
                drive: model.drive.clone(),
            };
            let device = blk::Blk::new(disk.clone(), options).supervised(Arc::new(stops));
            let device = Arc::new(device);
            disk.used_by(&device);
            (device, vectors)
        }
        _ => return Ok(None),
    };
    Ok(Some(made))
}

/// As QEMU: two for each pair of queues, commands, and the configuration. A driver
/// does with fewer, at the price of all queues but one: nobody asks for both.
fn net_vectors(asked: Option<u16>, pairs: u16) -> Result<u16, String> {
    let needed = 2 * pairs + 2;
    match asked {
        Some(vectors) if vectors < needed && pairs > 1 => Err(format!(
            "vectors={vectors}: {pairs} pairs of queues need {needed}, as there are without vectors="
        )),
        asked => Ok(asked.unwrap_or(needed)),
    }
}

/// The ports of all console devices, in their order: each has a console of
/// the machine's.
pub fn all_ports(config: &MachineConfig) -> impl Iterator<Item = &VirtioPortConfig> {
    config.devices.iter().flat_map(|d| of_model(&d.model))
}

fn of_model(model: &DeviceModel) -> &[VirtioPortConfig] {
    match model {
        DeviceModel::VirtioSerial(serial) => &serial.ports,
        _ => &[],
    }
}

/// The ports of `model`, which is one of `config`'s, with their consoles.
fn ports(
    model: &DeviceModel,
    serial: &VirtioSerialConfig,
    config: &MachineConfig,
    consoles: &[Console],
) -> Vec<serial::PortOptions> {
    let before = config.devices.iter().map(|d| &d.model);
    let before = before.take_while(|other| !std::ptr::eq(*other, model));
    let skip = before.map(|other| of_model(other).len()).sum();
    let pairs = serial.ports.iter().zip(consoles.iter().skip(skip));
    let options = pairs.map(|(port, console)| serial::PortOptions {
        number: port.number,
        console: port.console,
        name: port.name.clone(),
        host: console.end(),
    });
    options.collect()
}
