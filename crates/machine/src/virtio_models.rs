//! Virtio devices from their configuration, whatever carries them: the table
//! of what [`DeviceModel`] makes.

use crate::config::{DeviceModel, MachineConfig};
use crate::drives::StopsMachine;
use crate::pci::Connections;
use std::sync::Arc;
use virtio::{VirtioDevice, balloon, blk, rng};

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
        DeviceModel::VirtioBlk(model) => {
            let disk = to.drives.get(&model.drive)?;
            let mut options = model.options.clone();
            // As QEMU: a queue for each vCPU.
            if options.queues == 0 {
                options.queues = config.topology.vcpus().min(u16::MAX.into()) as u16;
            }
            let vectors = options.queues.saturating_add(1);
            let stops = StopsMachine {
                control: to.control.clone(),
                drive: model.drive.clone(),
            };
            (
                Arc::new(blk::Blk::new(disk, options).supervised(Arc::new(stops))),
                vectors,
            )
        }
        _ => return Ok(None),
    };
    Ok(Some(made))
}
