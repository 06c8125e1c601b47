//! `-device`: models and their properties, one table for parser and lists.

pub(super) mod balloon;
pub(super) mod fs;
pub(super) mod net;
mod serial;

use super::drive;
use super::keyval::{self, on_off};
use super::parse::Options;
use crate::near::did_you_mean;
use machine::{
    DeviceConfig, DeviceModel, PciBridgeConfig, PcieRootPortConfig, SerialConfig, VirtioBlkConfig,
};
use virtio::blk;

/// A model.
struct Model {
    name: &'static str,
    bus: Bus,
    aliases: &'static [&'static str],
    /// Name of the same device over MMIO, if it is a virtio device.
    mmio: Option<&'static str>,
    help: &'static str,
    new: fn() -> DeviceModel,
    properties: &'static [Property],
}

/// Where a model is plugged in.
#[derive(Clone, Copy)]
enum Bus {
    Pci,
    Isa,
    VirtioMmio,
}

impl Bus {
    fn name(self) -> &'static str {
        match self {
            Self::Pci => "PCI",
            Self::Isa => "ISA",
            Self::VirtioMmio => "virtio-bus",
        }
    }
    /// Properties of everything on it.
    fn properties(self) -> &'static [Property] {
        match self {
            Self::Pci => &PCI,
            Self::Isa | Self::VirtioMmio => &ISA,
        }
    }
}

/// A property of a model.
struct Property {
    name: &'static str,
    /// As `-device NAME,help` shows it: type and meaning.
    help: &'static str,
    apply: fn(&mut DeviceConfig, &str) -> Result<(), String>,
}

const fn property(
    name: &'static str,
    help: &'static str,
    apply: fn(&mut DeviceConfig, &str) -> Result<(), String>,
) -> Property {
    Property { name, help, apply }
}

/// Every model.
const MODELS: [Model; 13] = [
    Model {
        name: "virtio-blk-pci",
        bus: Bus::Pci,
        aliases: &["virtio-blk", "virtio-blk-pci-transitional"],
        mmio: Some("virtio-blk-device"),
        help: "disk",
        new: new_blk,
        properties: &BLK,
    },
    Model {
        name: "virtio-net-pci",
        bus: Bus::Pci,
        aliases: &["virtio-net", "virtio-net-pci-transitional"],
        mmio: Some("virtio-net-device"),
        help: "network adapter",
        new: net::new,
        properties: &net::PROPERTIES,
    },
    Model {
        name: "virtio-rng-pci",
        bus: Bus::Pci,
        aliases: &["virtio-rng", "virtio-rng-pci-transitional"],
        mmio: Some("virtio-rng-device"),
        help: "entropy from the host's random numbers",
        new: || DeviceModel::VirtioRng,
        properties: &[],
    },
    Model {
        name: "virtio-balloon-pci",
        bus: Bus::Pci,
        aliases: &["virtio-balloon", "virtio-balloon-pci-transitional"],
        mmio: Some("virtio-balloon-device"),
        help: "takes guest memory and gives it back",
        new: balloon::new,
        properties: &balloon::PROPERTIES,
    },
    Model {
        name: "virtio-serial-pci",
        bus: Bus::Pci,
        aliases: &["virtio-serial", "virtio-serial-pci-transitional"],
        mmio: Some("virtio-serial-device"),
        help: "consoles and streams of bytes: virtconsole, virtserialport",
        new: serial::new,
        properties: &serial::PROPERTIES,
    },
    Model {
        name: "virtio-fs-pci",
        bus: Bus::Pci,
        aliases: &[],
        mmio: Some("virtio-fs-device"),
        help: "a folder of the host",
        new: fs::new,
        properties: &fs::PROPERTIES,
    },
    Model {
        name: "isa-debug-exit",
        bus: Bus::Isa,
        aliases: &[],
        mmio: None,
        help: "a write of N ends the process with exit code 2N+1",
        new: || DeviceModel::DebugExit {
            iobase: 0x501,
            iosize: 2,
        },
        properties: &DEBUG_EXIT,
    },
    Model {
        name: "isa-debugcon",
        bus: Bus::Isa,
        aliases: &[],
        mmio: None,
        help: "a port whose bytes go to a -chardev",
        new: || debugcon(String::new()),
        properties: &DEBUGCON,
    },
    Model {
        name: "pc-testdev",
        bus: Bus::Isa,
        aliases: &[],
        mmio: None,
        help: "registers, interrupt lines and memory for test programs",
        new: || DeviceModel::PcTestdev,
        properties: &[],
    },
    Model {
        name: "pci-testdev",
        bus: Bus::Pci,
        aliases: &[],
        mmio: None,
        help: "counts accesses, for test programs",
        new: || DeviceModel::PciTestdev,
        properties: &[],
    },
    Model {
        name: "edu",
        bus: Bus::Pci,
        aliases: &[],
        mmio: None,
        help: "educational device: factorials, interrupts, DMA",
        new: || DeviceModel::Edu {
            dma_mask: machine::EDU_DMA_MASK,
        },
        properties: &EDU,
    },
    Model {
        name: "pci-bridge",
        bus: Bus::Pci,
        aliases: &[],
        mmio: None,
        help: "PCI bridge; its bus has its id as name",
        new: || DeviceModel::PciBridge(PciBridgeConfig::default()),
        properties: &BRIDGE,
    },
    Model {
        name: "pcie-root-port",
        bus: Bus::Pci,
        aliases: &[],
        mmio: None,
        help: "PCI Express root port of q35; its bus has its id as name",
        new: || DeviceModel::PcieRootPort(PcieRootPortConfig::default()),
        properties: &ROOT_PORT,
    },
];

/// `isa-debugcon` before its backend is known; `-debugcon` adds one.
pub(super) fn debugcon(chardev: String) -> DeviceModel {
    DeviceModel::DebugCon {
        iobase: 0xe9,
        readback: 0xe9,
        host: SerialConfig::Named(chardev),
    }
}

const ID: Property = property("id", "<str> - name of the device", |d, v| {
    d.id = Some(keyval::id(v)?);
    Ok(())
});

/// Properties of every device that has no place of its own choice.
const ISA: [Property; 1] = [ID];

const DEBUG_EXIT: [Property; 2] = [
    property(
        "iobase",
        "<uint32> - first port (default: 0x501)",
        |d, v| match &mut d.model {
            DeviceModel::DebugExit { iobase, .. } => set(iobase, number(v)?),
            model => unreachable!("a property of isa-debug-exit for {model:?}"),
        },
    ),
    property(
        "iosize",
        "<uint32> - number of ports (default: 2)",
        |d, v| match &mut d.model {
            DeviceModel::DebugExit { iosize, .. } => set(iosize, number(v)?),
            model => unreachable!("a property of isa-debug-exit for {model:?}"),
        },
    ),
];

const DEBUGCON: [Property; 3] = [
    property("chardev", "<str> - id of a -chardev", |d, v| {
        match &mut d.model {
            DeviceModel::DebugCon { host, .. } => set(host, SerialConfig::Named(v.into())),
            model => unreachable!("a property of isa-debugcon for {model:?}"),
        }
    }),
    property(
        "iobase",
        "<uint32> - its port (default: 0xe9)",
        |d, v| match &mut d.model {
            DeviceModel::DebugCon { iobase, .. } => set(iobase, number(v)?),
            model => unreachable!("a property of isa-debugcon for {model:?}"),
        },
    ),
    property(
        "readback",
        "<uint32> - what a read delivers (default: 0xe9)",
        |d, v| match &mut d.model {
            DeviceModel::DebugCon { readback, .. } => set(readback, number(v)?),
            model => unreachable!("a property of isa-debugcon for {model:?}"),
        },
    ),
];

const EDU: [Property; 1] = [property(
    "dma_mask",
    "<uint64> - addresses its DMA reaches (default: 0xfffffff)",
    |d, v| match &mut d.model {
        DeviceModel::Edu { dma_mask } => set(dma_mask, number(v)?),
        model => unreachable!("a property of edu for {model:?}"),
    },
)];

fn set<T>(place: &mut T, value: T) -> Result<(), String> {
    *place = value;
    Ok(())
}

/// A number, decimal or with 0x, that fits its place.
fn number<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    let number = parsed.map_err(|_| "not a number".to_string())?;
    T::try_from(number).map_err(|_| "too large".into())
}

/// Properties of every PCI device.
const PCI: [Property; 4] = [
    ID,
    property(
        "bus",
        "<str> - pci.0 (q35: pcie.0), or the id of a bridge before it",
        |d, v| {
            d.bus = Some(v.into());
            Ok(())
        },
    ),
    property(
        "addr",
        "<int32> - slot and optional function, as 0x6 or 06.0",
        |d, v| {
            d.address = Some(address(v)?);
            Ok(())
        },
    ),
    property(
        "multifunction",
        "<bool> - the slot has more functions (default: off)",
        |d, v| {
            d.multifunction = on_off(v)?;
            Ok(())
        },
    ),
];

const BRIDGE: [Property; 2] = [
    property(
        "chassis_nr",
        "<uint8> - number of its chassis, from 1",
        |d, v| {
            bridge(d).chassis = number(v)?;
            Ok(())
        },
    ),
    property("shpc", "<bool> - off: hot-plug is ACPI's", |_, v| {
        no_shpc(v)
    }),
];

const ROOT_PORT: [Property; 4] = [
    property("chassis", "<uint8> - number of its chassis", |d, v| {
        root_port(d).chassis = number(v)?;
        Ok(())
    }),
    property("slot", "<uint16> - number of its slot", |d, v| {
        root_port(d).slot = at_most(number(v)?, 0x1fff)?;
        Ok(())
    }),
    property("port", "<uint8> - number of the port", |d, v| {
        root_port(d).port = number(v)?;
        Ok(())
    }),
    property(
        "hotplug",
        "<bool> - off: what is behind it stays (default on)",
        |d, v| {
            root_port(d).fixed = !on_off(v)?;
            Ok(())
        },
    ),
];

fn at_most(number: u16, most: u16) -> Result<u16, String> {
    match number <= most {
        true => Ok(number),
        false => Err(format!("takes a number up to {most}")),
    }
}

fn no_shpc(value: &str) -> Result<(), String> {
    match on_off(value)? {
        false => Ok(()),
        true => Err("there is no SHPC; devices are hot-plugged through ACPI without it".into()),
    }
}

/// The bridge that a row of [`BRIDGE`] is about.
fn bridge(device: &mut DeviceConfig) -> &mut PciBridgeConfig {
    match &mut device.model {
        DeviceModel::PciBridge(bridge) => bridge,
        model => unreachable!("a property of bridges for {model:?}"),
    }
}

/// The root port that a row of [`ROOT_PORT`] is about.
fn root_port(device: &mut DeviceConfig) -> &mut PcieRootPortConfig {
    match &mut device.model {
        DeviceModel::PcieRootPort(port) => port,
        model => unreachable!("a property of root ports for {model:?}"),
    }
}

const BLK: [Property; 10] = [
    property(
        "drive",
        "<str> - id of a -drive, or node name of a -blockdev",
        |d, v| {
            blk(d).drive = v.into();
            Ok(())
        },
    ),
    property("serial", "<str> - serial number, up to 20 bytes", |d, v| {
        if v.len() > blk::SERIAL_LEN {
            return Err(format!(
                "a serial number has at most {} bytes",
                blk::SERIAL_LEN
            ));
        }
        blk(d).options.serial = v.into();
        Ok(())
    }),
    property(
        "num-queues",
        "<uint16> - queues (default: one for each vCPU)",
        |d, v| {
            let queues = v.parse().ok().filter(|n| (1..=127).contains(n));
            blk(d).options.queues = queues.ok_or("takes 1 to 127")?;
            Ok(())
        },
    ),
    property(
        "queue-size",
        "<uint16> - size of each queue (default: 256)",
        |d, v| {
            let sizes = 4..=blk::MAX_QUEUE_SIZE;
            let size = v.parse::<u16>().ok();
            let size = size.filter(|n| sizes.contains(n) && n.is_power_of_two());
            blk(d).options.queue_size = size.ok_or("takes a power of two from 4 to 1024")?;
            Ok(())
        },
    ),
    property(
        "write-cache",
        "<bool> - the guest must flush (default: by cache=)",
        |d, v| {
            blk(d).options.write_cache = on_off(v)?;
            Ok(())
        },
    ),
    property(
        "discard",
        "<bool> - the guest can discard (default: on)",
        |d, v| {
            blk(d).options.discard = on_off(v)?;
            Ok(())
        },
    ),
    property(
        "rerror",
        "<str> - report, ignore or stop (default: report)",
        |d, v| {
            blk(d).options.read_error = auto(v, drive::read_error)?;
            Ok(())
        },
    ),
    property(
        "werror",
        "<str> - report, ignore, stop or enospc (default: enospc)",
        |d, v| {
            blk(d).options.write_error = auto(v, drive::write_error)?;
            Ok(())
        },
    ),
    property(
        "scsi",
        "<bool> - off: SCSI requests are no longer part of virtio",
        |_, v| match on_off(v)? {
            false => Ok(()),
            true => Err("SCSI requests are not supported".into()),
        },
    ),
    BOOT_INDEX,
];

/// Of what firmware could boot from. The kernel is loaded directly, with or without
/// it.
const BOOT_INDEX: Property = property(
    "bootindex",
    "<int32> - no effect: -kernel is what boots",
    |_, v| {
        v.parse::<i32>()
            .map(drop)
            .map_err(|_| "not a number".into())
    },
);

/// `auto` leaves it to the drive.
fn auto<T>(value: &str, parse: fn(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    match value {
        "auto" => Ok(None),
        value => parse(value).map(Some),
    }
}

fn new_blk() -> DeviceModel {
    DeviceModel::VirtioBlk(VirtioBlkConfig {
        drive: String::new(),
        options: blk_defaults(),
    })
}

/// A disk as `-drive if=virtio` makes it: queues by the number of vCPUs.
pub(super) fn blk_defaults() -> blk::Options {
    blk::Options {
        queues: 0,
        ..blk::Options::default()
    }
}

/// The block device that a row of [`BLK`] is about.
fn blk(device: &mut DeviceConfig) -> &mut VirtioBlkConfig {
    match &mut device.model {
        DeviceModel::VirtioBlk(blk) => blk,
        model => unreachable!("a property of disks for {model:?}"),
    }
}

/// `slot` or `slot.function`, both hexadecimal.
fn address(text: &str) -> Result<(u8, u8), String> {
    let (slot, function) = text.split_once('.').unwrap_or((text, "0"));
    let number = |t: &str| u8::from_str_radix(t.strip_prefix("0x").unwrap_or(t), 16).ok();
    match (number(slot), number(function)) {
        (Some(slot @ 0..=31), Some(function @ 0..=7)) => Ok((slot, function)),
        _ => Err("takes a slot from 0 to 0x1f and a function from 0 to 7, as 06.0".into()),
    }
}

/// A model on one of its buses, under its name there.
#[derive(Clone, Copy)]
struct Variant {
    model: &'static Model,
    name: &'static str,
    bus: Bus,
}

impl Variant {
    /// Of all models.
    fn all() -> impl Iterator<Item = Self> {
        MODELS.iter().flat_map(|model| {
            let (name, bus) = (model.name, model.bus);
            let mmio = model.mmio.map(|name| (name, Bus::VirtioMmio));
            let names = std::iter::once((name, bus)).chain(mmio);
            names.map(move |(name, bus)| Self { model, name, bus })
        })
    }

    /// Other names on this bus.
    fn aliases(&self) -> &'static [&'static str] {
        match self.bus {
            Bus::VirtioMmio => &[],
            _ => self.model.aliases,
        }
    }

    fn properties(&self) -> impl Iterator<Item = &'static Property> + Clone {
        self.bus.properties().iter().chain(self.model.properties)
    }

    fn help(&self) -> String {
        let rows = self
            .properties()
            .map(|p| format!("  {}={}\n", p.name, p.help));
        format!("{} options:\n{}", self.name, rows.collect::<String>())
    }
}

fn list() -> String {
    let rows = Variant::all().map(|v| {
        let aliases = v.aliases().iter().map(|a| format!(", alias \"{a}\""));
        let aliases: String = aliases.collect();
        format!(
            "name \"{}\", bus {}{aliases}, desc \"{}\"\n",
            v.name,
            v.bus.name(),
            v.model.help
        )
    });
    rows.chain([serial::list()]).collect()
}

/// Models of QEMU, and what does the same here.
const INSTEAD: [(&str, &str); 4] = [
    ("vhost-user-fs-pci", "virtio-fs-pci,fsdev="),
    ("vhost-user-fs-device", "virtio-fs-device,fsdev="),
    ("virtio-9p-pci", "virtio-fs-pci,fsdev="),
    ("virtio-9p-device", "virtio-fs-device,fsdev="),
];

fn find(name: &str) -> Result<Variant, String> {
    if let Some((_, model)) = INSTEAD.iter().find(|(theirs, _)| *theirs == name) {
        return Err(format!(
            "'{name}' is not supported; folders are shared by -fsdev and -device {model}"
        ));
    }
    let matches = |v: &Variant| v.name == name || v.aliases().contains(&name);
    Variant::all().find(matches).ok_or_else(|| {
        let names =
            Variant::all().flat_map(|v| std::iter::once(v.name).chain(v.aliases().iter().copied()));
        let names = names.chain(serial::PORT_MODELS.iter().map(|m| m.name));
        let near = did_you_mean(name, names);
        format!("'{name}' is not a valid device model name{near}; -device help lists them")
    })
}

/// `-device`.
pub(super) fn apply(options: &mut Options, value: &str) -> Result<(), String> {
    let mut words = keyval::parse(value).into_iter();
    let name = match words.next() {
        Some((name, None)) => name,
        Some((key, Some(name))) if key == "driver" => name,
        _ => return Err("the model is missing; -device help lists them".into()),
    };
    if matches!(&*name, "help" | "?") {
        options.print.get_or_insert(list());
        return Ok(());
    }
    if let Some(port) = serial::PORT_MODELS.iter().find(|m| m.name == name) {
        return serial::apply_port(options, port, words);
    }
    let model = find(&name)?;
    let mut device = DeviceConfig::new((model.model.new)());
    device.mmio = matches!(model.bus, Bus::VirtioMmio);
    for (key, value) in words {
        if matches!(&*key, "help" | "?") {
            options.print.get_or_insert(model.help());
            return Ok(());
        }
        let row = model.properties().find(|p| p.name == key).ok_or_else(|| {
            let near = did_you_mean(&key, model.properties().map(|p| p.name));
            let model = model.name;
            format!("property '{model}.{key}' not found{near}; -device {model},help lists them")
        })?;
        let value = value.ok_or_else(|| format!("{key}= needs a value"))?;
        (row.apply)(&mut device, &value).map_err(|why| format!("{key}={value}: {why}"))?;
    }
    options.config.devices.push(device);
    Ok(())
}

/// Checks that a device's bus is the board's or that of a bridge before it.
fn check_bus(
    options: &Options,
    device: &DeviceConfig,
    before: &[DeviceConfig],
) -> Result<(), String> {
    let Some(bus) = device.bus.as_deref() else {
        return Ok(());
    };
    let bridge = |d: &&DeviceConfig| {
        let model = &d.model;
        matches!(
            model,
            DeviceModel::PciBridge(_) | DeviceModel::PcieRootPort(_)
        )
    };
    let bridges = before.iter().filter(bridge);
    let root = options.config.board.pci.as_ref().map(|pci| pci.bus);
    let names: Vec<&str> = root
        .into_iter()
        .chain(bridges.filter_map(|d| d.id.as_deref()))
        .collect();
    if names.contains(&bus) {
        return Ok(());
    }
    let near = did_you_mean(bus, names.iter().copied());
    let list = names.join(", ");
    Err(format!(
        "-device: bus={bus}: there is no such bus before this device{near}; there are {list}"
    ))
}

/// No two devices have the same id; ports of devices are devices, too.
fn check_ids(devices: &[DeviceConfig]) -> Result<(), String> {
    let ports = |d: &DeviceConfig| match &d.model {
        DeviceModel::VirtioSerial(serial) => serial.ports.iter().map(|p| p.id.clone()).collect(),
        _ => Vec::new(),
    };
    let ids = devices
        .iter()
        .flat_map(|d| [vec![d.id.clone()], ports(d)].concat());
    let mut seen = Vec::new();
    for id in ids.flatten() {
        if seen.contains(&id) {
            return Err(format!("-device: two devices have the id '{id}'"));
        }
        seen.push(id);
    }
    Ok(())
}

/// Checks what can be known only at the end: ids, and that every disk has a
/// drive of its own.
pub(super) fn check(options: &Options) -> Result<(), String> {
    let config = &options.config;
    balloon::check(&config.devices)?;
    check_ids(&config.devices)?;
    let mut used: Vec<&str> = Vec::new();
    for (i, device) in config.devices.iter().enumerate() {
        check_bus(options, device, &config.devices[..i])?;
        let DeviceModel::VirtioBlk(blk) = &device.model else {
            continue;
        };
        let drive = &*blk.drive;
        if drive.is_empty() {
            return Err("-device virtio-blk-pci: drive= is missing".into());
        }
        if !config.drives.iter().any(|d| d.id == drive) {
            let near = did_you_mean(drive, config.drives.iter().map(|d| &*d.id));
            return Err(format!(
                "-device virtio-blk-pci: there is no drive '{drive}'{near}"
            ));
        }
        if used.contains(&drive) {
            return Err(format!("-device virtio-blk-pci: drive '{drive}' is in use"));
        }
        used.push(drive);
    }
    Ok(())
}
