//! What hardware-reduced ACPI (ACPI 6.5, 3.11.1) has instead of fixed
//! hardware: the generic event device and a power button in the DSDT; and
//! virtio devices over MMIO, which nothing else announces.

use crate::mmio::MmioPlace;
use acpi_tables::Aml;
use acpi_tables::aml::{
    And, Device, EISAName, Equal, Field, FieldAccessType, FieldEntry, FieldLockRule,
    FieldUpdateRule, If, Interrupt, Local, Memory32Fixed, Method, Name, Notify, ONE, OpRegion,
    OpRegionSpace, Path, ResourceTemplate, Store, ZERO,
};
use devices::ged;
use virtio::transport::MMIO_LEN;

/// Interrupt of the event device, edge-triggered.
pub const GED_GSI: u32 = 9;
/// Notification: the button was pressed (5.6.6).
const PRESSED: u8 = 0x80;

/// Appends the event device and the button.
pub(super) fn write_events(out: &mut Vec<u8>) {
    let path = Path::new;
    let hid = Name::new(path("_HID"), &"ACPI0013");
    let uid = Name::new(path("_UID"), &"GED");
    let irq = Interrupt::new(true, true, false, false, GED_GSI);
    let crs = Name::new(path("_CRS"), &ResourceTemplate::new(vec![&irq]));
    let (base, len) = (ged::EVENTS as u32, ged::EVENTS_LEN as u32);
    let region = OpRegion::new(path("EREG"), OpRegionSpace::SystemMemory, &base, &len);
    let field = Field::new(
        path("EREG"),
        FieldAccessType::DWord,
        FieldLockRule::NoLock,
        FieldUpdateRule::WriteAsZeroes,
        vec![FieldEntry::Named(*b"ESEL", 32)],
    );
    let (events, selector) = (Local(0), path("ESEL"));
    let take = Store::new(&events, &selector);
    let bit = ged::POWER_BUTTON;
    // Without a target: a null name is the byte that zero is.
    let masked = And::new(&ZERO, &events, &bit);
    let pressed = Equal::new(&masked, &bit);
    let button = path("PWRB");
    let tell = Notify::new(&button, &PRESSED);
    let check = If::new(&pressed, vec![&tell]);
    let event = Method::new(path("_EVT"), 1, true, vec![&take, &check]);
    let children: Vec<&dyn Aml> = vec![&hid, &uid, &crs, &region, &field, &event];
    Device::new(path("GED_"), children).to_aml_bytes(out);

    let hid = Name::new(path("_HID"), &EISAName::new("PNP0C0C"));
    let uid = Name::new(path("_UID"), &ZERO);
    Device::new(path("PWRB"), vec![&hid, &uid]).to_aml_bytes(out);
}

/// Appends a virtio device.
pub(super) fn write_virtio(place: &MmioPlace, out: &mut Vec<u8>) {
    let path = Path::new;
    let name = format!("VR{:02}", place.index);
    let hid = Name::new(path("_HID"), &"LNRO0005");
    let uid = Name::new(path("_UID"), &place.index);
    let coherent = Name::new(path("_CCA"), &ONE);
    let memory = Memory32Fixed::new(true, place.gpa, MMIO_LEN as u32);
    let irq = Interrupt::new(true, false, false, false, place.gsi);
    let crs = Name::new(path("_CRS"), &ResourceTemplate::new(vec![&memory, &irq]));
    Device::new(path(&name), vec![&hid, &uid, &coherent, &crs]).to_aml_bytes(out);
}
