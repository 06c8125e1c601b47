//! Configuration of a tree of PCI buses, through ports and through ECAM.

use crate::input::Input;
use devices::pci::{
    self, Address, Apertures, Bridge, BridgeKind, BusId, Chip, Mch, PciConfig, PciRoot, Q35_CHIPS,
    assign,
};
use devices::testdev::PciTestdev;
use devices::{MmioBus, MsiSink, PortBus};
use std::sync::Arc;

struct Nowhere;

impl MsiSink for Nowhere {
    fn send(&self, _address: u64, _data: u32) {}
}

/// A `q35` with a root port and two bridges, one behind the other; something
/// with BARs behind each.
fn tree() -> Arc<PciRoot> {
    let mut root = PciRoot::new();
    let mch = Mch::new(&Q35_CHIPS[0]);
    let mut plug = |place, function| {
        let plugged = root.plug(place, function);
        assert!(plugged.is_ok(), "{place:?} is taken");
    };
    plug((BusId::ROOT, Q35_CHIPS[0].address()), mch.clone());
    let lpc = Arc::new(Chip::new(&Q35_CHIPS[1], None));
    plug((BusId::ROOT, Q35_CHIPS[1].address()), lpc);
    let at = |slot: u8| Address::from_devfn(slot << 3);
    let mut bridge = |bus, slot, kind| {
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

/// Accesses to buses 0 to 3, and to where their BARs are or were.
pub(super) fn run(data: &[u8]) {
    let root = tree();
    let (mut ports, mut mmio) = (PortBus::new(), MmioBus::new());
    let mechanism = Arc::new(PciConfig::new(root.clone()));
    let registered = ports.register(pci::PORT, pci::LEN, mechanism);
    assert!(registered.is_ok(), "an empty bus");
    ports.set_decoder(root.clone());
    mmio.set_decoder(root);
    let mut input = Input::new(data);
    let mut ecam = pci::ECAM_BASE;
    for _ in 0..512 {
        if input.is_empty() {
            break;
        }
        let size = [1, 2, 4, 8][input.below(4)];
        let slot = [0, 1, 2, 5, 31][input.below(5)];
        let place = u64::from(input.u8() & 3) << 20 | slot << 15;
        match input.below(6) {
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
