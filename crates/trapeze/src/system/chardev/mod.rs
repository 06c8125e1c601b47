//! `-chardev`: host ends with names, and who uses them.

mod backends;
pub(super) mod short;

use super::device;
use super::keyval;
use super::parse::Options;
use crate::near::did_you_mean;
use backends::{BACKENDS, Properties, by_name, logged, names};
use machine::{DeviceConfig, DeviceModel, MachineConfig, MuxConfig, SerialConfig};

/// A named host end.
pub(crate) struct Chardev {
    id: String,
    backend: SerialConfig,
}

impl Chardev {
    /// Its name and what it is.
    pub(super) fn named(&self) -> (&str, &SerialConfig) {
        (&self.id, &self.backend)
    }
}

/// A property's name and value; QEMU's short form of one that is on is its name
/// alone, and of one that is off that with "no". The error is the name of one that
/// needs a value.
fn flag(key: String, value: Option<String>) -> Result<(String, String), String> {
    const FLAGS: [&str; 5] = ["server", "wait", "telnet", "mux", "nodelay"];
    match (key.strip_prefix("no"), value) {
        (_, Some(value)) => Ok((key, value)),
        (_, None) if FLAGS.contains(&&*key) => Ok((key, "on".into())),
        (Some(name), None) if FLAGS.contains(&name) => Ok((name.into(), "off".into())),
        (_, None) => Err(key),
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
    let mut properties = Properties::default();
    for (key, value) in words {
        let (key, value) = flag(key, value).map_err(|key| match backend.check(&key) {
            Ok(()) => format!("{key}= needs a value"),
            Err(why) => why,
        })?;
        if key == "id" {
            properties.id = keyval::id(&value).map_err(|why| format!("id={value}: {why}"))?;
            continue;
        }
        backend.check(&key)?;
        properties.words.push((key, value));
    }
    let id = properties.id.clone();
    if id.is_empty() {
        return Err("id= is missing".into());
    }
    if options.chardevs.iter().any(|c| c.id == id) {
        return Err(format!("two chardevs have the id '{id}'"));
    }
    let shared = properties.on_off("mux", false)?;
    let mut backend = logged((backend.open)(&properties)?, &properties)?;
    if shared {
        backend = SerialConfig::Mux(MuxConfig {
            id: id.clone(),
            backend: Box::new(backend),
        });
    }
    options.chardevs.push(Chardev { id, backend });
    Ok(())
}

/// `-debugcon`.
pub(super) fn debugcon(options: &mut Options, value: &str) -> Result<(), String> {
    let mut model = device::debugcon(String::new());
    if let DeviceModel::DebugCon { host, .. } = &mut model {
        *host = match value {
            "none" => SerialConfig::None,
            value => short::parse(value, "debugcon")?,
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

/// A host end is the terminal, perhaps shared.
pub(super) fn is_terminal(host: &SerialConfig) -> bool {
    match host {
        SerialConfig::Stdio => true,
        SerialConfig::Mux(mux) => is_terminal(&mux.backend),
        SerialConfig::Logged(host, _) => is_terminal(host),
        _ => false,
    }
}

/// Every host end, and the option that asks for it. COM1 comes before the
/// monitors: who shares its terminal has it first.
fn all(config: &mut MachineConfig) -> Vec<(&'static str, &mut SerialConfig)> {
    let serial = config.serial.iter_mut().map(|s| ("-serial", s));
    let devices = config.devices.iter_mut().flat_map(hosts);
    let monitors = config.monitors.iter_mut().map(|m| match m.control {
        true => ("-qmp", &mut m.host),
        false => ("-monitor", &mut m.host),
    });
    let debugger = config.debugger.iter_mut().map(|host| ("-gdb", host));
    let hosts = serial.chain(devices).chain(monitors);
    hosts.chain(debugger).collect()
}

/// Whether anything but COM1 has the terminal: then COM1 has not by default.
pub(super) fn terminal_is_taken(options: &mut Options) -> bool {
    let chardevs = &options.chardevs;
    let named = |id: &str| {
        chardevs
            .iter()
            .any(|c| c.id == id && is_terminal(&c.backend))
    };
    let hosts = all(&mut options.config);
    hosts.iter().any(|(_, host)| match host {
        SerialConfig::Named(id) => named(id),
        host => is_terminal(host),
    })
}

/// Whether anything has it, once names are resolved.
pub(super) fn has_terminal(options: &mut Options) -> bool {
    let hosts = all(&mut options.config);
    hosts.iter().any(|(_, host)| is_terminal(host))
}

/// Puts the backends in the place of their names. A backend serves one
/// user unless it is shared, and only one has the terminal.
pub(super) fn resolve(options: &mut Options) -> Result<(), String> {
    let mut used: Vec<String> = Vec::new();
    let mut terminals: Vec<Option<String>> = Vec::new();
    for (option, host) in all(&mut options.config) {
        if let SerialConfig::Named(id) = host {
            let found = options.chardevs.iter().find(|c| c.id == *id);
            let chardev = found.ok_or_else(|| match &**id {
                "" => format!("{option}: chardev= is missing"),
                id => {
                    let near = did_you_mean(id, options.chardevs.iter().map(|c| &*c.id));
                    format!("{option}: there is no chardev '{id}'{near}")
                }
            })?;
            let shared = matches!(chardev.backend, SerialConfig::Mux(_));
            if used.contains(id) && !shared {
                let hint = "mux=on lets several share it";
                return Err(format!("{option}: chardev '{id}' is in use; {hint}"));
            }
            used.push(id.clone());
            *host = chardev.backend.clone();
        }
        if is_terminal(host) {
            let shared = match host {
                SerialConfig::Mux(mux) => Some(mux.id.clone()),
                _ => None,
            };
            if terminals
                .iter()
                .any(|other| shared.is_none() || *other != shared)
            {
                return Err(format!(
                    "{option}: only one serial port, device or monitor can have the terminal \
                     (stdio); mon:stdio shares it between COM1 and the monitor"
                ));
            }
            terminals.push(shared);
        }
    }
    Ok(())
}
