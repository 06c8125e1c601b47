//! The PCI root and its interrupt links in the DSDT.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Method, Name,
    PackageBuilder, Path, ResourceTemplate,
};
use devices::pci;

/// Below the I/O APIC.
const MEMORY_LAST: u32 = 0xfebf_ffff;
/// Interrupt links: name, global interrupt. The last is for the chips in slot
/// 1, whose power management raises the SCI.
const LINKS: [(&str, u8); 5] = [
    ("LNKA", pci::PIRQ_GSI[0]),
    ("LNKB", pci::PIRQ_GSI[1]),
    ("LNKC", pci::PIRQ_GSI[2]),
    ("LNKD", pci::PIRQ_GSI[3]),
    ("LNKS", 9),
];
const SCI_LINK: usize = 4;
/// Present, enabled, working, not shown.
const STA_HIDDEN: u8 = 0x0b;

/// Appends the root: the configuration ports are its own, the ranges around
/// them, the VGA window and the memory above RAM belong to devices.
pub(super) fn write(low_end: u64, out: &mut Vec<u8>) {
    LINKS
        .iter()
        .enumerate()
        .for_each(|(i, link)| write_link(i as u8, link, out));
    let hid = Name::new(Path::new("_HID"), &EISAName::new("PNP0A03"));
    let (adr, uid) = (0u8, 0u8);
    let adr = Name::new(Path::new("_ADR"), &adr);
    let uid = Name::new(Path::new("_UID"), &uid);
    let cacheable = AddressSpaceCacheable::NotCacheable;
    let config_end = pci::PORT + pci::LEN;
    let buses = AddressSpace::new_bus_number(0u16, 0xff);
    let config = IO::new(pci::PORT, pci::PORT, 1, pci::LEN as u8);
    let io_below = AddressSpace::new_io(0u16, pci::PORT - 1, None);
    let io_above = AddressSpace::new_io(config_end, 0xffff, None);
    let vga = AddressSpace::new_memory(cacheable, true, 0xa_0000u32, 0xb_ffff, None);
    // RAM ends at or below 3 GiB.
    let first = low_end as u32;
    let memory = AddressSpace::new_memory(cacheable, true, first, MEMORY_LAST, None);
    let resources: Vec<&dyn Aml> = vec![&buses, &config, &io_below, &io_above, &vga, &memory];
    let crs = Name::new(Path::new("_CRS"), &ResourceTemplate::new(resources));
    let prt = Name::new(Path::new("_PRT"), &routing());
    Device::new(Path::new("PCI0"), vec![&hid, &adr, &uid, &crs, &prt]).to_aml_bytes(out);
}

/// Appends an interrupt link (ACPI 6.2.13) with one possible setting: level,
/// active high, shared.
fn write_link(index: u8, (name, gsi): &(&str, u8), out: &mut Vec<u8>) {
    let path = Path::new;
    let hid = Name::new(path("_HID"), &EISAName::new("PNP0C0F"));
    let uid = Name::new(path("_UID"), &index);
    let sta = Name::new(path("_STA"), &STA_HIDDEN);
    let irq = Interrupt::new(true, false, false, true, (*gsi).into());
    let prs = Name::new(path("_PRS"), &ResourceTemplate::new(vec![&irq]));
    let crs = Name::new(path("_CRS"), &ResourceTemplate::new(vec![&irq]));
    let srs = Method::new(path("_SRS"), 1, false, vec![]);
    let dis = Method::new(path("_DIS"), 0, false, vec![]);
    let children: Vec<&dyn Aml> = vec![&hid, &uid, &sta, &prs, &crs, &srs, &dis];
    Device::new(path(name), children).to_aml_bytes(out);
}

/// Every pin of every slot (6.2.13): address, pin from 0, link, index.
fn routing() -> PackageBuilder {
    let mut table = PackageBuilder::new();
    for slot in 0..32u8 {
        for pin in 0..4u8 {
            let link = match (slot, pin) {
                (1, 0) => SCI_LINK,
                _ => pci::pirq(slot, pin + 1),
            };
            let mut row = PackageBuilder::new();
            row.add_element(&(u32::from(slot) << 16 | 0xffff));
            row.add_element(&pin);
            row.add_element(&Path::new(LINKS[link].0));
            row.add_element(&0u8);
            table.add_element(&row);
        }
    }
    table
}
