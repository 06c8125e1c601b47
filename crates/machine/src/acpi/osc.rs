//! `_OSC` of a PCI Express root (PCI Firmware 3.2, 4.5.1; ACPI 6.2.11): the
//! operating system asks for features, the method strikes out what it cannot
//! have.

use acpi_tables::Aml;
use acpi_tables::aml::{
    And, Arg, CreateDWordField, Else, Equal, If, Method, NotEqual, ONE, Or, Path, Return, Uuid,
    ZERO,
};

const HOST_BRIDGE: &str = "33db4d5b-1ff7-401c-9657-7441c03dd766";
/// Bits of the first word, which is the answer's status.
const UNKNOWN_UUID: u8 = 1 << 2;
const UNKNOWN_REVISION: u8 = 1 << 3;
const MASKED: u8 = 1 << 4;
/// The third word: PME, error reporting, the PCI Express capability. There is
/// no hot-plug, native or SHPC.
const GRANTED: u8 = 0b1_1100;
/// Offset of the third word.
const CONTROL: u8 = 8;

/// Appends the method.
pub(super) fn write(out: &mut Vec<u8>) {
    let [status, control] = ["CDW1", "CDW3"].map(Path::new);
    let (uuid, buffer) = (Arg(0), Arg(3));
    let host_bridge = Uuid::new(HOST_BRIDGE);
    let status_field = CreateDWordField::new(&status, &buffer, &ZERO);
    let control_field = CreateDWordField::new(&control, &buffer, &CONTROL);

    let bad_revision = Or::new(&status, &status, &UNKNOWN_REVISION);
    let (revision, one) = (Arg(1), ONE);
    let other_revision = NotEqual::new(&revision, &one);
    let check_revision = If::new(&other_revision, vec![&bad_revision]);
    // Without a target: a null name is the byte that zero is.
    let granted = And::new(&ZERO, &control, &GRANTED);
    let asks_more = NotEqual::new(&control, &granted);
    let masked = Or::new(&status, &status, &MASKED);
    let check_more = If::new(&asks_more, vec![&masked]);
    let strike = And::new(&control, &control, &GRANTED);

    let ours = Equal::new(&uuid, &host_bridge);
    let body: Vec<&dyn Aml> = vec![&control_field, &check_revision, &check_more, &strike];
    let serve = If::new(&ours, body);
    let bad_uuid = Or::new(&status, &status, &UNKNOWN_UUID);
    let refuse = Else::new(vec![&bad_uuid]);
    let answer = Return::new(&buffer);
    let all: Vec<&dyn Aml> = vec![&status_field, &serve, &refuse, &answer];
    Method::new(Path::new("_OSC"), 4, false, all).to_aml_bytes(out);
}
