//! The PCI bus: the board's chips, the configured devices, and what firmware
//! would have set up.

use crate::boards::PciKind;
use crate::config::{DeviceConfig, DeviceModel, MachineConfig};
use crate::drives::Drives;
use crate::layout::IOAPIC;
use crate::outcome::{Error, Result};
use devices::pci::{
    Address, Apertures, Chip, Mch, PIRQ_IRQ, PciFunction, PciRoot, PirqOutputs, PirqRouter,
    PlugError, assign,
};
use devices::testdev::{Edu, EduWiring, PciTestdev};
use devices::timed::{Timed, Waker};
use devices::{Clock, Dma, IrqLine, MsiSink, OrGate};
use hv::Vm;
use std::sync::{Arc, Weak};
use virtio::transport::{PciWiring, VirtioPci};
use virtio::{GuestMemory, VirtioDevice, blk, rng};
use vm_memory::{Bytes, GuestAddress};

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
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Wakes the thread that serves deadlines.
    pub waker: Waker,
}

/// The bus, and the functions with deadlines.
pub struct Bus {
    /// Functions by address.
    pub root: Arc<PciRoot>,
    /// Those that act when time passes.
    pub timed: Vec<Arc<dyn Timed>>,
}

/// A function, and itself again if it has deadlines.
type Created = (Arc<dyn PciFunction>, Option<Arc<dyn Timed>>);

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

/// ISA interrupts that a PIRQ can be routed to: those that no other device of
/// the board drives.
const ROUTABLE: [u8; 3] = [5, 10, 11];

/// The board's PIRQ lines, each shared by many pins.
struct Pins {
    kind: &'static PciKind,
    lines: Vec<Arc<OrGate>>,
}

impl Pins {
    fn new(kind: &'static PciKind, router: &Arc<PirqRouter>) -> Self {
        let lines = (0..kind.pirqs).map(|n| router.line(n)).collect();
        Self { kind, lines }
    }

    /// A new input for pin INTA of a slot.
    fn inta(&self, address: Address) -> Arc<dyn IrqLine> {
        self.lines[(self.kind.pirq)(address.slot(), 1)].input()
    }
}

fn router(kind: &PciKind, to: &Connections<'_>) -> Arc<PirqRouter> {
    let line = |gsi| (to.line)(to.vm, gsi);
    let isa = ROUTABLE.map(|irq| (irq, line(irq.into())));
    let apic = kind
        .apic_first
        .map(|first| first..first + kind.pirqs as u32);
    let outputs = PirqOutputs {
        isa: isa.to_vec(),
        apic: apic.into_iter().flatten().map(line).collect(),
    };
    PirqRouter::new(kind.pirqs, outputs)
}

/// Plugs the chips in; the bridge that shows configuration space in memory, if
/// the board has one, must still be told of the finished bus.
fn plug_chips(root: &mut PciRoot, kind: &PciKind, router: &Arc<PirqRouter>) -> Option<Arc<Mch>> {
    let mut mch = None;
    for (i, row) in kind.chips.iter().enumerate() {
        let function: Arc<dyn PciFunction> = match (i, kind.ecam) {
            (0, Some(_)) => mch.insert(Mch::new(row)).clone(),
            _ => {
                let router = row.has_routes().then(|| router.clone());
                Arc::new(Chip::new(row, router))
            }
        };
        let plugged = root.plug(row.address(), function);
        assert!(plugged.is_ok(), "two chips at {}", row.address());
    }
    mch
}

/// Builds the bus. `low_end` is where RAM below 4 GiB ends.
pub fn build(config: &MachineConfig, to: &Connections<'_>, low_end: u64) -> Result<Bus> {
    let kind = &config.board.pci;
    let mut root = PciRoot::new();
    let mut timed = Vec::new();
    let router = router(kind, to);
    let mch = plug_chips(&mut root, kind, &router);
    let pins = Pins::new(kind, &router);
    let msi: Arc<dyn MsiSink> = Arc::new(VmMsi(Arc::downgrade(to.vm)));
    // Fixed places first, as QEMU's users expect of `addr=`.
    let on_pci = config.devices.iter().filter(|d| d.model.is_pci());
    let (fixed, free): (Vec<_>, Vec<_>) = on_pci.partition(|d| d.address.is_some());
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
        let (function, deadlines) = create(device, config, to, wiring).map_err(refuse)?;
        timed.extend(deadlines);
        root.plug(address, function)
            .map_err(|e| refuse(explain(e)))?;
    }
    set_up(&root, kind, low_end)?;
    let root = Arc::new(root);
    if let Some(mch) = mch {
        mch.attach(&root);
    }
    Ok(Bus { root, timed })
}

/// What firmware does: addresses and interrupt lines.
fn set_up(root: &PciRoot, kind: &PciKind, low_end: u64) -> Result<()> {
    let apertures = Apertures {
        io_first: FIRST_PORT,
        io_end: 0x1_0000,
        memory_first: low_end.max(kind.memory_first),
        memory_end: IOAPIC.into(),
    };
    let line = |address: Address, pin| {
        let place = (address.slot(), address.function());
        // PIRQE to PIRQH are routed as PIRQA to PIRQD.
        let line = PIRQ_IRQ[(kind.pirq)(address.slot(), pin) % PIRQ_IRQ.len()];
        (kind.own_line != Some(place)).then_some(line)
    };
    if assign(root, &apertures, line) {
        return Ok(());
    }
    let (name, why) = ("PCI".into(), "no room for all devices' addresses".into());
    Err(Error::Device { name, why })
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
    to: &Connections<'_>,
    wiring: PciWiring,
) -> std::result::Result<Created, String> {
    let (device, vectors): (Arc<dyn VirtioDevice>, u16) = match &device.model {
        DeviceModel::PciTestdev => return Ok((Arc::new(PciTestdev::default()), None)),
        DeviceModel::Edu { dma_mask } => {
            let edu = Edu::new(
                *dma_mask,
                EduWiring {
                    intx: wiring.intx,
                    msi: wiring.msi,
                    dma: Arc::new(Ram(wiring.memory)),
                    clock: to.clock.clone(),
                    waker: to.waker.clone(),
                },
            );
            return Ok((edu.clone(), Some(edu)));
        }
        model @ (DeviceModel::DebugExit { .. }
        | DeviceModel::DebugCon { .. }
        | DeviceModel::PcTestdev) => {
            unreachable!("{} is on the ISA bus", model.name())
        }
        DeviceModel::VirtioRng => (Arc::new(rng::Rng::new()), 2),
        DeviceModel::VirtioBlk(model) => {
            let disk = to.drives.get(&model.drive)?;
            let mut options = model.options.clone();
            // As QEMU: a queue for each vCPU.
            if options.queues == 0 {
                options.queues = config.topology.vcpus().min(u16::MAX.into()) as u16;
            }
            let vectors = options.queues.saturating_add(1);
            (Arc::new(blk::Blk::new(disk, options)), vectors)
        }
    };
    Ok((VirtioPci::new(device, vectors, wiring), None))
}
