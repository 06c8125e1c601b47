//! Virtio over MMIO: the places of the board that devices take, as QEMU fills
//! them: from the last to the first.

use crate::board::Devices;
use crate::boards::MmioKind;
use crate::config::MachineConfig;
use crate::outcome::{Error, Result};
use crate::pci::Connections;
use crate::virtio_models;
use virtio::transport::{MMIO_LEN, MmioWiring, VirtioMmio};

/// A place in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioPlace {
    /// Its number.
    pub index: u8,
    /// First guest-physical address.
    pub gpa: u32,
    /// Interrupt, level-triggered, active high.
    pub gsi: u32,
}

/// The places that `devices` devices take, in their order; `None` for those
/// that find no place.
pub fn places(kind: &MmioKind, devices: usize) -> Vec<MmioPlace> {
    let indices = (0..kind.count).rev().take(devices);
    let place = |index: u8| MmioPlace {
        index,
        gpa: kind.first + u32::from(index) * MMIO_LEN as u32,
        gsi: kind.first_gsi + u32::from(index),
    };
    indices.map(place).collect()
}

/// Adds the configured devices.
pub fn add(config: &MachineConfig, to: &Connections<'_>, on: &mut Devices) -> Result<()> {
    let devices: Vec<_> = config.devices.iter().filter(|d| d.mmio).collect();
    let places = config.board.mmio_places(devices.len());
    for (i, device) in devices.into_iter().enumerate() {
        let refuse = |why: String| Error::Device {
            name: device.name(),
            why,
        };
        let place = places.get(i).ok_or_else(|| match config.board.mmio {
            None => refuse("only the board microvm has virtio over MMIO".into()),
            Some(_) => refuse(format!("all {} places are taken", places.len())),
        })?;
        let made = virtio_models::make(&device.model, config, to);
        let (model, _) = made
            .map_err(refuse)?
            .ok_or_else(|| refuse("is no virtio device".into()))?;
        let wiring = MmioWiring {
            line: (to.line)(to.vm, place.gsi),
            memory: to.memory.clone(),
        };
        let device = VirtioMmio::new(model, wiring);
        let instance = format!("mmio{}", place.index);
        on.stateful.push((instance, device.clone()));
        let registered = on.mmio.register(place.gpa.into(), MMIO_LEN, device);
        assert!(registered.is_ok(), "{:#x} is taken", place.gpa);
    }
    Ok(())
}
