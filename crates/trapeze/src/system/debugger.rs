//! `-gdb` and `-s`.

use super::chardev::short;
use super::parse::Options;
use gdb::{Place, Server};
use machine::{Machine, SerialConfig, SocketAddress};
use monitor::Target;
use std::sync::Arc;

/// What `-s` stands for.
pub(super) const DEFAULT: &str = "tcp::1234";

/// `-gdb`.
pub(super) fn apply(options: &mut Options, value: &str) -> Result<(), String> {
    let host = parse(value)?;
    if let (Some(_), Some(_)) = (&options.config.debugger, &host) {
        return Err("there is one already, and only one is supported".into());
    }
    options.config.debugger = host;
    Ok(())
}

/// As QEMU, a TCP socket is a server's and nobody waits; unlike QEMU's, one without
/// an address is on the loopback, since who connects can do anything.
fn parse(value: &str) -> Result<Option<SerialConfig>, String> {
    if value == "none" {
        return Ok(None);
    }
    if value.starts_with("mon:") {
        return Err("mon: is for serial ports".into());
    }
    let tcp = value.starts_with("tcp:");
    let enforced = match tcp {
        true => &format!("{value},server=on,wait=off"),
        false => value,
    };
    let mut host = short::parse(enforced, "gdb")?;
    if let SerialConfig::Socket(socket) = &mut host
        && let SocketAddress::Inet { host, .. } = &mut socket.address
        && tcp
        && host.is_empty()
    {
        *host = "127.0.0.1".into();
    }
    match host {
        SerialConfig::None => Err("null: no debugger can be there; write none".into()),
        SerialConfig::File(_) => Err("file: a debugger has to say something, too".into()),
        host => Ok(Some(host)),
    }
}

/// Lets debuggers connect if they were asked for.
pub(super) fn start(
    host: Option<SerialConfig>,
    machine: &Machine,
    target: &Arc<Target>,
    debuggable: bool,
) -> Result<Option<Server>, String> {
    let server = host.as_ref().and_then(SerialConfig::server);
    let place = match (server, machine.debugger_line()) {
        (Some(socket), _) => Place::Server(socket.clone()),
        (None, Some(line)) => Place::Line(line),
        (None, None) => return Ok(None),
    };
    if !debuggable {
        return Err(
            "-gdb: this accelerator cannot debug guests, nor can -d lockstep; -accel soft can"
                .into(),
        );
    }
    if server.is_some_and(|socket| socket.telnet) {
        return Err("-gdb: telnet changes bytes; use tcp:, or telnet=off".into());
    }
    let address = server.map(|socket| format!(" {}", socket.address));
    let monitored = target.clone();
    // gdb's `monitor` looks at the first vCPU: it says itself which one it means.
    let monitor = move |line: &str| monitor::execute(&monitored, &mut 0, line);
    Server::start(place, target.machine.clone(), Some(Box::new(monitor)))
        .map(Some)
        .map_err(|why| format!("-gdb{}: {why}", address.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine::SocketConfig;

    #[test]
    fn places_as_qemu_takes_them() {
        let socket = |text: &str| match parse(text) {
            Ok(Some(SerialConfig::Socket(socket))) => socket,
            other => panic!("{text}: {other:?}"),
        };
        let tcp = |host: &str, port| SocketConfig {
            address: SocketAddress::Inet {
                host: host.into(),
                port,
            },
            server: true,
            wait: false,
            telnet: false,
        };
        assert_eq!(socket(DEFAULT), tcp("127.0.0.1", 1234));
        assert_eq!(socket("tcp:0.0.0.0:1"), tcp("0.0.0.0", 1));
        assert_eq!(socket("tcp:[::1]:99,server=on"), tcp("::1", 99));
        assert_eq!(socket("tcp::9,server,nowait,nodelay"), tcp("127.0.0.1", 9));
        let unix = socket("unix:/a:b,server=on,wait=off");
        assert_eq!(unix.address, SocketAddress::Unix("/a:b".into()));
        assert!(unix.server && !unix.wait);
        assert!(!socket("unix:/a").server);
        assert!(matches!(parse("none"), Ok(None)));
        assert!(matches!(parse("stdio"), Ok(Some(SerialConfig::Stdio))));
        assert!(matches!(parse("pty"), Ok(Some(SerialConfig::Pty(_)))));
        let named = parse("chardev:gdb0");
        assert!(matches!(named, Ok(Some(SerialConfig::Named(id))) if id == "gdb0"));
    }

    #[test]
    fn others_are_refused_by_name() {
        for (value, why) in [
            ("", "not supported"),
            ("none,server=on", "not supported"),
            ("mon:stdio", "mon:"),
            ("null", "null:"),
            ("file:/x", "file:"),
            ("tcp:1234", "not HOST:PORT"),
            ("tcp::65536", "from 0 to 65535"),
            ("tcp::1,telnet=on,x=1", "no property 'x'"),
        ] {
            let said = parse(value).expect_err(value);
            assert!(said.contains(why), "{value}: {said}");
        }
    }
}
