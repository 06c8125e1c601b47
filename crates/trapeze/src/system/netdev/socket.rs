//! `-netdev socket`.

use super::{Word, group, host_and_port, number, resolved, take, unknown};
use machine::NetdevKind;
use net::{DgramConfig, SocketConfig, StreamAddress, StreamConfig};
use std::net::{Ipv4Addr, SocketAddr};

const KEYS: [&str; 6] = ["listen", "connect", "mcast", "udp", "fd", "localaddr"];

pub(super) fn parse(mut words: Vec<Word>) -> Result<NetdevKind, String> {
    let local = take(&mut words, "localaddr")?;
    let (key, value) = match &*words {
        [(key, Some(value))] => (&**key, &**value),
        _ => {
            let unknown_key = words.iter().find(|(key, _)| !KEYS.contains(&&**key));
            return Err(match unknown_key {
                Some((key, _)) => unknown(key, &KEYS),
                None => "takes one of listen=, connect=, mcast=, udp= and fd=".into(),
            });
        }
    };
    if local.is_some() && !matches!(key, "mcast" | "udp") {
        return Err("localaddr= goes with mcast= or udp= only".into());
    }
    Ok(NetdevKind::Socket(match key {
        "listen" | "connect" => SocketConfig::Stream(stream(key, value)?),
        "mcast" => SocketConfig::Dgram(multicast(value, local)?),
        "udp" => SocketConfig::Dgram(udp(value, local)?),
        "fd" => SocketConfig::Opened(number("fd", value)?),
        key => return Err(unknown(key, &KEYS)),
    }))
}

/// Without an address: all of the host's to listen, its own to connect.
fn stream(key: &str, value: &str) -> Result<StreamConfig, String> {
    let (mut host, port) = host_and_port(key, value)?;
    let server = key == "listen";
    if host.is_empty() {
        host = if server { "0.0.0.0" } else { "127.0.0.1" }.into();
    }
    Ok(StreamConfig {
        address: StreamAddress::Tcp(host, port),
        server,
        reconnect: None,
    })
}

fn multicast(value: &str, local: Option<String>) -> Result<DgramConfig, String> {
    let (host, port) = host_and_port("mcast", value)?;
    let group = group("mcast", resolved("mcast", &host, port)?)?;
    let interface = match local {
        None => Ipv4Addr::UNSPECIFIED,
        Some(local) => match resolved("localaddr", &local, 0)? {
            SocketAddr::V4(local) => *local.ip(),
            SocketAddr::V6(_) => return Err(format!("localaddr={local}: takes an IPv4 address")),
        },
    };
    Ok(DgramConfig::Multicast { group, interface })
}

fn udp(value: &str, local: Option<String>) -> Result<DgramConfig, String> {
    let local = local.ok_or("udp= needs localaddr=, too")?;
    let address = |key: &str, text: &str| {
        let (host, port) = host_and_port(key, text)?;
        let any = if host.is_empty() { "0.0.0.0" } else { &host };
        resolved(key, any, port)
    };
    Ok(DgramConfig::Udp {
        local: address("localaddr", &local)?,
        remote: address("udp", value)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::keyval;

    fn socket(text: &str) -> Result<SocketConfig, String> {
        match parse(keyval::parse(text))? {
            NetdevKind::Socket(config) => Ok(config),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn each_kind() {
        let tcp = |host: &str, server| {
            let address = StreamAddress::Tcp(host.into(), 1234);
            let reconnect = None;
            Ok(SocketConfig::Stream(StreamConfig {
                address,
                server,
                reconnect,
            }))
        };
        assert_eq!(socket("listen=:1234"), tcp("0.0.0.0", true));
        assert_eq!(socket("connect=:1234"), tcp("127.0.0.1", false));
        assert_eq!(socket("connect=[::1]:1234"), tcp("::1", false));
        let group = "230.0.0.1:1234".parse().expect("an address");
        let interface = Ipv4Addr::LOCALHOST;
        assert_eq!(
            socket("mcast=230.0.0.1:1234,localaddr=127.0.0.1"),
            Ok(SocketConfig::Dgram(DgramConfig::Multicast {
                group,
                interface
            }))
        );
        let (local, remote) = ("127.0.0.1:2".parse(), "127.0.0.1:1".parse());
        assert_eq!(
            socket("udp=127.0.0.1:1,localaddr=127.0.0.1:2"),
            Ok(SocketConfig::Dgram(DgramConfig::Udp {
                local: local.expect("an address"),
                remote: remote.expect("an address"),
            }))
        );
        assert_eq!(socket("fd=7"), Ok(SocketConfig::Opened(7)));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (text, named) in [
            ("", "one of listen="),
            ("listen=:1,connect=:2", "one of listen="),
            ("listen", "one of listen="),
            ("listne=:1", "'listne'; did you mean"),
            ("listen=1234", "takes [ADDRESS]:PORT"),
            ("connect=:99999", "takes [ADDRESS]:PORT"),
            ("connect=:1,localaddr=127.0.0.1", "goes with mcast= or udp="),
            ("udp=127.0.0.1:1", "needs localaddr="),
            ("mcast=127.0.0.1:1", "an IPv4 address of a group"),
            ("mcast=230.0.0.1:1,localaddr=::1", "takes an IPv4 address"),
            ("fd=x", "fd=x: that is no number"),
        ] {
            let why = socket(text).expect_err(named);
            assert!(why.contains(named), "{text}: {why}");
        }
    }
}
