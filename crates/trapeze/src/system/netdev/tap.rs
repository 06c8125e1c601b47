//! `-netdev tap`.

use super::{Word, number, unknown};
use crate::system::keyval::on_off;
use machine::NetdevKind;
use net::{MAX_TAP_QUEUES, TapConfig};
use std::path::PathBuf;

/// What QEMU runs if nothing else is said.
const UP: &str = "/etc/qemu-ifup";
const DOWN: &str = "/etc/qemu-ifdown";

const KEYS: [&str; 8] = [
    "ifname",
    "fd",
    "fds",
    "script",
    "downscript",
    "vhost",
    "queues",
    "vnet_hdr",
];

pub(super) fn parse(words: Vec<Word>) -> Result<NetdevKind, String> {
    let mut config = TapConfig {
        up: Some(UP.into()),
        down: Some(DOWN.into()),
        ..TapConfig::default()
    };
    let mut queues = None;
    for (key, value) in words {
        let value = value.ok_or_else(|| format!("{key}= needs a value"))?;
        match &*key {
            "ifname" => config.name = Some(value),
            "fd" => config.opened = vec![number("fd", &value)?],
            "fds" => config.opened = descriptors(&value)?,
            "script" => config.up = script(value),
            "downscript" => config.down = script(value),
            "vhost" if !on_off(&value)? => {}
            "vhost" => return Err("vhost=on is not supported: frames pass through us".into()),
            "queues" => queues = Some(count(&value)?),
            "vnet_hdr" if on_off(&value)? => {}
            "vnet_hdr" => return Err("vnet_hdr=off is not supported".into()),
            key => return Err(unknown(key, &KEYS)),
        }
    }
    config.queues = queues.unwrap_or(1);
    if !config.opened.is_empty() {
        if config.name.is_some() {
            return Err(
                "fd= is an interface with a name already: ifname= does not go with it".into(),
            );
        }
        if queues.is_some() {
            return Err(
                "queues= does not go with fd=, which is one queue; fds=A:B:... names several"
                    .into(),
            );
        }
        config.queues = config.opened.len() as u16;
        (config.up, config.down) = (None, None);
    }
    // Nobody asked for the one that runs at the end: it need not be there.
    if config
        .down
        .as_deref()
        .is_some_and(|p| p.as_os_str() == DOWN && !p.exists())
    {
        config.down = None;
    }
    Ok(NetdevKind::Tap(config))
}

/// How many queues.
fn count(value: &str) -> Result<u16, String> {
    let count = value.parse().ok();
    let count = count.filter(|n| (1..=MAX_TAP_QUEUES).contains(n));
    count.ok_or_else(|| format!("queues={value}: takes 1 to {MAX_TAP_QUEUES}"))
}

/// The descriptors of several queues.
fn descriptors(value: &str) -> Result<Vec<i32>, String> {
    let fds = value.split(':').map(|fd| number("fds", fd));
    let fds = fds.collect::<Result<Vec<_>, _>>()?;
    count(&fds.len().to_string())?;
    Ok(fds)
}

fn script(value: String) -> Option<PathBuf> {
    (value != "no" && !value.is_empty()).then(|| value.into())
}
