//! The PCI root, its interrupt links and its routing in the DSDT.

use super::{Description, hotplug, osc};
use crate::boards::{ECAM_LEN, Link, PciKind, Routing};
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Arg, Device, EISAName, Else, Equal, IO, If, Interrupt,
    Method, Name, PackageBuilder, Path, ResourceTemplate, Return, Store, ZERO,
};
use acpi_tables::{Aml, AmlSink};
use devices::pci;

/// Below the I/O APIC.
const MEMORY_LAST: u32 = 0xfebf_ffff;
/// Present, enabled, working, not shown.
const STA_HIDDEN: u8 = 0x0b;
/// Set by `_PIC`: the I/O APIC is in use.
const MODE: &str = "\\PICF";

/// Appends, at the top, the method by which the operating system says which
/// interrupt controllers it uses (ACPI 5.8.1), if that makes a difference.
pub(super) fn write_mode(kind: &PciKind, out: &mut Vec<u8>) {
    if kind.routing.len() == 2 {
        Name::new(Path::new(MODE), &ZERO).to_aml_bytes(out);
        let (mode, chosen) = (Path::new(MODE), Arg(0));
        let store = Store::new(&mode, &chosen);
        Method::new(Path::new("\\_PIC"), 1, false, vec![&store]).to_aml_bytes(out);
    }
}

/// Appends the root: the configuration ports are its own, the ranges around
/// them, the VGA window and the memory above RAM belong to devices.
pub(super) fn write(kind: &PciKind, description: &Description<'_>, out: &mut Vec<u8>) {
    kind.links.iter().for_each(|link| write_link(link, out));
    let mut body = Vec::new();
    let path = Path::new;
    let name = |id| EISAName::new(id);
    match kind.ecam {
        None => Name::new(path("_HID"), &name("PNP0A03")).to_aml_bytes(&mut body),
        Some(base) => {
            Name::new(path("_HID"), &name("PNP0A08")).to_aml_bytes(&mut body);
            Name::new(path("_CID"), &name("PNP0A03")).to_aml_bytes(&mut body);
            osc::write(&mut body);
            write_window(base, out);
        }
    }
    Name::new(path("_ADR"), &ZERO).to_aml_bytes(&mut body);
    Name::new(path("_UID"), &ZERO).to_aml_bytes(&mut body);
    write_resources(kind, description.low_end, &mut body);
    write_routing(kind, &mut body);
    if let Some(hotplug) = &description.board.hotplug {
        hotplug::write_registers(hotplug.slots, &mut body);
        hotplug::write_bus(description.slots, &mut body);
    }
    Device::new(path("PCI0"), vec![&Written(body)]).to_aml_bytes(out);
}

/// AML that is written already.
pub(super) struct Written(pub(super) Vec<u8>);

impl Aml for Written {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

/// Appends `_CRS`.
fn write_resources(kind: &PciKind, low_end: u64, out: &mut Vec<u8>) {
    let cacheable = AddressSpaceCacheable::NotCacheable;
    let memory = |first, last| AddressSpace::new_memory(cacheable, true, first, last, None);
    let config_end = pci::PORT + pci::LEN;
    let buses = AddressSpace::new_bus_number(0u16, 0xff);
    let config = IO::new(pci::PORT, pci::PORT, 1, pci::LEN as u8);
    let io_below = AddressSpace::new_io(0u16, pci::PORT - 1, None);
    let io_above = AddressSpace::new_io(config_end, 0xffff, None);
    let vga = memory(0xa_0000u32, 0xb_ffff);
    // RAM ends below 4 GiB; the window to configuration space lies between
    // two ranges.
    let ranges = match kind.ecam {
        None => vec![memory(low_end as u32, MEMORY_LAST)],
        Some(base) => vec![
            memory(low_end as u32, (base - 1) as u32),
            memory((base + ECAM_LEN) as u32, MEMORY_LAST),
        ],
    };
    let mut resources: Vec<&dyn Aml> = vec![&buses, &config, &io_below, &io_above, &vga];
    resources.extend(ranges.iter().map(|r| r as &dyn Aml));
    Name::new(Path::new("_CRS"), &ResourceTemplate::new(resources)).to_aml_bytes(out);
}

/// Appends a board device that owns the window to configuration space: an
/// operating system believes MCFG only where something reserves the range.
fn write_window(base: u64, out: &mut Vec<u8>) {
    let hid = Name::new(Path::new("_HID"), &EISAName::new("PNP0C01"));
    let cacheable = AddressSpaceCacheable::NotCacheable;
    let (first, last) = (base as u32, (base + ECAM_LEN - 1) as u32);
    let range = AddressSpace::new_memory(cacheable, true, first, last, None);
    let crs = Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&range]));
    Device::new(Path::new("DRAC"), vec![&hid, &crs]).to_aml_bytes(out);
}

/// Appends an interrupt link (ACPI 6.2.13) with one possible setting: level,
/// active high, shared.
fn write_link(link: &Link, out: &mut Vec<u8>) {
    let path = Path::new;
    let hid = Name::new(path("_HID"), &EISAName::new("PNP0C0F"));
    let uid = Name::new(path("_UID"), &link.uid);
    let sta = Name::new(path("_STA"), &STA_HIDDEN);
    let irq = Interrupt::new(true, false, false, true, link.gsi.into());
    let prs = Name::new(path("_PRS"), &ResourceTemplate::new(vec![&irq]));
    let crs = Name::new(path("_CRS"), &ResourceTemplate::new(vec![&irq]));
    let srs = Method::new(path("_SRS"), 1, false, vec![]);
    let dis = Method::new(path("_DIS"), 0, false, vec![]);
    let children: Vec<&dyn Aml> = vec![&hid, &uid, &sta, &prs, &crs, &srs, &dis];
    Device::new(path(link.name), children).to_aml_bytes(out);
}

/// Appends `_PRT`: the one table, or the one for the interrupt controllers in
/// use.
fn write_routing(kind: &PciKind, out: &mut Vec<u8>) {
    let table = |routing: &Routing| table(kind.links, *routing);
    let prt = || Path::new("_PRT");
    if let [one] = kind.routing {
        Name::new(prt(), &table(one)).to_aml_bytes(out);
    } else if let [pic, apic] = kind.routing {
        let names = || ["PRTP", "PRTA"].map(Path::new);
        for (name, routing) in names().into_iter().zip([pic, apic]) {
            Name::new(name, &table(routing)).to_aml_bytes(out);
        }
        let [for_pic, for_apic] = names();
        let mode = Path::new(MODE);
        let (for_pic, for_apic) = (Return::new(&for_pic), Return::new(&for_apic));
        let pic_mode = Equal::new(&mode, &ZERO);
        let first = If::new(&pic_mode, vec![&for_pic]);
        let other = Else::new(vec![&for_apic]);
        Method::new(prt(), 0, false, vec![&first, &other]).to_aml_bytes(out);
    }
}

/// Every pin of every slot (6.2.13): address, pin from 0, link, index.
fn table(links: &[Link], routing: Routing) -> PackageBuilder {
    let mut table = PackageBuilder::new();
    for slot in 0..32u8 {
        for pin in 0..4u8 {
            let link = links[routing(slot, pin + 1)];
            let mut row = PackageBuilder::new();
            row.add_element(&(u32::from(slot) << 16 | 0xffff));
            row.add_element(&pin);
            row.add_element(&Path::new(link.name));
            row.add_element(&0u8);
            table.add_element(&row);
        }
    }
    table
}
