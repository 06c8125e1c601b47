//! `query-pci` and `info pci`.

use crate::command::*;
use crate::target::Target;
use machine::PciView;
use serde_json::{Value, json};
use std::fmt::Write;

pub static COMMANDS: &[Command] = &[both(
    "query-pci",
    &["info pci"],
    "the devices on PCI",
    |context, _| Ok(query(context.target)),
)
.returns(Type::List(&Type::Object(&[
    must("bus", Type::Int),
    must("devices", Type::List(&DEVICE)),
])))
.shown(show)];

const DEVICE: Type = Type::Object(&[
    must("bus", Type::Int),
    must("slot", Type::Int),
    must("function", Type::Int),
    must(
        "class_info",
        Type::Object(&[may("desc", Type::Text), must("class", Type::Int)]),
    ),
    must(
        "id",
        Type::Object(&[
            must("device", Type::Int),
            must("vendor", Type::Int),
            may("subsystem", Type::Int),
            may("subsystem-vendor", Type::Int),
        ]),
    ),
    may("irq", Type::Int),
    must("irq_pin", Type::Int),
    must("qdev_id", Type::Text),
    may("pci_bridge", Type::Any),
    must(
        "regions",
        Type::List(&Type::Object(&[
            must("bar", Type::Int),
            must("type", Type::Choice(&["io", "memory"])),
            must("address", Type::Int),
            must("size", Type::Int),
            may("prefetch", Type::Bool),
            may("mem_type_64", Type::Bool),
        ])),
    ),
]);

/// What a BAR decodes.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub bus: u8,
    pub slot: u8,
    pub function: u8,
    pub bar: usize,
    pub io: bool,
    pub prefetch: bool,
    pub wide: bool,
    pub first: u64,
    pub len: u64,
}

/// The windows of all BARs, set or not.
pub fn windows(target: &Target) -> Vec<Window> {
    let functions = target.machine.pci_functions();
    functions.iter().flat_map(of_function).collect()
}

fn word(view: &PciView, offset: usize) -> u16 {
    u16::from_le_bytes([view.header[offset], view.header[offset + 1]])
}

fn dword(view: &PciView, offset: usize) -> u32 {
    u32::from(word(view, offset)) | u32::from(word(view, offset + 2)) << 16
}

fn of_function(view: &PciView) -> Vec<Window> {
    let window = |bar: usize| {
        let len = view.bars[bar];
        let low = dword(view, 0x10 + 4 * bar);
        let io = low & 1 != 0;
        let wide = !io && low & 0b110 == 0b100;
        let mask = if io { !3 } else { !0xf };
        let high = if wide && bar < 5 {
            dword(view, 0x14 + 4 * bar)
        } else {
            0
        };
        (len != 0).then(|| Window {
            bus: view.bus,
            slot: view.slot,
            function: view.function,
            bar,
            io,
            prefetch: !io && low & 8 != 0,
            wide,
            first: u64::from(high) << 32 | u64::from(low & mask),
            len,
        })
    };
    (0..6).filter_map(window).collect()
}

/// Names of classes, of those that a machine here has.
const CLASSES: [(u16, &str); 14] = [
    (0x0100, "SCSI controller"),
    (0x0101, "IDE controller"),
    (0x0106, "SATA controller"),
    (0x0180, "Storage controller"),
    (0x0200, "Ethernet controller"),
    (0x0300, "VGA controller"),
    (0x0500, "RAM controller"),
    (0x0600, "Host bridge"),
    (0x0601, "ISA bridge"),
    (0x0604, "PCI bridge"),
    (0x0680, "Bridge"),
    (0x0780, "Communication controller"),
    (0x0c03, "USB controller"),
    (0x0c05, "SMBus"),
];

fn query(target: &Target) -> Value {
    let functions = target.machine.pci_functions();
    let mut buses: Vec<(u8, Vec<Value>)> = Vec::new();
    for view in &functions {
        let described = describe(target, view);
        match buses.iter_mut().find(|(bus, _)| *bus == view.bus) {
            Some((_, devices)) => devices.push(described),
            None => buses.push((view.bus, vec![described])),
        }
    }
    let bus = |(bus, devices)| json!({ "bus": bus, "devices": Value::Array(devices) });
    buses.into_iter().map(bus).collect()
}

fn describe(target: &Target, view: &PciView) -> Value {
    let class = word(view, 0x0a);
    let mut info = json!({ "class": class });
    if let Some((_, name)) = CLASSES.iter().find(|(known, _)| *known == class) {
        info["desc"] = (*name).into();
    }
    let mut id = json!({ "device": word(view, 2), "vendor": word(view, 0) });
    let bridge = view.header[0x0e] & 0x7f == 1;
    if !bridge && dword(view, 0x2c) != 0 {
        id["subsystem"] = word(view, 0x2e).into();
        id["subsystem-vendor"] = word(view, 0x2c).into();
    }
    let regions: Vec<Value> = of_function(view).iter().map(region).collect();
    let pin = view.header[0x3d];
    let mut device = json!({
        "bus": view.bus,
        "slot": view.slot,
        "function": view.function,
        "class_info": info,
        "id": id,
        "irq_pin": pin,
        "qdev_id": target.machine.pci_id(view).unwrap_or_default(),
        "regions": regions,
    });
    if pin != 0 {
        device["irq"] = view.header[0x3c].into();
    }
    if bridge {
        device["pci_bridge"] = json!({ "bus": {
            "number": view.header[0x18],
            "secondary": view.header[0x19],
            "subordinate": view.header[0x1a],
        }});
    }
    device
}

fn region(window: &Window) -> Value {
    let mut region = json!({
        "bar": window.bar,
        "type": if window.io { "io" } else { "memory" },
        "address": window.first,
        "size": window.len,
    });
    if !window.io {
        region["prefetch"] = window.prefetch.into();
        region["mem_type_64"] = window.wide.into();
    }
    region
}

fn show(answer: &Value) -> String {
    let buses = answer.as_array().into_iter().flatten();
    let devices = buses.flat_map(|bus| bus["devices"].as_array().into_iter().flatten());
    devices.map(show_device).collect()
}

fn show_device(device: &Value) -> String {
    let mut text = String::new();
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let place = ["bus", "slot", "function"].map(|name| number(&device[name]));
    let [bus, slot, function] = place;
    let _ = writeln!(
        text,
        "  Bus {bus:>2}, device {slot:>3}, function {function}:"
    );
    let class = &device["class_info"];
    let name = match class["desc"].as_str() {
        Some(name) => name.to_string(),
        None => format!("Class {:04x}", class["class"].as_u64().unwrap_or(0)),
    };
    let id = &device["id"];
    let (vendor, model) = (number(&id["vendor"]), number(&id["device"]));
    let _ = writeln!(text, "    {name}: PCI device {vendor:04x}:{model:04x}");
    if id["subsystem"].is_u64() {
        let (vendor, model) = (number(&id["subsystem-vendor"]), number(&id["subsystem"]));
        let _ = writeln!(text, "      PCI subsystem {vendor:04x}:{model:04x}");
    }
    if device["irq"].is_u64() {
        let pin = (b'A' - 1 + number(&device["irq_pin"]).min(4) as u8) as char;
        let _ = writeln!(text, "      IRQ {}, pin {pin}", device["irq"]);
    }
    if let Some(bus) = device["pci_bridge"].get("bus") {
        let _ = writeln!(text, "      BUS {}.", bus["number"]);
        let _ = writeln!(text, "      secondary bus {}.", bus["secondary"]);
        let _ = writeln!(text, "      subordinate bus {}.", bus["subordinate"]);
    }
    for region in device["regions"].as_array().into_iter().flatten() {
        let (first, len) = (number(&region["address"]), number(&region["size"]));
        let last = first.wrapping_add(len).wrapping_sub(1);
        let bar = &region["bar"];
        let _ = match region["type"] == "io" {
            true => writeln!(text, "      BAR{bar}: I/O at 0x{first:04x} [0x{last:04x}]."),
            false => {
                let bits = if region["mem_type_64"] == true {
                    64
                } else {
                    32
                };
                let prefetch = if region["prefetch"] == true {
                    " prefetchable"
                } else {
                    ""
                };
                writeln!(
                    text,
                    "      BAR{bar}: {bits} bit{prefetch} memory at 0x{first:08x} [0x{last:08x}]."
                )
            }
        };
    }
    let _ = writeln!(
        text,
        "      id \"{}\"",
        device["qdev_id"].as_str().unwrap_or_default()
    );
    text
}
