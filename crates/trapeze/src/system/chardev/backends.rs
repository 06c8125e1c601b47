//! What a chardev can be: a table.

use crate::near::did_you_mean;
use crate::system::keyval::on_off;
use crate::system::size;
use machine::console::{Pty, Ring};
use machine::{LogFile, SerialConfig, SocketAddress, SocketConfig};
use std::path::PathBuf;

/// One backend: name, its properties beside the common ones, what it is.
pub(super) struct Backend {
    pub(super) name: &'static str,
    pub(super) properties: &'static [&'static str],
    pub(super) open: fn(&Properties) -> Result<SerialConfig, String>,
}

/// Names and values of a backend's properties.
#[derive(Default)]
pub(super) struct Properties {
    pub(super) id: String,
    pub(super) words: Vec<(String, String)>,
}

impl Properties {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.words.iter().rfind(|(key, _)| key == name);
        found.map(|(_, value)| &**value)
    }

    fn path(&self) -> Result<PathBuf, String> {
        let path = self.get("path").filter(|path| !path.is_empty());
        path.map(PathBuf::from).ok_or("path= is missing".into())
    }

    pub(super) fn on_off(&self, name: &str, default: bool) -> Result<bool, String> {
        let value = self.get(name).map(on_off);
        value
            .unwrap_or(Ok(default))
            .map_err(|why| format!("{name}=: {why}"))
    }
}

/// Every backend.
pub(super) const BACKENDS: [Backend; 7] = [
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
        properties: &["path", "host", "port", "server", "wait", "telnet"],
        open: socket,
    },
    Backend {
        name: "pty",
        properties: &[],
        open: |p| Ok(SerialConfig::Pty(Pty::new(&p.id))),
    },
    Backend {
        name: "ringbuf",
        properties: &["size"],
        open: ring,
    },
    Backend {
        name: "null",
        properties: &[],
        open: |_| Ok(SerialConfig::None),
    },
];

/// QEMU's default and its upper limit, in bytes.
const RING_SIZE: u64 = 64 << 10;
const RING_MOST: u64 = 1 << 30;

fn ring(properties: &Properties) -> Result<SerialConfig, String> {
    let size = match properties.get("size") {
        Some(size) => size::parse(size, 0).map_err(|why| format!("size=: {why}"))?,
        None => RING_SIZE,
    };
    if !size.is_power_of_two() || size > RING_MOST {
        return Err(format!("size={size}: takes a power of two, at most 1G"));
    }
    let ring = Ring::new(&properties.id, size as usize);
    Ok(SerialConfig::Ring(ring))
}

fn socket(properties: &Properties) -> Result<SerialConfig, String> {
    let server = properties.on_off("server", false)?;
    if !server && properties.get("wait").is_some() {
        return Err("wait= is for server=on".into());
    }
    let port = properties.get("port");
    let address = match (properties.get("path"), port) {
        (Some(_), Some(_)) => return Err("either path= or port=, not both".into()),
        (_, Some(port)) => SocketAddress::Inet {
            host: properties.get("host").unwrap_or_default().into(),
            port: port
                .parse()
                .map_err(|_| format!("port={port}: a port is a number from 0 to 65535"))?,
        },
        (_, None) if properties.get("host").is_some() => return Err("port= is missing".into()),
        (_, None) => SocketAddress::Unix(properties.path()?),
    };
    let telnet = properties.on_off("telnet", false)?;
    if telnet && !server {
        return Err("telnet=on is for server=on".into());
    }
    Ok(SerialConfig::Socket(SocketConfig {
        address,
        server,
        wait: properties.on_off("wait", server)?,
        telnet,
    }))
}

/// The backends' names, for messages.
pub(super) fn names() -> String {
    BACKENDS.map(|b| b.name).join(", ")
}

pub(super) fn by_name(name: &str) -> Result<&'static Backend, String> {
    let found = BACKENDS.iter().find(|b| b.name == name);
    found.ok_or_else(|| {
        let near = did_you_mean(name, BACKENDS.iter().map(|b| b.name));
        format!(
            "backend '{name}' is not supported{near}; there are {}",
            names()
        )
    })
}

/// Properties of every backend.
const COMMON: [&str; 4] = ["id", "mux", "logfile", "logappend"];

/// The backend, with a copy of its output in a file if that is asked for.
pub(super) fn logged(
    backend: SerialConfig,
    properties: &Properties,
) -> Result<SerialConfig, String> {
    let append = properties.on_off("logappend", false)?;
    match properties.get("logfile") {
        None if properties.get("logappend").is_some() => Err("logappend= is for logfile=".into()),
        None => Ok(backend),
        Some("") => Err("logfile= is empty".into()),
        Some(path) => {
            let path = PathBuf::from(path);
            let log = LogFile { path, append };
            Ok(SerialConfig::Logged(Box::new(backend), log))
        }
    }
}

impl Backend {
    /// Takes a property, or says which there are.
    pub(super) fn check(&self, key: &str) -> Result<(), String> {
        let all = || COMMON.iter().chain(self.properties).copied();
        if all().any(|name| name == key) {
            return Ok(());
        }
        let near = did_you_mean(key, all());
        let list = all().collect::<Vec<_>>().join(", ");
        Err(format!(
            "{} has no property '{key}'{near}; there are {list}",
            self.name
        ))
    }
}
