//! The short form of host ends: `-serial`, `-monitor`, `-qmp` and others take
//! it.

use super::backends::{Properties, by_name};
use crate::system::keyval;
use machine::console::Pty;
use machine::{MuxConfig, SerialConfig};
use std::path::PathBuf;

/// Name of the terminal that `mon:stdio` shares between COM1 and the monitor.
const SHARED: &str = "compat_monitor0";

/// What a short form stands for; `label` is the user's name for it.
pub(in crate::system) fn parse(value: &str, label: &str) -> Result<SerialConfig, String> {
    let (kind, rest) = value.split_once(':').unwrap_or((value, ""));
    Ok(match (kind, rest) {
        ("stdio", "") => SerialConfig::Stdio,
        ("null", "") => SerialConfig::None,
        ("pty", "") => SerialConfig::Pty(Pty::new(label)),
        ("mon", rest) if !rest.is_empty() && !rest.starts_with("mon:") => {
            shared(parse(rest, SHARED)?)
        }
        ("file", "") => return Err("a file name is missing; write file:PATH".into()),
        ("file", path) => SerialConfig::File(PathBuf::from(path)),
        ("pipe", path) if !path.is_empty() => SerialConfig::Pipe(PathBuf::from(path)),
        ("chardev", id) if !id.is_empty() => SerialConfig::Named(id.into()),
        ("unix" | "tcp" | "telnet", rest) if !rest.is_empty() => socket(kind, rest)?,
        _ => {
            return Err(
                "not supported; there are stdio, mon:DEVICE, file:PATH, pipe:PATH, pty, \
                 unix:PATH, tcp:HOST:PORT, telnet:HOST:PORT (each with ,server=on,wait=off), \
                 chardev:ID, null, none"
                    .into(),
            );
        }
    })
}

/// The terminal or socket that COM1 shares with the monitor.
pub(in crate::system) fn shared(backend: SerialConfig) -> SerialConfig {
    SerialConfig::Mux(MuxConfig {
        id: SHARED.into(),
        backend: Box::new(backend),
    })
}

/// Whether a monitor belongs to this host end.
pub(in crate::system) fn has_monitor(host: &SerialConfig) -> bool {
    matches!(host, SerialConfig::Mux(mux) if mux.id == SHARED)
}

/// `unix:PATH`, `tcp:HOST:PORT`, `telnet:HOST:PORT`, each with options behind.
fn socket(kind: &str, rest: &str) -> Result<SerialConfig, String> {
    let mut words = keyval::parse(rest).into_iter();
    let place = match words.next() {
        Some((place, None)) => place,
        Some((place, Some(value))) => format!("{place}={value}"),
        None => return Err("an address is missing".into()),
    };
    let pair = |key: &str, value: &str| (key.to_string(), value.to_string());
    let mut properties = Properties::default();
    match kind {
        "unix" => properties.words.push(pair("path", &place)),
        _ => {
            let (host, port) = place
                .rsplit_once(':')
                .ok_or_else(|| format!("'{place}' is not HOST:PORT"))?;
            let host = host.trim_start_matches('[').trim_end_matches(']');
            properties.words.push(pair("host", host));
            properties.words.push(pair("port", port));
        }
    }
    if kind == "telnet" {
        properties.words.push(pair("telnet", "on"));
    }
    let backend = by_name("socket")?;
    for (key, value) in words {
        let (key, value) =
            super::flag(key, value).map_err(|key| format!("{key}= needs a value"))?;
        // It always is: somebody types.
        if kind != "unix" && key == "nodelay" && value == "on" {
            continue;
        }
        if !matches!(&*key, "server" | "wait" | "telnet") {
            let list = "there are server=, wait=, telnet=, nodelay=on (TCP)";
            return Err(format!("an address has no property '{key}'; {list}"));
        }
        properties.words.push((key, value));
    }
    (backend.open)(&properties)
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine::{SocketAddress, SocketConfig};

    #[test]
    fn addresses_are_qemus() {
        let socket = |text: &str| match parse(text, "x") {
            Ok(SerialConfig::Socket(socket)) => socket,
            other => panic!("{text}: {other:?}"),
        };
        let unix = SocketAddress::Unix("/tmp/a".into());
        let server = SocketConfig {
            address: unix.clone(),
            server: true,
            wait: false,
            telnet: false,
        };
        assert_eq!(socket("unix:/tmp/a,server=on,wait=off"), server);
        assert_eq!(socket("unix:/tmp/a,server,nowait"), server);
        let delay = socket("tcp:a:1,server,nowait,nodelay");
        assert!(delay.server && !delay.wait);
        let client = socket("unix:/tmp/a");
        assert_eq!((client.server, client.wait), (false, false));
        let telnet = socket("telnet::5555,server=on");
        let (host, port) = (String::new(), 5555);
        assert_eq!(telnet.address, SocketAddress::Inet { host, port });
        assert!(telnet.telnet && telnet.wait);
        let v6 = socket("tcp:[::1]:80");
        let (host, port) = ("::1".into(), 80);
        assert_eq!(v6.address, SocketAddress::Inet { host, port });
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, why) in [
            ("tcp:5", "not HOST:PORT"),
            ("tcp:a:70000", "from 0 to 65535"),
            ("telnet:a:1", "server=on"),
            ("unix:/x,delay=on", "no property 'delay'"),
            ("unix:/x,nodelay", "no property 'nodelay'"),
            ("tcp:a:1,nodelay=off", "no property 'nodelay'"),
            ("unix:", "not supported"),
            ("mon:mon:stdio", "not supported"),
        ] {
            let error = parse(text, "x").unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
