//! `-netdev vhost-user`.

use super::{Word, unknown};
use crate::near::did_you_mean;
use crate::system::keyval::on_off;
use crate::system::parse::Options;
use machine::{NetdevKind, SerialConfig, SocketAddress, SocketConfig};
use net::{MAX_VHOST_USER_PAIRS, VhostUserConfig};
use std::path::PathBuf;

const KEYS: [&str; 3] = ["chardev", "queues", "vhostforce"];

pub(super) fn parse(words: Vec<Word>) -> Result<NetdevKind, String> {
    let mut config = VhostUserConfig {
        chardev: String::new(),
        path: PathBuf::new(),
        queues: 1,
    };
    for (key, value) in words {
        let value = value.ok_or_else(|| format!("{key}= needs a value"))?;
        match &*key {
            "chardev" => config.chardev = value,
            "queues" => {
                let queues = value.parse().ok();
                let queues = queues.filter(|n| (1..=MAX_VHOST_USER_PAIRS).contains(n));
                let range = || format!("queues={value}: takes 1 to {MAX_VHOST_USER_PAIRS}");
                config.queues = queues.ok_or_else(range)?;
            }
            // The same for every guest: nothing depends on its interrupts.
            "vhostforce" => drop(on_off(&value)?),
            key => return Err(unknown(key, &KEYS)),
        }
    }
    match config.chardev.is_empty() {
        true => Err("chardev= is missing".into()),
        false => Ok(NetdevKind::VhostUser(config)),
    }
}

/// Finds the sockets of all back ends.
pub(in crate::system) fn resolve(options: &mut Options) -> Result<(), String> {
    let chardevs = &options.chardevs;
    let mut used: Vec<&str> = Vec::new();
    for netdev in &mut options.config.netdevs {
        let NetdevKind::VhostUser(config) = &mut netdev.kind else {
            continue;
        };
        let named = &config.chardev;
        let refuse = |why: String| Err(format!("-netdev vhost-user,id={}: {why}", netdev.id));
        let Some((id, backend)) = chardevs.iter().map(|c| c.named()).find(|c| c.0 == *named) else {
            let near = did_you_mean(named, chardevs.iter().map(|c| c.named().0));
            return refuse(format!("there is no chardev '{named}'{near}"));
        };
        if used.contains(&id) {
            return refuse(format!("chardev '{id}' is in use"));
        }
        used.push(id);
        config.path = match backend {
            SerialConfig::Socket(SocketConfig {
                address: SocketAddress::Unix(path),
                server: false,
                telnet: false,
                ..
            }) => path.clone(),
            SerialConfig::Socket(SocketConfig { server: true, .. }) => {
                let why = "server=on is not supported: the back end has to listen";
                return refuse(format!("chardev '{id}': {why}"));
            }
            _ => {
                return refuse(format!(
                    "chardev '{id}': takes -chardev socket,id={id},path=FILE"
                ));
            }
        };
    }
    Ok(())
}
