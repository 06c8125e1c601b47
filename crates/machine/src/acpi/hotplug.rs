//! PCI slots that are filled and emptied while the machine runs (ACPI 6.5,
//! 5.6.6, 6.3): each is a device of the DSDT that can be ejected, and an event
//! makes every bus ask the registers which slots to tell of.

use super::pci_root::Written;
use acpi_tables::aml::{
    Acquire, And, Device, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, If,
    Local, Method, MethodCall, Mutex, Name, Notify, ONE, OpRegion, OpRegionSpace, Path, Release,
    Scope, ShiftLeft, Store, ZERO,
};
use acpi_tables::{Aml, aml::Arg};
use devices::hotplug::{SLOTS_EVENT, SLOTS_LEN};
use devices::pci::Address;

/// A bus as the tables tell of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotTree {
    /// What selects it in the registers.
    pub number: u32,
    /// Slots that can be filled and emptied, as bits.
    pub slots: u32,
    /// Bridges on it, and the buses behind them.
    pub bridges: Vec<(Address, SlotTree)>,
}

/// Values of notifications (5.6.6): look at the device; let go of it.
pub(super) const CHECK: u8 = 1;
/// See [`CHECK`].
pub(super) const EJECT: u8 = 3;
/// Wait for a mutex for ever.
pub(super) const FOREVER: u16 = 0xffff;

/// Registers: filled, to be emptied, eject, bus.
const FILLED: &str = "HPUP";
const TO_EMPTY: &str = "HPDN";
const EJECTED: &str = "HPEJ";
const BUS: &str = "HPBS";
const REGION: &str = "HPRG";
/// Held from the choice of a bus to the last access to its slots.
const LOCK: &str = "HPLK";
/// Ejects slot Arg1 of bus Arg0.
const EJECT_SLOT: &str = "HPES";
/// Of each bus: tells of its slots.
const TELL: &str = "HPTL";
const ROOT: &str = "\\_SB_.PCI0";

/// Name of the device at a place.
fn device_name(address: Address) -> String {
    format!("S{:02X}_", address.devfn())
}

/// What is in the scope of the root: registers and the methods to reach them.
pub(super) fn write_registers(first_port: u16, out: &mut Vec<u8>) {
    let path = Path::new;
    let space = OpRegionSpace::SystemIO;
    OpRegion::new(path(REGION), space, &first_port, &SLOTS_LEN).to_aml_bytes(out);
    let word = |name: &str| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(name.as_bytes());
        FieldEntry::Named(bytes, 32)
    };
    let fields = vec![
        word(FILLED),
        word(TO_EMPTY),
        word(EJECTED),
        FieldEntry::Reserved(32),
        word(BUS),
    ];
    Field::new(
        path(REGION),
        FieldAccessType::DWord,
        FieldLockRule::NoLock,
        FieldUpdateRule::WriteAsZeroes,
        fields,
    )
    .to_aml_bytes(out);
    Mutex::new(path(LOCK), 0).to_aml_bytes(out);

    let (bus, eject) = (path(BUS), path(EJECTED));
    let (number, slot, bit) = (Arg(0), Arg(1), Local(0));
    let acquire = Acquire::new(path(LOCK), FOREVER);
    let choose = Store::new(&bus, &number);
    let shift = ShiftLeft::new(&bit, &ONE, &slot);
    let act = Store::new(&eject, &bit);
    let release = Release::new(path(LOCK));
    let body: Vec<&dyn Aml> = vec![&acquire, &choose, &shift, &act, &release];
    Method::new(path(EJECT_SLOT), 2, false, body).to_aml_bytes(out);
}

/// What is in the scope of a bus: its slots and bridges, and the method that
/// tells of them.
pub(super) fn write_bus(bus: &SlotTree, out: &mut Vec<u8>) {
    for slot in slots(bus) {
        write_slot(bus.number, slot, out);
    }
    for (address, behind) in &bus.bridges {
        let mut body = Vec::new();
        write_bus(behind, &mut body);
        let adr = Name::new(Path::new("_ADR"), &adr(*address));
        let name = Path::new(&device_name(*address));
        Device::new(name, vec![&adr, &Written(body)]).to_aml_bytes(out);
    }
    if bus.slots != 0 {
        write_tell(bus, out);
    }
}

fn slots(bus: &SlotTree) -> impl Iterator<Item = Address> + use<> {
    let slots = bus.slots;
    let chosen = (0..32u8).filter(move |slot| slots & (1 << slot) != 0);
    chosen.filter_map(|slot| Address::new(slot, 0))
}

/// `_ADR` of PCI (6.1.1).
fn adr(address: Address) -> u32 {
    u32::from(address.slot()) << 16 | u32::from(address.function())
}

fn write_slot(bus: u32, address: Address, out: &mut Vec<u8>) {
    let path = Path::new;
    let slot = address.slot();
    let adr = Name::new(path("_ADR"), &adr(address));
    let sun = Name::new(path("_SUN"), &slot);
    let call = MethodCall::new(path(EJECT_SLOT), vec![&bus, &slot]);
    let eject = Method::new(path("_EJ0"), 1, false, vec![&call]);
    Device::new(path(&device_name(address)), vec![&adr, &sun, &eject]).to_aml_bytes(out);
}

fn write_tell(bus: &SlotTree, out: &mut Vec<u8>) {
    let path = Path::new;
    let mut body = Vec::new();
    let registers = [(Local(0), FILLED, CHECK), (Local(1), TO_EMPTY, EJECT)];
    Store::new(&path(BUS), &bus.number).to_aml_bytes(&mut body);
    for (local, register, _) in &registers {
        Store::new(local, &path(register)).to_aml_bytes(&mut body);
    }
    for address in slots(bus) {
        let bit = 1u32 << address.slot();
        for (local, _, value) in &registers {
            let device = path(&device_name(address));
            let tell = Notify::new(&device, value);
            // Without a target: a null name is the byte that zero is.
            let asked = And::new(&ZERO, local, &bit);
            If::new(&asked, vec![&tell]).to_aml_bytes(&mut body);
        }
    }
    Method::new(path(TELL), 0, false, vec![&Written(body)]).to_aml_bytes(out);
}

/// Appends, at the top, what the event does.
pub(super) fn write_event(root: &SlotTree, out: &mut Vec<u8>) {
    let lock = || Path::new(&format!("{ROOT}.{LOCK}"));
    let mut body = Vec::new();
    Acquire::new(lock(), FOREVER).to_aml_bytes(&mut body);
    write_calls(root, ROOT, &mut body);
    Release::new(lock()).to_aml_bytes(&mut body);
    write_handler(SLOTS_EVENT, body, out);
}

/// Appends the method of an event that is an edge (5.6.4.1).
pub(super) fn write_handler(event: u8, body: Vec<u8>, out: &mut Vec<u8>) {
    let name = Path::new(&format!("_E{event:02X}"));
    let mut inner = Vec::new();
    Method::new(name, 0, false, vec![&Written(body)]).to_aml_bytes(&mut inner);
    out.extend(Scope::raw(Path::new("\\_GPE"), inner));
}

fn write_calls(bus: &SlotTree, scope: &str, out: &mut Vec<u8>) {
    if bus.slots != 0 {
        let name = Path::new(&format!("{scope}.{TELL}"));
        MethodCall::new(name, Vec::new()).to_aml_bytes(out);
    }
    for (address, behind) in &bus.bridges {
        let scope = format!("{scope}.{}", device_name(*address));
        write_calls(behind, &scope, out);
    }
}
