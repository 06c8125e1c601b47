//! The PCI bus of `pc`: its chips, the configured devices, and what firmware
//! would have set up.

use crate::config::{DeviceConfig, DeviceModel, MachineConfig};
use crate::drives::Drives;
use crate::layout::IOAPIC;
use crate::outcome::{Error, Result};
use devices::pci::{
    Address, Apertures, Chip, PC_CHIPS, PIRQ_GSI, PM_FUNCTION, PciFunction, PciRoot, PlugError,
    assign, pirq,
};
use devices::{IrqLine, MsiSink, OrGate};
use hv::Vm;
use std::sync::{Arc, Weak};
use virtio::transport::{PciWiring, VirtioPci};
use virtio::{GuestMemory, VirtioDevice, blk, rng};

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
    /// A line of the interrupt controllers.
    pub line: fn(&Arc<dyn Vm>, u32) -> Arc<dyn IrqLine>,
    /// Open disks.
    pub drives: &'a Drives,
}

/// The interrupts that PCI's four lines share.
struct Pins(Vec<(u8, Arc<OrGate>)>);

impl Pins {
    fn new(to: &Connections<'_>) -> Self {
        let mut gsis = PIRQ_GSI.to_vec();
        gsis.dedup();
        let gate = |gsi: u8| (gsi, OrGate::new((to.line)(to.vm, gsi.into())));
        Self(gsis.into_iter().map(gate).collect())
    }

    /// A new input for pin INTA of a slot.
    fn inta(&self, address: Address) -> Arc<dyn IrqLine> {
        let gsi = PIRQ_GSI[pirq(address.slot(), 1)];
        let gate = self.0.iter().find(|(g, _)| *g == gsi);
        gate.map_or_else(|| Arc::new(devices::NoIrq) as _, |(_, gate)| gate.input())
    }
}

/// Builds the bus. `memory_first` is where its memory may begin.
pub fn build(
    config: &MachineConfig,
    to: &Connections<'_>,
    memory_first: u64,
) -> Result<Arc<PciRoot>> {
    let mut root = PciRoot::new();
    for row in &PC_CHIPS {
        let plugged = root.plug(row.address(), Arc::new(Chip::new(row)));
        assert!(plugged.is_ok(), "two chips at {}", row.address());
    }
    let pins = Pins::new(to);
    let msi: Arc<dyn MsiSink> = Arc::new(VmMsi(Arc::downgrade(to.vm)));
    // Fixed places first, as QEMU's users expect of `addr=`.
    let (fixed, free): (Vec<_>, Vec<_>) = config.devices.iter().partition(|d| d.address.is_some());
    for device in fixed.into_iter().chain(free) {
        let refuse = |why: String| Error::Device {
            name: device.name(),
            why,
        };
        let address = place(&root, device).map_err(refuse)?;
        let wiring = PciWiring {
            intx: pins.inta(address),
            msi: msi.clone(),
            memory: to.memory.clone(),
        };
        let function = create(device, config, to.drives, wiring).map_err(refuse)?;
        root.plug(address, function)
            .map_err(|e| refuse(explain(e)))?;
    }
    let apertures = Apertures {
        io_first: FIRST_PORT,
        io_end: 0x1_0000,
        memory_first,
        memory_end: IOAPIC.into(),
    };
    if !assign(&root, &apertures, line_of) {
        let (name, why) = ("PCI".into(), "no room for all devices' addresses".into());
        return Err(Error::Device { name, why });
    }
    Ok(Arc::new(root))
}

/// The interrupt line firmware writes into a function.
fn line_of(address: Address, pin: u8) -> Option<u8> {
    let chip = (address.slot(), address.function()) == PM_FUNCTION;
    (!chip).then(|| PIRQ_GSI[pirq(address.slot(), pin)])
}

fn place(root: &PciRoot, device: &DeviceConfig) -> std::result::Result<Address, String> {
    let Some((slot, function)) = device.address else {
        return root.free_slot().map_err(explain);
    };
    Address::new(slot, function).ok_or_else(|| format!("addr={slot:#x}.{function} is no place"))
}

fn explain(error: PlugError) -> String {
    match error {
        PlugError::Taken(address) => {
            format!("PCI slot {address} is in use; leave addr= out for a free one")
        }
        PlugError::Full => "all 32 PCI slots are in use".into(),
    }
}

fn create(
    device: &DeviceConfig,
    config: &MachineConfig,
    drives: &Drives,
    wiring: PciWiring,
) -> std::result::Result<Arc<dyn PciFunction>, String> {
    let (device, vectors): (Arc<dyn VirtioDevice>, u16) = match &device.model {
        DeviceModel::VirtioRng => (Arc::new(rng::Rng::new()), 2),
        DeviceModel::VirtioBlk(model) => {
            let disk = drives.get(&model.drive)?;
            let mut options = model.options.clone();
            // As QEMU: a queue for each vCPU.
            if options.queues == 0 {
                options.queues = config.topology.vcpus().min(u16::MAX.into()) as u16;
            }
            let vectors = options.queues.saturating_add(1);
            (Arc::new(blk::Blk::new(disk, options)), vectors)
        }
    };
    Ok(VirtioPci::new(device, vectors, wiring))
}
