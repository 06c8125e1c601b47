//! Configuration of a tree of PCI buses, through ports and through ECAM.

use crate::input::Input;
use devices::acpi_pm::AcpiPm;
use devices::hotplug::{
    Ejector, ICH9_PROCESSORS, ICH9_SLOTS, PROCESSORS_LEN, ProcessorRegisters, ProcessorsCore,
    SLOTS_LEN, SlotRegisters, SlotsCore,
};
use devices::pci::{
    self, Address, Apertures, Bridge, BridgeKind, BusId, Chip, Mch, PciConfig, PciRoot, Q35_CHIPS,
    assign,
};
use devices::testdev::PciTestdev;
use devices::timed::Waker;
use devices::{ManualClock, MmioBus, MsiSink, NoIrq, PortBus};
use std::sync::Arc;

struct Nowhere;

impl MsiSink for Nowhere {
    fn send(&self, _address: u64, _data: u32) {}
}

/// A `q35` with a root port and two bridges, one behind the other; something
/// with BARs behind each.
fn tree() -> Arc<PciRoot> {
    let root = PciRoot::new();
    let mch = Mch::new(&Q35_CHIPS[0]);
    let plug = |place, function| {
        let plugged = root.plug(place, function);
        assert!(plugged.is_ok(), "{place:?} is taken");
    };
    plug((BusId::ROOT, Q35_CHIPS[0].address()), mch.clone());
    let lpc = Arc::new(Chip::new(&Q35_CHIPS[1], None));
    plug((BusId::ROOT, Q35_CHIPS[1].address()), lpc);
    let at = |slot: u8| Address::from_devfn(slot << 3);
    let bridge = |bus, slot, kind| {
        let plugged = root.plug((bus, at(slot)), Bridge::new(kind, Arc::new(Nowhere)));
        assert!(plugged.is_ok(), "slot {slot} is taken");
        let link = matches!(kind, BridgeKind::RootPort { .. });
        let behind = root.add_bus((bus, at(slot)), link);
        let function = Arc::new(PciTestdev::default());
        assert!(root.plug((behind, at(0)), function).is_ok(), "an empty bus");
        behind
    };
    bridge(BusId::ROOT, 1, BridgeKind::RootPort { port: 0, slot: 0 });
    let outer = bridge(BusId::ROOT, 2, BridgeKind::Pci { chassis: 1 });
    bridge(outer, 5, BridgeKind::Pci { chassis: 2 });
    let apertures = Apertures {
        io_first: 0xc000,
        io_end: 0x1_0000,
        memory_first: 0xc000_0000,
        memory_end: 0xfec0_0000,
    };
    assert!(assign(&root, &apertures, |_, _| Some(10)), "no room");
    let root = Arc::new(root);
    mch.attach(&root);
    root
}

/// Who pulls functions out, as the machine does. The registers tell of slots
/// that can be emptied only.
struct Puller(Arc<PciRoot>);

impl Ejector for Puller {
    fn eject_slot(&self, bus: u32, slot: u8) {
        assert_eq!((bus, slot), (1, 0), "no chip and no bridge goes");
        let behind = self.0.buses().find(|b| b.number() == bus);
        let functions = behind.and_then(|bus| {
            let place = (bus, Address::from_devfn(slot << 3));
            self.0.unplug(place)
        });
        functions.iter().for_each(|f| f.removed());
    }
    fn eject_processor(&self, number: u32) {
        assert!((1..3).contains(&number), "processor {number} goes");
    }
}

/// The registers of hot-plug at their ports: the slot behind the root port is
/// one that comes and goes, and so are two of three processors.
fn hotplug(root: &Arc<PciRoot>, ports: &mut PortBus) -> (Arc<Puller>, Arc<SlotRegisters>) {
    let clock = Arc::new(ManualClock::at(0));
    let pm = Arc::new(AcpiPm::new(Arc::new(NoIrq), clock, Waker::default()));
    let slots = Arc::new(SlotRegisters::new(SlotsCore::new([0, 1]), pm.clone()));
    let core = ProcessorsCore::new([(0, true), (1, true), (2, false)]);
    let processors = Arc::new(ProcessorRegisters::new(core, pm));
    let puller = Arc::new(Puller(root.clone()));
    let ejector: Arc<dyn Ejector> = puller.clone();
    slots.set_ejector(Arc::downgrade(&ejector));
    processors.set_ejector(Arc::downgrade(&ejector));
    processors.plugged(2);
    let registered = ports
        .register(ICH9_SLOTS, SLOTS_LEN, slots.clone())
        .and_then(|()| ports.register(ICH9_PROCESSORS, PROCESSORS_LEN, processors));
    assert!(registered.is_ok(), "an empty bus");
    (puller, slots)
}

/// Plugs a function in behind the root port, if nothing is there.
fn fill(root: &PciRoot, slots: &SlotRegisters) {
    let behind = root.buses().find(|b| b.number() == 1);
    let place = behind.map(|bus| (bus, Address::from_devfn(0)));
    let function = Arc::new(PciTestdev::default());
    if place.is_some_and(|place| root.plug(place, function).is_ok()) {
        assert!(slots.filled(1, 0), "the slot takes part");
    }
}

/// Accesses to buses 0 to 3, and to where their BARs are or were; functions
/// come and go meanwhile.
pub(super) fn run(data: &[u8]) {
    let root = tree();
    let (mut ports, mut mmio) = (PortBus::new(), MmioBus::new());
    let (_puller, slots) = hotplug(&root, &mut ports);
    let mechanism = Arc::new(PciConfig::new(root.clone()));
    let registered = ports.register(pci::PORT, pci::LEN, mechanism);
    assert!(registered.is_ok(), "an empty bus");
    ports.set_decoder(root.clone());
    mmio.set_decoder(root.clone());
    let mut input = Input::new(data);
    let mut ecam = pci::ECAM_BASE;
    for _ in 0..512 {
        if input.is_empty() {
            break;
        }
        let size = [1, 2, 4, 8][input.below(4)];
        let slot = [0, 1, 2, 5, 31][input.below(5)];
        let place = u64::from(input.u8() & 3) << 20 | slot << 15;
        match input.below(8) {
            0 | 1 => {
                let offset = u64::from(input.u8());
                mmio.write(ecam + place + offset, size, input.u64());
            }
            2 => {
                let offset = u64::from(input.u16() & 0xfff);
                mmio.read(ecam + place + offset, size);
            }
            3 => {
                let address = 0x8000_0000 | (place >> 4) as u32 | u32::from(input.u8() & 0xfc);
                ports.write(pci::PORT, 4, address);
                ports.write(pci::PORT + 4, size.min(4), input.u32());
                ports.read(pci::PORT + 4, size.min(4));
            }
            6 => {
                let port = ICH9_SLOTS + u16::from(input.u8() % 0x24);
                ports.write(port, size.min(4), input.u32() & 0x1f);
                ports.read(port, size.min(4));
            }
            7 if input.u8() & 1 == 0 => fill(&root, &slots),
            7 => drop(slots.to_empty(u32::from(input.u8() & 3), input.u8())),
            4 => ecam = u64::from(input.u32() & 0xfc00_0000),
            _ => {
                let gpa = 0xfe00_0000 + u64::from(input.u32() & 0xff_ffff);
                mmio.write(gpa, size, input.u64());
                mmio.read(gpa, size);
                ports.write(input.u16(), size.min(4), input.u32());
            }
        }
    }
}
