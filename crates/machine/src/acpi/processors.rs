//! Processors that come and go (ACPI 6.5, 8.4): each that there may ever be
//! is a device of the DSDT, and an event makes the operating system look which
//! came and which shall go.

use super::hotplug::{CHECK, EJECT, FOREVER, write_handler};
use super::pci_root::Written;
use crate::boards::HotplugKind;
use crate::cpu::Topology;
use acpi_tables::Aml;
use acpi_tables::aml::{
    Acquire, Arg, BufferData, Device, EISAName, Else, Equal, Field, FieldAccessType, FieldEntry,
    FieldLockRule, FieldUpdateRule, If, Local, Method, MethodCall, Mutex, Name, Notify, ONE,
    OpRegion, OpRegionSpace, Path, Release, Return, Store, While, ZERO,
};
use devices::hotplug::{PROCESSORS_EVENT, PROCESSORS_LEN};

/// Of the MADT: local APIC, and its length.
const LOCAL_APIC: [u8; 2] = [0, 8];
const ENABLED: [u8; 4] = [1, 0, 0, 0];
/// `_STA`: present, enabled, shown, working.
const STA_PRESENT: u8 = 0x0f;

/// Selector; data; flags; command.
const SELECT: &str = "PRSE";
const DATA: &str = "PRDA";
const PRESENT: &str = "PREN";
const INSERTED: &str = "PRIN";
const REMOVING: &str = "PRRM";
const EJECTED: &str = "PREJ";
const COMMAND: &str = "PRCM";
const REGION: &str = "PRRG";
/// Held from the choice of a processor to the last access to it.
const LOCK: &str = "PRLK";
/// `_STA` of a processor; its eject; notification Arg1 to it; the event.
const STATUS: &str = "PRST";
const EJECT_ONE: &str = "PREO";
const TELL: &str = "PRTL";
const SCAN: &str = "PRSC";
const CONTAINER: &str = "CPUS";

fn device_name(number: u32) -> String {
    format!("P{number:03X}")
}

/// Appends the container with all processors.
pub(super) fn write(kind: &HotplugKind, topology: &Topology, out: &mut Vec<u8>) {
    let path = Path::new;
    let mut body = Vec::new();
    Name::new(path("_HID"), &"ACPI0010").to_aml_bytes(&mut body);
    Name::new(path("_CID"), &EISAName::new("PNP0A05")).to_aml_bytes(&mut body);
    write_registers(kind.processors, &mut body);
    write_status(&mut body);
    write_eject(&mut body);
    write_tell(topology.vcpus(), &mut body);
    write_scan(&mut body);
    for (number, apic_id) in (0..).zip(topology.apic_ids()) {
        write_processor(number, apic_id, &mut body);
    }
    Device::new(path(CONTAINER), vec![&Written(body)]).to_aml_bytes(out);
}

/// Appends, at the top, what the event does.
pub(super) fn write_event(out: &mut Vec<u8>) {
    let scan = Path::new(&format!("\\_SB_.{CONTAINER}.{SCAN}"));
    let mut body = Vec::new();
    MethodCall::new(scan, Vec::new()).to_aml_bytes(&mut body);
    write_handler(PROCESSORS_EVENT, body, out);
}

fn write_registers(first_port: u16, out: &mut Vec<u8>) {
    let path = Path::new;
    let space = OpRegionSpace::SystemIO;
    OpRegion::new(path(REGION), space, &first_port, &PROCESSORS_LEN).to_aml_bytes(out);
    let named = |name: &str, bits| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(name.as_bytes());
        FieldEntry::Named(bytes, bits)
    };
    let bytes = vec![
        FieldEntry::Reserved(32),
        named(PRESENT, 1),
        named(INSERTED, 1),
        named(REMOVING, 1),
        named(EJECTED, 1),
        FieldEntry::Reserved(4),
        named(COMMAND, 8),
    ];
    let words = vec![named(SELECT, 32), FieldEntry::Reserved(32), named(DATA, 32)];
    for (access, fields) in [
        (FieldAccessType::Byte, bytes),
        (FieldAccessType::DWord, words),
    ] {
        let (lock, update) = (FieldLockRule::NoLock, FieldUpdateRule::WriteAsZeroes);
        Field::new(path(REGION), access, lock, update, fields).to_aml_bytes(out);
    }
    Mutex::new(path(LOCK), 0).to_aml_bytes(out);
}

/// A method that holds the lock while it does `body`.
fn write_locked(name: &str, arguments: u8, body: &[&dyn Aml], last: &dyn Aml, out: &mut Vec<u8>) {
    let acquire = Acquire::new(Path::new(LOCK), FOREVER);
    let release = Release::new(Path::new(LOCK));
    let mut all: Vec<&dyn Aml> = vec![&acquire];
    all.extend(body);
    all.extend([&release as &dyn Aml, last]);
    Method::new(Path::new(name), arguments, true, all).to_aml_bytes(out);
}

fn write_status(out: &mut Vec<u8>) {
    let [select, present] = [SELECT, PRESENT].map(Path::new);
    let (number, status) = (Arg(0), Local(0));
    let choose = Store::new(&select, &number);
    let absent = Store::new(&status, &ZERO);
    let is_there = Equal::new(&present, &ONE);
    let working = Store::new(&status, &STA_PRESENT);
    let look = If::new(&is_there, vec![&working]);
    let answer = Return::new(&status);
    write_locked(STATUS, 1, &[&choose, &absent, &look], &answer, out);
}

fn write_eject(out: &mut Vec<u8>) {
    let [select, eject] = [SELECT, EJECTED].map(Path::new);
    let number = Arg(0);
    let choose = Store::new(&select, &number);
    let act = Store::new(&eject, &ONE);
    write_locked(EJECT_ONE, 1, &[&choose, &act], &Written(Vec::new()), out);
}

/// Notifies processor Arg0 of Arg1.
fn write_tell(processors: u32, out: &mut Vec<u8>) {
    let (number, value) = (Arg(0), Arg(1));
    let mut body = Vec::new();
    for processor in 0..processors {
        let device = Path::new(&device_name(processor));
        let tell = Notify::new(&device, &value);
        let this = Equal::new(&number, &processor);
        If::new(&this, vec![&tell]).to_aml_bytes(&mut body);
    }
    Method::new(Path::new(TELL), 2, false, vec![&Written(body)]).to_aml_bytes(out);
}

/// Tells of every processor with an event, until none is left.
fn write_scan(out: &mut Vec<u8>) {
    let [select, command, data] = [SELECT, COMMAND, DATA].map(Path::new);
    let [inserted, removing] = [INSERTED, REMOVING].map(Path::new);
    let more = Local(0);
    let from_first = Store::new(&select, &ZERO);
    let again = Store::new(&more, &ONE);
    let done = Store::new(&more, &ZERO);
    let next = Store::new(&command, &ZERO);
    let tell = |value| MethodCall::new(Path::new(TELL), vec![&data, value]);
    let (check, eject) = (tell(&CHECK), tell(&EJECT));
    // The flags are cleared by writing 1.
    let (told_insert, told_remove) = (Store::new(&inserted, &ONE), Store::new(&removing, &ONE));
    let came = Equal::new(&inserted, &ONE);
    let shall_go = Equal::new(&removing, &ONE);
    let on_insert = If::new(&came, vec![&check, &told_insert, &again]);
    let on_remove = If::new(&shall_go, vec![&eject, &told_remove, &again]);
    let other = Else::new(vec![&on_remove]);
    let goes_on = Equal::new(&more, &ONE);
    let each = While::new(&goes_on, vec![&done, &next, &on_insert, &other]);
    let nothing = Written(Vec::new());
    write_locked(SCAN, 0, &[&from_first, &again, &each], &nothing, out);
}

fn write_processor(number: u32, apic_id: u32, out: &mut Vec<u8>) {
    let path = Path::new;
    let hid = Name::new(path("_HID"), &"ACPI0007");
    let uid = Name::new(path("_UID"), &number);
    let status = MethodCall::new(path(STATUS), vec![&number]);
    let status = Return::new(&status);
    let sta = Method::new(path("_STA"), 0, false, vec![&status]);
    // What the MADT has for one that is there (6.2.11).
    let mut entry = LOCAL_APIC.to_vec();
    entry.extend([number as u8, apic_id as u8]);
    entry.extend(ENABLED);
    let mat = Name::new(path("_MAT"), &BufferData::new(entry));
    let call = MethodCall::new(path(EJECT_ONE), vec![&number]);
    let eject = Method::new(path("_EJ0"), 1, false, vec![&call]);
    let mut children: Vec<&dyn Aml> = vec![&hid, &uid, &sta, &mat];
    // The first one stays.
    if number != 0 {
        children.push(&eject);
    }
    Device::new(path(&device_name(number)), children).to_aml_bytes(out);
}
