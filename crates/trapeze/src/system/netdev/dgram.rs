//! `-netdev dgram`.

use super::{Word, group, number, resolved, take, unknown};
use machine::NetdevKind;
use net::DgramConfig;
use std::net::{Ipv4Addr, SocketAddr};

const KEYS: [&str; 10] = [
    "local.type",
    "local.host",
    "local.port",
    "local.path",
    "local.str",
    "remote.type",
    "remote.host",
    "remote.port",
    "remote.path",
    "remote.str",
];

/// One side.
enum End {
    Inet(SocketAddr),
    /// An interface: an address without a port.
    Interface(SocketAddr),
    Unix(String),
    Opened(i32),
}

pub(super) fn parse(mut words: Vec<Word>) -> Result<NetdevKind, String> {
    let (local, remote) = (end(&mut words, "local")?, end(&mut words, "remote")?);
    if let Some((key, _)) = words.first() {
        return Err(match KEYS.contains(&&**key) {
            true => format!("{key}= does not go with that type of address"),
            false => unknown(key, &KEYS),
        });
    }
    between(local, remote).map(NetdevKind::Dgram)
}

fn end(words: &mut Vec<Word>, side: &str) -> Result<Option<End>, String> {
    let Some(kind) = take(words, &format!("{side}.type"))? else {
        return Ok(None);
    };
    let mut need = |key: &str| {
        let key = format!("{side}.{key}");
        let value = take(words, &key)?;
        let value = value.ok_or_else(|| format!("{key}= is missing"))?;
        Ok::<_, String>((key, value))
    };
    Ok(Some(match &*kind {
        "inet" => {
            let (key, host) = need("host")?;
            // QEMU's examples leave it out for an interface.
            match take(words, &format!("{side}.port"))? {
                Some(port) => {
                    let port = number(&format!("{side}.port"), &port)?;
                    End::Inet(resolved(&key, &host, port)?)
                }
                None if side == "local" => End::Interface(resolved(&key, &host, 0)?),
                None => return Err(format!("{side}.port= is missing")),
            }
        }
        "unix" => End::Unix(need("path")?.1),
        "fd" => {
            let (key, fd) = need("str")?;
            End::Opened(number(&key, &fd)?)
        }
        other => return Err(format!("{side}.type={other}: takes inet, unix or fd")),
    }))
}

fn between(local: Option<End>, remote: Option<End>) -> Result<DgramConfig, String> {
    let many = |to: &SocketAddr| to.ip().is_multicast();
    match (local, remote) {
        (local, Some(End::Inet(to))) if many(&to) => {
            let group = group("remote.host", to)?;
            let interface = match local {
                None => Ipv4Addr::UNSPECIFIED,
                Some(End::Inet(SocketAddr::V4(local)) | End::Interface(SocketAddr::V4(local))) => {
                    *local.ip()
                }
                Some(End::Opened(fd)) => {
                    let group = Some(group);
                    return Ok(DgramConfig::Opened { fd, group });
                }
                Some(_) => return Err("a group takes local.type=inet with IPv4, or fd".into()),
            };
            Ok(DgramConfig::Multicast { group, interface })
        }
        (Some(End::Inet(local)), Some(End::Inet(remote))) => Ok(DgramConfig::Udp { local, remote }),
        (Some(End::Interface(_)), Some(End::Inet(_))) => Err("local.port= is missing".into()),
        (Some(End::Unix(local)), Some(End::Unix(remote))) => Ok(DgramConfig::Unix {
            local: local.into(),
            remote: remote.into(),
        }),
        (Some(End::Opened(fd)), None) => Ok(DgramConfig::Opened { fd, group: None }),
        (Some(End::Opened(_)), Some(_)) => {
            Err("local.type=fd is connected already: remote= is for a group only".into())
        }
        (None, _) => Err("local.type= is missing".into()),
        (_, None) => Err("remote.type= is missing".into()),
        _ => Err("local.type= and remote.type= have to be the same".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::keyval;

    fn dgram(text: &str) -> Result<DgramConfig, String> {
        match parse(keyval::parse(text))? {
            NetdevKind::Dgram(config) => Ok(config),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn only_an_interface_has_no_port() {
        let ends = "local.type=inet,local.host=127.0.0.1,remote.type=inet,remote.host=127.0.0.1";
        assert_eq!(
            dgram(&format!("{ends},remote.port=1")),
            Err("local.port= is missing".into())
        );
        assert_eq!(
            dgram(&format!("{ends},local.port=1")),
            Err("remote.port= is missing".into())
        );
        let why = dgram(&format!("{ends},local.port=,remote.port=1"));
        assert!(why.is_err_and(|why| why.starts_with("local.port=")));
    }

    #[test]
    fn each_kind() {
        let inet = "local.type=inet,local.host=127.0.0.1,local.port=2,remote.type=inet";
        assert_eq!(
            dgram(&format!("{inet},remote.host=127.0.0.1,remote.port=1")).map(|c| c.to_string()),
            Ok("udp 127.0.0.1:2 to 127.0.0.1:1".into())
        );
        let group = "remote.type=inet,remote.host=230.0.0.1,remote.port=5";
        let to: std::net::SocketAddrV4 = "230.0.0.1:5".parse().expect("an address");
        assert_eq!(
            dgram(&format!("{group},local.type=inet,local.host=127.0.0.1")),
            Ok(DgramConfig::Multicast {
                group: to,
                interface: Ipv4Addr::LOCALHOST
            })
        );
        assert_eq!(
            dgram(&format!("{group},local.type=fd,local.str=9")),
            Ok(DgramConfig::Opened {
                fd: 9,
                group: Some(to)
            })
        );
        let unix = "local.type=unix,local.path=/a,remote.type=unix,remote.path=/b";
        assert_eq!(dgram(unix).map(|c| c.to_string()), Ok("/a to /b".into()));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (text, named) in [
            ("", "local.type= is missing"),
            ("local.type=unix", "local.path= is missing"),
            ("local.type=unix,local.path=/a", "remote.type= is missing"),
            ("local.type=vsock", "takes inet, unix or fd"),
            (
                "local.type=unix,local.path=/a,remote.type=fd,remote.str=3",
                "have to be the same",
            ),
            (
                "local.type=fd,local.str=5,remote.type=unix,remote.path=/b",
                "remote= is for a group only",
            ),
            (
                "local.type=fd,local.str=5,local.path=/x",
                "local.path= does not go with",
            ),
            ("local.type=fd,local.str=5,locl.path=/x", "'locl.path'"),
            (
                "remote.type=inet,remote.host=ff02::1,remote.port=5",
                "an IPv4 address of a group",
            ),
        ] {
            let why = dgram(text).expect_err(named);
            assert!(why.contains(named), "{text}: {why}");
        }
    }
}
