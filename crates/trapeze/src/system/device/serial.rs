//! `-device virtio-serial-pci` and its ports, `virtconsole` and
//! `virtserialport`, which are plugged into it.

use super::{Property, number, property};
use crate::near::did_you_mean;
use crate::system::keyval;
use crate::system::parse::Options;
use machine::{DeviceConfig, DeviceModel, SerialConfig, VirtioPortConfig, VirtioSerialConfig};
use virtio::serial::MAX_PORTS;

/// A device without ports.
pub(super) fn new() -> DeviceModel {
    DeviceModel::VirtioSerial(VirtioSerialConfig {
        max_ports: MAX_PORTS,
        ports: Vec::new(),
    })
}

pub(super) const PROPERTIES: [Property; 1] = [property(
    "max_ports",
    "<uint32> - most ports, 1 to 31 (default: 31); 1: a console without name",
    |d, v| {
        let ports = number(v)?;
        if !(1..=MAX_PORTS).contains(&ports) {
            return Err(format!("takes 1 to {MAX_PORTS}"));
        }
        match &mut d.model {
            DeviceModel::VirtioSerial(serial) => serial.max_ports = ports,
            model => unreachable!("a property of virtio-serial for {model:?}"),
        }
        Ok(())
    },
)];

/// A model of ports.
pub(super) struct PortModel {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    console: bool,
}

pub(super) const PORT_MODELS: [PortModel; 2] = [
    PortModel {
        name: "virtconsole",
        help: "console (hvc) on a virtio-serial device",
        console: true,
    },
    PortModel {
        name: "virtserialport",
        help: "stream of bytes with a name on a virtio-serial device",
        console: false,
    },
];

/// A port as it is read, before it has a number.
struct Port {
    config: VirtioPortConfig,
    number: Option<u16>,
    bus: Option<String>,
}

type Apply = fn(&mut Port, &str) -> Result<(), String>;

/// Name, help, meaning.
const PORT_PROPERTIES: [(&str, &str, Apply); 5] = [
    ("chardev", "<str> - id of a -chardev", |p, v| {
        p.config.host = SerialConfig::Named(v.into());
        Ok(())
    }),
    ("name", "<str> - its name in the guest", |p, v| {
        if v.is_empty() || v.len() > 255 || v.contains('/') {
            return Err("takes 1 to 255 bytes without a slash".into());
        }
        p.config.name = v.into();
        Ok(())
    }),
    (
        "nr",
        "<uint32> - its number; 0 is for a virtconsole (default: the first free one)",
        |p, v| {
            p.number = Some(number(v)?);
            Ok(())
        },
    ),
    (
        "bus",
        "<str> - ID.0 of a virtio-serial device (default: the first)",
        |p, v| {
            p.bus = Some(v.into());
            Ok(())
        },
    ),
    ("id", "<str> - name of the device", |p, v| {
        p.config.id = Some(keyval::id(v)?);
        Ok(())
    }),
];

fn help(model: &PortModel) -> String {
    let rows = PORT_PROPERTIES.iter();
    let rows = rows.map(|(name, help, _)| format!("  {name}={help}\n"));
    format!("{} options:\n{}", model.name, rows.collect::<String>())
}

/// The rows of `-device help`.
pub(super) fn list() -> String {
    let rows = PORT_MODELS.iter();
    rows.map(|m| {
        format!(
            "name \"{}\", bus virtio-serial-bus, desc \"{}\"\n",
            m.name, m.help
        )
    })
    .collect()
}

/// `-device virtconsole` and `-device virtserialport`: plugs the port into a
/// device before it.
pub(super) fn apply_port(
    options: &mut Options,
    model: &PortModel,
    words: impl Iterator<Item = (String, Option<String>)>,
) -> Result<(), String> {
    let mut port = Port {
        config: VirtioPortConfig {
            id: None,
            console: model.console,
            name: String::new(),
            number: 0,
            host: SerialConfig::Named(String::new()),
        },
        number: None,
        bus: None,
    };
    for (key, value) in words {
        if matches!(&*key, "help" | "?") {
            options.print.get_or_insert(help(model));
            return Ok(());
        }
        let row = PORT_PROPERTIES.iter().find(|(name, ..)| *name == key);
        let (.., apply) = row.ok_or_else(|| {
            let near = did_you_mean(&key, PORT_PROPERTIES.iter().map(|(name, ..)| *name));
            let model = model.name;
            format!("property '{model}.{key}' not found{near}; -device {model},help lists them")
        })?;
        let value = value.ok_or_else(|| format!("{key}= needs a value"))?;
        apply(&mut port, &value).map_err(|why| format!("{key}={value}: {why}"))?;
    }
    plug(&mut options.config.devices, port)
}

fn plug(devices: &mut [DeviceConfig], port: Port) -> Result<(), String> {
    let mut buses = devices.iter_mut().filter_map(|d| match &mut d.model {
        DeviceModel::VirtioSerial(serial) => Some((d.id.as_deref(), serial)),
        _ => None,
    });
    let found = match &port.bus {
        None => buses.next(),
        Some(bus) => buses.find(|(id, _)| id.is_some_and(|id| *bus == format!("{id}.0"))),
    };
    let serial = match (found, &port.bus) {
        (Some((_, serial)), _) => serial,
        (None, None) => {
            return Err(
                "there is no virtio-serial device before it; add -device virtio-serial-pci".into(),
            );
        }
        (None, Some(bus)) => {
            return Err(format!(
                "bus={bus}: no virtio-serial device before it has such an id"
            ));
        }
    };
    let taken = |number: u16| serial.ports.iter().any(|p| p.number == number);
    let first = u16::from(!port.config.console);
    let free = || (first..serial.max_ports).find(|&number| !taken(number));
    let number = port.number.or_else(free);
    let number = number.ok_or_else(|| format!("all {} ports are taken", serial.max_ports))?;
    if number >= serial.max_ports {
        return Err(format!(
            "nr={number}: the device has {} ports (max_ports)",
            serial.max_ports
        ));
    }
    if number < first {
        return Err("nr=0: number 0 is for a virtconsole".into());
    }
    if taken(number) {
        return Err(format!("nr={number}: another port has this number"));
    }
    serial.ports.push(VirtioPortConfig {
        number,
        ..port.config
    });
    Ok(())
}
