//! `-netdev tap`.

use super::{Word, number, unknown};
use crate::system::keyval::on_off;
use machine::NetdevKind;
use net::TapConfig;
use std::path::PathBuf;

/// What QEMU runs if nothing else is said.
const UP: &str = "/etc/qemu-ifup";
const DOWN: &str = "/etc/qemu-ifdown";

const KEYS: [&str; 7] = [
    "ifname",
    "fd",
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
    for (key, value) in words {
        let value = value.ok_or_else(|| format!("{key}= needs a value"))?;
        match &*key {
            "ifname" => config.name = Some(value),
            "fd" => config.opened = Some(number("fd", &value)?),
            "script" => config.up = script(value),
            "downscript" => config.down = script(value),
            "vhost" if !on_off(&value)? => {}
            "vhost" => return Err("vhost=on is not supported: frames pass through us".into()),
            "queues" if value == "1" => {}
            "queues" => return Err("queues: only 1 is supported".into()),
            "vnet_hdr" if on_off(&value)? => {}
            "vnet_hdr" => return Err("vnet_hdr=off is not supported".into()),
            key => return Err(unknown(key, &KEYS)),
        }
    }
    if config.opened.is_some() {
        if config.name.is_some() {
            return Err(
                "fd= is an interface with a name already: ifname= does not go with it".into(),
            );
        }
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

fn script(value: String) -> Option<PathBuf> {
    (value != "no" && !value.is_empty()).then(|| value.into())
}
