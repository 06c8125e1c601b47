//! `-chardev`: host ends with names, and who uses them.

use super::device;
use super::keyval;
use super::parse::Options;
use crate::near::did_you_mean;
use machine::{DeviceConfig, DeviceModel, SerialConfig};
use std::path::PathBuf;

/// A named host end.
pub(crate) struct Chardev {
    id: String,
    backend: SerialConfig,
}

/// One backend: name, whether it takes `path=`, what it is.
struct Backend {
    name: &'static str,
    needs_path: bool,
    open: fn(String) -> SerialConfig,
}

const BACKENDS: [Backend; 3] = [
    Backend {
        name: "stdio",
        needs_path: false,
        open: |_| SerialConfig::Stdio,
    },
    Backend {
        name: "file",
        needs_path: true,
        open: |path| SerialConfig::File(PathBuf::from(path)),
    },
    Backend {
        name: "null",
        needs_path: false,
        open: |_| SerialConfig::None,
    },
];

fn by_name(name: &str) -> Result<&'static Backend, String> {
    let found = BACKENDS.iter().find(|b| b.name == name);
    found.ok_or_else(|| {
        let near = did_you_mean(name, BACKENDS.iter().map(|b| b.name));
        format!("backend '{name}' is not supported{near}; there are stdio, file and null")
    })
}

/// `-chardev`.
pub(super) fn apply(options: &mut Options, value: &str) -> Result<(), String> {
    let (mut backend, mut id, mut path) = (None, None, None);
    for (position, (key, value)) in keyval::parse(value).into_iter().enumerate() {
        match (&*key, value) {
            ("help" | "?", None) => {
                let names = BACKENDS.iter().map(|b| format!("  {}\n", b.name));
                let text = format!("Backends:\n{}", names.collect::<String>());
                options.print.get_or_insert(text);
                return Ok(());
            }
            (name, None) if position == 0 => backend = Some(by_name(name)?),
            ("backend", Some(name)) => backend = Some(by_name(&name)?),
            ("id", Some(name)) => id = Some(name),
            ("path", Some(name)) => path = Some(name),
            (key, _) => {
                let near = did_you_mean(key, ["id", "path", "backend"].into_iter());
                return Err(format!(
                    "property '{key}' is not supported{near}; there are id and path"
                ));
            }
        }
    }
    let backend = backend.ok_or("the backend is missing; there are stdio, file and null")?;
    let id = id.filter(|id| !id.is_empty()).ok_or("id= is missing")?;
    if options.chardevs.iter().any(|c| c.id == id) {
        return Err(format!("two chardevs have the id '{id}'"));
    }
    let path = match (backend.needs_path, path) {
        (true, Some(path)) if !path.is_empty() => path,
        (true, _) => return Err("path= is missing".into()),
        (false, Some(_)) => return Err(format!("{} takes no path=", backend.name)),
        (false, None) => String::new(),
    };
    let backend = (backend.open)(path);
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
        ("chardev", id) if !id.is_empty() => SerialConfig::Named(id.into()),
        _ => {
            return Err(
                "not supported; there are stdio, mon:stdio, file:PATH, chardev:ID, null, none"
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

/// Whether an `isa-debugcon` writes to the terminal: then COM1 does not by
/// default.
pub(super) fn debugcon_has_terminal(options: &Options) -> bool {
    let stdio = |host: &SerialConfig| match host {
        SerialConfig::Stdio => true,
        SerialConfig::Named(id) => options
            .chardevs
            .iter()
            .any(|c| c.id == *id && matches!(c.backend, SerialConfig::Stdio)),
        _ => false,
    };
    options.config.devices.iter().any(|d| match &d.model {
        DeviceModel::DebugCon { host, .. } => stdio(host),
        _ => false,
    })
}

/// Puts the backends in the place of their names. A backend serves one
/// device, and only one has the terminal.
pub(super) fn resolve(options: &mut Options) -> Result<(), String> {
    let mut used: Vec<String> = Vec::new();
    let mut terminals = 0;
    let config = &mut options.config;
    let serial = config.serial.iter_mut().map(|s| ("-serial", s));
    let devices = config
        .devices
        .iter_mut()
        .filter_map(|d| match &mut d.model {
            DeviceModel::DebugCon { host, .. } => Some(("-device isa-debugcon", host)),
            _ => None,
        });
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
