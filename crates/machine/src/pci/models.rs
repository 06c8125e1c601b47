//! The PCI functions that [`DeviceModel`] makes: one arm each.

use super::Connections;
use crate::config::{DeviceModel, MachineConfig};
use crate::virtio_models;
use devices::Dma;
use devices::pci::{Bridge, BridgeKind, PciFunction};
use devices::testdev::{Edu, EduWiring, PciTestdev};
use devices::timed::Timed;
use std::sync::Arc;
use virtio::GuestMemory;
use virtio::transport::{PciWiring, VirtioPci};
use vm_memory::{Bytes, GuestAddress};

/// Guest memory for devices that know nothing of `vm-memory`.
pub struct Ram(pub GuestMemory);

impl Dma for Ram {
    fn read(&self, gpa: u64, bytes: &mut [u8]) -> bool {
        self.0.read_slice(bytes, GuestAddress(gpa)).is_ok()
    }
    fn write(&self, gpa: u64, bytes: &[u8]) -> bool {
        self.0.write_slice(bytes, GuestAddress(gpa)).is_ok()
    }
}

/// The bus behind a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BusKind {
    /// 32 slots.
    Pci,
    /// One slot.
    Link,
}

/// A function.
pub(super) struct Made {
    pub(super) function: Arc<dyn PciFunction>,
    /// Itself again, if it has deadlines.
    pub(super) timed: Option<Arc<dyn Timed>>,
    /// The bus behind it, if it is a bridge.
    pub(super) bus: Option<BusKind>,
}

impl From<Arc<dyn PciFunction>> for Made {
    fn from(function: Arc<dyn PciFunction>) -> Self {
        Self {
            function,
            timed: None,
            bus: None,
        }
    }
}

/// Makes a model's function.
pub(super) fn make(
    model: &DeviceModel,
    config: &MachineConfig,
    to: &Connections<'_>,
    wiring: PciWiring,
) -> Result<Made, String> {
    Ok(match model {
        DeviceModel::PciTestdev => Made::from(Arc::new(PciTestdev::default()) as Arc<_>),
        DeviceModel::Edu { dma_mask } => edu(*dma_mask, to, wiring),
        DeviceModel::PciBridge(bridge) => {
            let chassis = bridge.chassis;
            self::bridge(BridgeKind::Pci { chassis }, BusKind::Pci, wiring)
        }
        DeviceModel::PcieRootPort(port) => {
            let (port, slot) = (port.port, port.slot);
            bridge(BridgeKind::RootPort { port, slot }, BusKind::Link, wiring)
        }
        model => match virtio_models::make(model, config, to)? {
            Some((device, vectors)) => {
                Made::from(VirtioPci::new(device, vectors, wiring) as Arc<_>)
            }
            None => unreachable!("{} is not on the PCI bus", model.name()),
        },
    })
}

fn bridge(kind: BridgeKind, bus: BusKind, wiring: PciWiring) -> Made {
    Made {
        bus: Some(bus),
        ..Made::from(Bridge::new(kind, wiring.msi) as Arc<_>)
    }
}

fn edu(dma_mask: u64, to: &Connections<'_>, wiring: PciWiring) -> Made {
    let wiring = EduWiring {
        intx: wiring.intx,
        msi: wiring.msi,
        dma: Arc::new(Ram(wiring.memory)),
        clock: to.clock.clone(),
        waker: to.waker.clone(),
    };
    let edu = Edu::new(dma_mask, wiring);
    Made {
        timed: Some(edu.clone()),
        ..Made::from(edu as Arc<dyn PciFunction>)
    }
}
