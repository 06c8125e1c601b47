//! Differentiated System Description Table: the devices that cannot be
//! probed, and the power-off state.

use super::{
    Description, OEM_ID, OEM_REVISION, OEM_TABLE_ID, hotplug, pci_root, processors, reduced,
};
use crate::boards::Power;
use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Name, Package, Path, ResourceTemplate, Scope,
};
use acpi_tables::{Aml, sdt::Sdt};
use devices::hotplug::{PROCESSORS_LEN, SLOTS_LEN};
use devices::{acpi_pm, fw_cfg, ged, i8042, pvpanic, rtc::Rtc};

/// Present, enabled, shown in the UI, working (ACPI 6.3.7); the same for a
/// device that is not shown.
const STA_VISIBLE: u8 = 0x0f;
const STA_HIDDEN: u8 = 0x0b;

/// One device of the board.
struct Row {
    name: String,
    hid: Hid,
    uid: Option<u8>,
    sta: u8,
    /// Port ranges: first, length.
    ports: Vec<(u16, u8)>,
    /// Edge-triggered, active-high ISA interrupt.
    irq: Option<u32>,
}

enum Hid {
    Eisa(&'static str),
    Text(&'static str),
}

impl Row {
    fn new(name: impl Into<String>, hid: Hid, ports: &[(u16, u8)], irq: Option<u32>) -> Self {
        Self {
            name: name.into(),
            hid,
            uid: None,
            sta: STA_VISIBLE,
            ports: ports.to_vec(),
            irq,
        }
    }
}

fn rows(description: &Description) -> Vec<Row> {
    let kbd_ports = [(i8042::DATA_PORT, 1), (i8042::COMMAND_PORT, 1)];
    let rtc = Row::new("RTC_", Hid::Eisa("PNP0B00"), &[(Rtc::PORT, 2)], Some(8));
    let legacy = [
        Row::new("KBD_", Hid::Eisa("PNP0303"), &kbd_ports, Some(1)),
        Row::new("MOU_", Hid::Eisa("PNP0F13"), &[], Some(12)),
        Row {
            sta: STA_HIDDEN,
            ..Row::new("PEVT", Hid::Text("QEMU0001"), &[(pvpanic::PORT, 1)], None)
        },
    ];
    let mut rows = vec![rtc];
    rows.extend(legacy.into_iter().filter(|_| description.board.legacy));
    // From the selector to the end of the DMA address.
    let fw_cfg_ports = fw_cfg::DMA_PORT + fw_cfg::DMA_LEN - fw_cfg::PORT;
    let fw_cfg_ports = [(fw_cfg::PORT, fw_cfg_ports as u8)];
    rows.push(Row {
        sta: STA_HIDDEN,
        ..Row::new("FWCF", Hid::Text("QEMU0002"), &fw_cfg_ports, None)
    });
    if let Some(hotplug) = &description.board.hotplug {
        let ports = [
            (hotplug.slots, SLOTS_LEN as u8),
            (hotplug.processors, PROCESSORS_LEN as u8),
        ];
        rows.push(Row {
            sta: STA_HIDDEN,
            ..Row::new("HPIO", Hid::Eisa("PNP0C02"), &ports, None)
        });
    }
    for (i, &(port, irq)) in description.serial.iter().enumerate() {
        let name = format!("COM{}", i + 1);
        rows.push(Row {
            uid: Some(i as u8 + 1),
            ..Row::new(name, Hid::Eisa("PNP0501"), &[(port, 8)], Some(irq))
        });
    }
    rows
}

/// Appends `Device (name) { _HID, _UID, _STA, _CRS }`.
fn write_device(row: &Row, out: &mut Vec<u8>) {
    let path = Path::new;
    let hid = match row.hid {
        Hid::Eisa(id) => Name::new(path("_HID"), &EISAName::new(id)),
        Hid::Text(id) => Name::new(path("_HID"), &id),
    };
    let uid = row.uid.map(|uid| Name::new(path("_UID"), &uid));
    let sta = Name::new(path("_STA"), &row.sta);
    let ports: Vec<_> = row
        .ports
        .iter()
        .map(|&(first, len)| IO::new(first, first, 1, len))
        .collect();
    let irq = row
        .irq
        .map(|gsi| Interrupt::new(true, true, false, false, gsi));
    let mut resources: Vec<&dyn Aml> = ports.iter().map(|p| p as &dyn Aml).collect();
    resources.extend(irq.iter().map(|i| i as &dyn Aml));
    let crs = Name::new(path("_CRS"), &ResourceTemplate::new(resources));
    let mut children: Vec<&dyn Aml> = vec![&hid];
    children.extend(uid.iter().map(|u| u as &dyn Aml));
    children.extend([&sta as &dyn Aml, &crs]);
    Device::new(path(&row.name), children).to_aml_bytes(out);
}

/// The table.
pub fn build(description: &Description) -> Sdt {
    let mut devices = Vec::new();
    let board = description.board;
    if let Some(pci) = &board.pci {
        pci_root::write(pci, description, &mut devices);
    }
    let s5_type = match board.power {
        Power::Fixed(_) => acpi_pm::SLP_TYP_S5,
        Power::Reduced => {
            reduced::write_events(&mut devices);
            ged::SLP_TYP_S5
        }
    };
    let virtio = description.mmio.iter();
    virtio.for_each(|place| reduced::write_virtio(place, &mut devices));
    for row in rows(description) {
        write_device(&row, &mut devices);
    }
    let processors = board.hotplug.as_ref();
    let processors = processors.filter(|_| description.vcpus_change);
    if let Some(kind) = processors {
        processors::write(kind, &description.topology, &mut devices);
    }
    let mut aml = Vec::new();
    if let Some(pci) = &board.pci {
        pci_root::write_mode(pci, &mut aml);
    }
    aml.extend(Scope::raw(Path::new("\\_SB_"), devices));
    if board.hotplug.is_some() {
        hotplug::write_event(description.slots, &mut aml);
    }
    if processors.is_some() {
        processors::write_event(&mut aml);
    }
    let zero = 0u8;
    let s5 = Package::new(vec![&s5_type, &s5_type, &zero, &zero]);
    Name::new(Path::new("\\_S5_"), &s5).to_aml_bytes(&mut aml);

    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    dsdt.append_slice(&aml);
    dsdt
}
