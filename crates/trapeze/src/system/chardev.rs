//! `-chardev`: host ends with names, and who uses them.

use super::device;
use super::keyval::{self, on_off};
use super::parse::Options;
use crate::near::did_you_mean;
use machine::{DeviceConfig, DeviceModel, SerialConfig, SocketConfig};
use std::path::PathBuf;

/// A named host end.
pub(crate) struct Chardev {
    id: String,
    backend: SerialConfig,
}

/// One backend: name, its properties beside `id=`, what it is.
struct Backend {
    name: &'static str,
    properties: &'static [&'static str],
    open: fn(&Properties) -> Result<SerialConfig, String>,
}

/// Names and values of a backend's properties.
struct Properties(Vec<(String, String)>);

impl Properties {
    fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().rfind(|(key, _)| key == name);
        found.map(|(_, value)| &**value)
    }

    fn path(&self) -> Result<PathBuf, String> {
        let path = self.get("path").filter(|path| !path.is_empty());
        path.map(PathBuf::from).ok_or("path= is missing".into())
    }

    fn on_off(&self, name: &str, default: bool) -> Result<bool, String> {
        let value = self.get(name).map(on_off);
        value
            .unwrap_or(Ok(default))
            .map_err(|why| format!("{name}=: {why}"))
    }
}

const BACKENDS: [Backend; 5] = [
    Backend {
        name: "stdio",
        properties: &[],
        open: |_| Ok(SerialConfig::Stdio),
    },
    Backend {
        name: "file",
        properties: &["path"],
        open: |p| p.path().map(SerialConfig::File),
    },
    Backend {
        name: "pipe",
        properties: &["path"],
        open: |p| p.path().map(SerialConfig::Pipe),
    },
    Backend {
        name: "socket",
        properties: &["path", "server", "wait"],
        open: socket,
    },
    Backend {
        name: "null",
        properties: &[],
        open: |_| Ok(SerialConfig::None),
    },
];

fn socket(properties: &Properties) -> Result<SerialConfig, String> {
    let server = properties.on_off("server", false)?;
    if !server && properties.get("wait").is_some() {
        return Err("wait= is for server=on".into());
    }
    Ok(SerialConfig::Socket(SocketConfig {
        path: properties.path()?,
        server,
        wait: properties.on_off("wait", server)?,
    }))
}

/// The backends' names, for messages.
fn names() -> String {
    BACKENDS.map(|b| b.name).join(", ")
}

fn by_name(name: &str) -> Result<&'static Backend, String> {
    let found = BACKENDS.iter().find(|b| b.name == name);
    found.ok_or_else(|| {
        let near = did_you_mean(name, BACKENDS.iter().map(|b| b.name));
        format!(
            "backend '{name}' is not supported{near}; there are {}",
            names()
        )
    })
}

impl Backend {
    /// Takes a property, or says which there are.
    fn check(&self, key: &str) -> Result<(), String> {
        if self.properties.contains(&key) {
            return Ok(());
        }
        let all = || ["id"].into_iter().chain(self.properties.iter().copied());
        let near = did_you_mean(key, all());
        let list = all().collect::<Vec<_>>().join(", ");
        Err(format!(
            "{} has no property '{key}'{near}; there are {list}",
            self.name
        ))
    }
}

/// `-chardev`.
pub(super) fn apply(options: &mut Options, value: &str) -> Result<(), String> {
    let mut words = keyval::parse(value).into_iter();
    let backend = match words.next() {
        Some((key, None)) if matches!(&*key, "help" | "?") => {
            let names = BACKENDS.iter().map(|b| format!("  {}\n", b.name));
            let text = format!("Backends:\n{}", names.collect::<String>());
            options.print.get_or_insert(text);
            return Ok(());
        }
        Some((name, None)) => by_name(&name)?,
        Some((key, Some(name))) if key == "backend" => by_name(&name)?,
        _ => return Err(format!("the backend is missing; there are {}", names())),
    };
    let mut id = None;
    let mut properties = Properties(Vec::new());
    for (key, value) in words {
        let flag = matches!(&*key, "server" | "wait");
        // QEMU's short form of a property that is on, or off with "no".
        let (key, value) = match (key.strip_prefix("no"), value) {
            (_, Some(value)) => (key, value),
            (Some(name @ ("server" | "wait")), None) => (name.into(), "off".into()),
            (_, None) if flag => (key, "on".into()),
            (_, None) => {
                backend.check(&key)?;
                return Err(format!("{key}= needs a value"));
            }
        };
        if key == "id" {
            id = Some(keyval::id(&value).map_err(|why| format!("id={value}: {why}"))?);
            continue;
        }
        backend.check(&key)?;
        properties.0.push((key, value));
    }
    let id = id.filter(|id| !id.is_empty()).ok_or("id= is missing")?;
    if options.chardevs.iter().any(|c| c.id == id) {
        return Err(format!("two chardevs have the id '{id}'"));
    }
    let backend = (backend.open)(&properties)?;
    options.chardevs.push(Chardev { id, backend });
    Ok(())
}

/// What `-serial` and `-debugcon` take for a host end.
pub(super) fn of_serial(value: &str) -> Result<SerialConfig, String> {
    Ok(match value.split_once(':').unwrap_or((value, "")) {
        ("stdio", "") | ("mon", "stdio") => SerialConfig::Stdio,
        ("null", "") => SerialConfig::None,
        ("file", "") => return Err("a file name is missing; write file:PATH".into()),
        ("file", path) => SerialConfig::File(PathBuf::from(path)),
        ("pipe", path) if !path.is_empty() => SerialConfig::Pipe(PathBuf::from(path)),
        ("chardev", id) if !id.is_empty() => SerialConfig::Named(id.into()),
        _ => {
            return Err(
                "not supported; there are stdio, mon:stdio, file:PATH, pipe:PATH, chardev:ID, \
                 null, none; a socket is a -chardev"
                    .into(),
            );
        }
    })
}

/// `-debugcon`.
pub(super) fn debugcon(options: &mut Options, value: &str) -> Result<(), String> {
    let mut model = device::debugcon(String::new());
    if let DeviceModel::DebugCon { host, .. } = &mut model {
        *host = match value {
            "none" => SerialConfig::None,
            value => of_serial(value)?,
        };
    }
    options.config.devices.push(DeviceConfig::new(model));
    Ok(())
}

/// The host ends of a device, and what messages call it.
fn hosts(device: &mut DeviceConfig) -> Vec<(&'static str, &mut SerialConfig)> {
    match &mut device.model {
        DeviceModel::DebugCon { host, .. } => vec![("-device isa-debugcon", host)],
        DeviceModel::VirtioSerial(serial) => {
            let ports = serial.ports.iter_mut();
            let named = ports.map(|port| match port.console {
                true => ("-device virtconsole", &mut port.host),
                false => ("-device virtserialport", &mut port.host),
            });
            named.collect()
        }
        _ => Vec::new(),
    }
}

/// Whether a device has the terminal: then COM1 has not by default.
pub(super) fn device_has_terminal(options: &mut Options) -> bool {
    let chardevs = &options.chardevs;
    let stdio = |host: &SerialConfig| match host {
        SerialConfig::Stdio => true,
        SerialConfig::Named(id) => chardevs
            .iter()
            .any(|c| c.id == *id && matches!(c.backend, SerialConfig::Stdio)),
        _ => false,
    };
    let hosts = options.config.devices.iter_mut().flat_map(hosts);
    hosts.into_iter().any(|(_, host)| stdio(host))
}

/// Whether anything has it, once names are resolved.
pub(super) fn has_terminal(options: &mut Options) -> bool {
    let config = &mut options.config;
    let serial = config
        .serial
        .iter()
        .any(|s| matches!(s, SerialConfig::Stdio));
    let mut devices = config.devices.iter_mut().flat_map(hosts);
    serial || devices.any(|(_, host)| matches!(host, SerialConfig::Stdio))
}

/// Puts the backends in the place of their names. A backend serves one
/// device, and only one has the terminal.
pub(super) fn resolve(options: &mut Options) -> Result<(), String> {
    let mut used: Vec<String> = Vec::new();
    let mut terminals = 0;
    let config = &mut options.config;
    let serial = config.serial.iter_mut().map(|s| ("-serial", s));
    let devices = config.devices.iter_mut().flat_map(hosts);
    for (option, host) in serial.chain(devices) {
        if let SerialConfig::Named(id) = host {
            let found = options.chardevs.iter().find(|c| c.id == *id);
            let chardev = found.ok_or_else(|| match &**id {
                "" => format!("{option}: chardev= is missing"),
                id => {
                    let near = did_you_mean(id, options.chardevs.iter().map(|c| &*c.id));
                    format!("{option}: there is no chardev '{id}'{near}")
                }
            })?;
            if used.contains(id) {
                return Err(format!("{option}: chardev '{id}' is in use"));
            }
            used.push(id.clone());
            *host = chardev.backend.clone();
        }
        terminals += usize::from(matches!(host, SerialConfig::Stdio));
        if terminals > 1 {
            return Err(format!(
                "{option}: only one serial port or device can have the terminal (stdio)"
            ));
        }
    }
    Ok(())
}
