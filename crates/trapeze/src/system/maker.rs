//! What monitors make while the machine runs, by the command line's own parsers.

use super::parse::Options;
use super::{Personality, blockdev, device, drive, log_items, logger, netdev, object};
use machine::{DeviceConfig, DriveConfig, DumpConfig, HostForward, NetdevConfig};
use monitor::{Maker, Words};

/// Makes them.
pub(super) struct CommandLine;

/// As one option's value.
fn joined(words: &Words, first: &str) -> String {
    let value = |text: &str| text.replace(',', ",,");
    let words = words.iter().map(|(key, text)| match key == first {
        true => value(text),
        false => format!("{key}={}", value(text)),
    });
    words.collect::<Vec<_>>().join(",")
}

/// The words with this one in front.
fn sorted(words: &Words, first: &str) -> Result<Words, String> {
    let mut words = words.clone();
    let found = words.iter().position(|(key, _)| key == first);
    let found = found.ok_or_else(|| format!("Parameter '{first}' is missing"))?;
    words[..=found].rotate_right(1);
    Ok(words)
}

/// The one thing that parsing made.
fn one<T>(mut made: Vec<T>, words: &str) -> Result<T, String> {
    let last = made.pop();
    last.filter(|_| made.is_empty())
        .ok_or_else(|| format!("'{words}' makes nothing"))
}

fn options() -> Options {
    Options::new(Personality::Trapeze)
}

impl Maker for CommandLine {
    fn device(&self, words: &Words, there: &[DeviceConfig]) -> Result<DeviceConfig, String> {
        let text = joined(&sorted(words, "driver")?, "driver");
        let mut options = options();
        device::apply(&mut options, &text)?;
        let new = one(options.config.devices, &text)?;
        let mut all = [there, &[new]].concat();
        device::net::give_addresses(&mut all);
        all.pop().ok_or_else(|| format!("'{text}' makes nothing"))
    }

    fn netdev(&self, words: &Words) -> Result<NetdevConfig, String> {
        let text = joined(&sorted(words, "type")?, "type");
        let mut options = options();
        netdev::apply(&mut options, &text)?;
        netdev::find_back_ends(&mut options)?;
        one(options.config.netdevs, &text)
    }

    fn dump(&self, words: &Words) -> Result<DumpConfig, String> {
        let text = joined(&sorted(words, "qom-type")?, "qom-type");
        let mut options = options();
        object::apply(&mut options, &text)?;
        let made = one(options.config.dumps, &text);
        made.map_err(|_| format!("'{text}' is for the start of the machine: -object {text}"))
    }

    fn host_forward(&self, rule: &str) -> Result<HostForward, String> {
        netdev::host_forward(rule)
    }

    fn drive(&self, words: &Words) -> Result<DriveConfig, String> {
        let text = joined(words, "");
        let mut options = options();
        drive::apply(&mut options, &text)?;
        drive::resolve(&mut options)?;
        one(options.config.drives, &text)
    }

    fn blockdev(&self, json: &str) -> Result<DriveConfig, String> {
        let mut options = options();
        blockdev::apply(&mut options, json)?;
        blockdev::resolve(&mut options)?;
        one(options.config.drives, json)
    }

    fn log(&self, items: &str) -> Result<(), String> {
        let mut asked = log_items::Request::default();
        if items != "none" {
            asked.add_items(items)?;
        }
        if asked.counters || asked.lockstep || asked.profile {
            return Err(format!(
                "'{items}' is for the start of the machine: -d {items}"
            ));
        }
        logger::ask_for(&asked.targets);
        Ok(())
    }
}
