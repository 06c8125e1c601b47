//! What each option's value means: the `apply` functions of the table.

use super::parse::Options;
use super::{accel, chardev, help, log_items, size};
use crate::near::did_you_mean;
use machine::cpu::{CpuConfig, FEATURES, Feature, MODELS, Model, Smp};
use machine::{Image, PanicAction};
use std::path::PathBuf;

type Applied = Result<(), String>;

/// Comma-separated `key=value` words.
fn pairs(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    text.split(',').map(|word| match word.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (word, None),
    })
}

/// `list` names what there is, as `a, b and c`.
fn no_such(what: &str, name: &str, list: &str) -> String {
    let names = list.split([',', ' ']).filter(|&word| word != "and");
    let near = did_you_mean(name, names);
    format!("{what} '{name}' is not supported{near}; there is {list}")
}

/// Prints instead of running; the first request counts.
fn print(options: &mut Options, text: String) -> Applied {
    options.print.get_or_insert(text);
    Ok(())
}

pub(super) fn help(options: &mut Options, _: &str) -> Applied {
    let program = options.personality.name();
    print(options, help::text(program))
}

pub(super) fn version(options: &mut Options, _: &str) -> Applied {
    print(options, super::version())
}

pub(super) fn accel(options: &mut Options, value: &str) -> Applied {
    if matches!(value, "help" | "?") {
        let rows = accel::ACCELERATORS.iter();
        let rows = rows.map(|r| format!("{:<8}{}\n", r.name, r.help));
        return print(
            options,
            format!("Accelerators:\n{}", rows.collect::<String>()),
        );
    }
    let mut words = value.split(',');
    let row = accel::by_name(words.next().unwrap_or_default())?;
    for property in words {
        (row.set)(&mut options.engine, property)?;
    }
    options.accelerators.push(row);
    Ok(())
}

pub(super) fn cpu(options: &mut Options, value: &str) -> Applied {
    let mut words = value.split(',');
    let name = words.next().unwrap_or_default();
    if matches!(name, "help" | "?") {
        return print(options, cpu_help());
    }
    let mut cpu = CpuConfig {
        model: Model::by_name(name).ok_or_else(|| {
            let near = did_you_mean(name, MODELS.iter().map(|m| m.name));
            format!("CPU model '{name}' is not supported{near}; -cpu help lists what there is")
        })?,
        ..CpuConfig::default()
    };
    for word in words {
        match word {
            "enforce" | "enforce=on" => cpu.enforce = true,
            "enforce=off" | "check" | "check=on" => cpu.enforce = false,
            word => cpu.changes.push(feature(word)?),
        }
    }
    options.config.cpu = cpu;
    Ok(())
}

/// `+name`, `-name`, `name=on|off`.
fn feature(word: &str) -> Result<(&'static Feature, bool), String> {
    let (name, on) = match (word.strip_prefix('+'), word.strip_prefix('-')) {
        (Some(name), _) => (name, true),
        (_, Some(name)) => (name, false),
        _ => match word.split_once('=') {
            Some((name, "on")) => (name, true),
            Some((name, "off")) => (name, false),
            _ => {
                return Err(format!(
                    "'{word}' is not +FEATURE, -FEATURE, FEATURE=on or FEATURE=off"
                ));
            }
        },
    };
    let found = Feature::by_name(name).ok_or_else(|| {
        let near = did_you_mean(name, FEATURES.iter().map(|f| f.name));
        format!("feature '{name}' is not known{near}; -cpu help lists them")
    })?;
    Ok((found, on))
}

fn cpu_help() -> String {
    let models = MODELS.iter();
    let models: String = models
        .map(|m| format!("  {:<16}{}\n", m.name, m.help))
        .collect();
    let mut text = format!("CPU models:\n{models}\nCPU features (+NAME, -NAME):\n");
    let mut column = 0;
    for f in FEATURES {
        if column + f.name.len() > 76 {
            text.push('\n');
            column = 0;
        }
        text.push_str(if column == 0 { "  " } else { " " });
        text.push_str(f.name);
        column += f.name.len() + 1;
    }
    text
}

pub(super) fn smp(options: &mut Options, value: &str) -> Applied {
    let mut smp = Smp::default();
    for (position, (key, value)) in pairs(value).enumerate() {
        let (key, text) = match (key, value) {
            (count, None) if position == 0 => ("cpus", count),
            (key, value) => (key, value.unwrap_or_default()),
        };
        let number = text.parse::<u32>().ok().filter(|&n| n > 0);
        let number = number.ok_or_else(|| format!("'{text}' is not a number of {key}"))?;
        match key {
            "cpus" => smp.cpus = Some(number),
            "sockets" => smp.sockets = Some(number),
            "cores" => smp.cores = Some(number),
            "threads" => smp.threads = Some(number),
            "maxcpus" => smp.maxcpus = Some(number),
            "drawers" | "books" | "dies" | "clusters" | "modules" if number == 1 => {}
            key => {
                let list = "cpus, sockets, cores, threads and maxcpus";
                return Err(no_such("property", key, list));
            }
        }
    }
    options.config.topology = smp.topology()?;
    options.config.absent_vcpus = smp.absent();
    Ok(())
}

pub(super) fn memory(options: &mut Options, value: &str) -> Applied {
    for (position, (key, value)) in pairs(value).enumerate() {
        let text = match (key, value) {
            ("size", Some(text)) => text,
            (text, None) if position == 0 => text,
            (key, _) => return Err(no_such("property", key, "size")),
        };
        options.config.ram_bytes = size::parse(text, 20)?;
        options.memory.size_given = true;
    }
    match options.config.ram_bytes {
        0 => Err("a machine needs some memory, such as 1G".into()),
        _ => Ok(()),
    }
}

fn file(value: &str) -> Result<Image, String> {
    match value {
        "" => Err("a file name is missing".into()),
        path => Ok(Image::at(path)),
    }
}

pub(super) fn kernel(options: &mut Options, value: &str) -> Applied {
    options.config.kernel = Some(file(value)?);
    Ok(())
}

pub(super) fn initrd(options: &mut Options, value: &str) -> Applied {
    options.config.initrd = Some(file(value)?);
    Ok(())
}

pub(super) fn append(options: &mut Options, value: &str) -> Applied {
    options.config.cmdline = value.to_string();
    Ok(())
}

pub(super) fn nographic(options: &mut Options, _: &str) -> Applied {
    options.nographic = true;
    Ok(())
}

pub(super) fn display(options: &mut Options, value: &str) -> Applied {
    options.no_display = true;
    only_none(options, value)
}

pub(super) fn only_none(_: &mut Options, value: &str) -> Applied {
    match value {
        "none" => Ok(()),
        _ => Err("not supported yet; only 'none' is".into()),
    }
}

pub(super) fn serial(options: &mut Options, value: &str) -> Applied {
    let label = format!("serial{}", options.serial.len());
    let port = match value {
        "none" => None,
        value => Some(chardev::short::parse(value, &label)?),
    };
    if options.serial.len() == 4 {
        return Err("a PC has four serial ports".into());
    }
    options.serial.push(port);
    Ok(())
}

pub(super) fn no_defaults(options: &mut Options, _: &str) -> Applied {
    options.no_defaults = true;
    Ok(())
}

pub(super) fn name(options: &mut Options, value: &str) -> Applied {
    let name = value.strip_prefix("guest=").unwrap_or(value);
    if name.contains(',') {
        return Err("only the guest's name is supported".into());
    }
    options.name = Some(name.to_string());
    Ok(())
}

pub(super) fn no_reboot(options: &mut Options, _: &str) -> Applied {
    options.config.no_reboot = true;
    Ok(())
}

pub(super) fn action(options: &mut Options, value: &str) -> Applied {
    for (key, value) in pairs(value) {
        let config = &mut options.config;
        match (key, value.unwrap_or_default()) {
            ("reboot", "reset") => config.no_reboot = false,
            ("reboot", "shutdown") => config.no_reboot = true,
            ("shutdown", "poweroff") => config.no_shutdown = false,
            ("shutdown", "pause") => config.no_shutdown = true,
            ("panic", "none") => config.panic_action = PanicAction::None,
            ("panic", "pause") => config.panic_action = PanicAction::Pause,
            ("panic", "shutdown") => config.panic_action = PanicAction::Shutdown,
            ("panic", "exit-failure") => config.panic_action = PanicAction::ExitFailure,
            ("reboot", _) => return Err("reboot takes reset or shutdown".into()),
            ("shutdown", _) => return Err("shutdown takes poweroff or pause".into()),
            ("panic", _) => return Err("panic takes none, pause, shutdown or exit-failure".into()),
            (key, _) => return Err(no_such("event", key, "reboot, shutdown and panic")),
        }
    }
    Ok(())
}

pub(super) fn log_items(options: &mut Options, value: &str) -> Applied {
    match value {
        "help" | "?" => print(options, log_items::list()),
        items => options.log.add_items(items),
    }
}

pub(super) fn trace(options: &mut Options, value: &str) -> Applied {
    for (position, (key, value)) in pairs(value).enumerate() {
        match (key, value) {
            ("enable", Some(pattern)) => options.log.targets.push(pattern.into()),
            ("file", Some(path)) => options.log_file = Some(PathBuf::from(path)),
            ("help" | "?", None) => return Err("there is no list".into()),
            (pattern, None) if position == 0 => options.log.targets.push(pattern.into()),
            (key, _) => return Err(no_such("property", key, "enable and file")),
        }
    }
    Ok(())
}

pub(super) fn log_file(options: &mut Options, value: &str) -> Applied {
    options.log_file = Some(PathBuf::from(value));
    Ok(())
}
