//! `-monitor`, `-qmp`, `-qmp-pretty`, `-mon`: who controls the machine.

use super::chardev::{self, short};
use super::keyval::{self, on_off};
use super::parse::Options;
use machine::{MonitorConfig, SerialConfig};

fn add(options: &mut Options, value: &str, control: bool, pretty: bool) -> Result<(), String> {
    if value == "none" {
        options.no_monitor = true;
        return Ok(());
    }
    if value.starts_with("mon:") {
        return Err("mon: is for serial ports".into());
    }
    let label = format!("compat_monitor{}", options.config.monitors.len());
    let host = short::parse(value, &label)?;
    // Readline's stays QEMU's default beside a QMP one.
    options.no_monitor |= !control;
    let monitor = MonitorConfig {
        host,
        control,
        pretty,
    };
    options.config.monitors.push(monitor);
    Ok(())
}

/// `-monitor`.
pub(super) fn monitor(options: &mut Options, value: &str) -> Result<(), String> {
    add(options, value, false, false)
}

/// `-qmp`.
pub(super) fn qmp(options: &mut Options, value: &str) -> Result<(), String> {
    add(options, value, true, false)
}

/// `-qmp-pretty`.
pub(super) fn qmp_pretty(options: &mut Options, value: &str) -> Result<(), String> {
    add(options, value, true, true)
}

/// `-mon`.
pub(super) fn mon(options: &mut Options, value: &str) -> Result<(), String> {
    let mut monitor = MonitorConfig {
        host: SerialConfig::Named(String::new()),
        control: false,
        pretty: false,
    };
    for (position, (key, value)) in keyval::parse(value).into_iter().enumerate() {
        match (&*key, value) {
            (id, None) if position == 0 => monitor.host = SerialConfig::Named(id.into()),
            ("chardev", Some(id)) => monitor.host = SerialConfig::Named(id),
            ("mode", Some(mode)) => {
                monitor.control = match &*mode {
                    "control" => true,
                    "readline" => false,
                    mode => return Err(format!("mode={mode}: takes readline or control")),
                }
            }
            ("pretty", Some(value)) => monitor.pretty = on_off(&value)?,
            (key, Some(_)) => {
                let list = "there are chardev=, mode=, pretty=";
                return Err(format!("there is no property '{key}'; {list}"));
            }
            (key, None) => return Err(format!("{key}= needs a value")),
        }
    }
    if matches!(&monitor.host, SerialConfig::Named(id) if id.is_empty()) {
        return Err("chardev= is missing".into());
    }
    options.no_monitor |= !monitor.control;
    options.config.monitors.push(monitor);
    Ok(())
}

/// Adds the monitor that shares COM1's terminal.
pub(super) fn resolve(options: &mut Options) {
    let shared = options
        .config
        .serial
        .iter()
        .find(|host| short::has_monitor(host));
    if let Some(host) = shared.cloned() {
        let monitor = MonitorConfig {
            host,
            control: false,
            pretty: false,
        };
        options.config.monitors.push(monitor);
    }
}

/// COM1 on the terminal, with a monitor unless there is another.
pub(super) fn terminal(options: &Options) -> SerialConfig {
    match options.no_monitor {
        true => SerialConfig::Stdio,
        false => chardev::short::shared(SerialConfig::Stdio),
    }
}
