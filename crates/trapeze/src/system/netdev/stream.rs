//! `-netdev stream`.

use super::{Word, number, take, unknown};
use crate::system::keyval::on_off;
use machine::NetdevKind;
use net::{StreamAddress, StreamConfig};
use std::time::Duration;

const KEYS: [&str; 8] = [
    "server",
    "addr.type",
    "addr.path",
    "addr.host",
    "addr.port",
    "addr.str",
    "reconnect",
    "reconnect-ms",
];

pub(super) fn parse(mut words: Vec<Word>) -> Result<NetdevKind, String> {
    let address = address(&mut words)?;
    let (mut server, mut reconnect) = (false, None);
    for (key, value) in words {
        let value = value.ok_or_else(|| format!("{key}= needs a value"))?;
        match &*key {
            "server" => server = on_off(&value)?,
            "reconnect" => reconnect = pause(Duration::from_secs(number(&key, &value)?)),
            "reconnect-ms" => reconnect = pause(Duration::from_millis(number(&key, &value)?)),
            key => return Err(unknown(key, &KEYS)),
        }
    }
    if matches!(address, StreamAddress::Opened(_)) && (server || reconnect.is_some()) {
        return Err(
            "addr.type=fd is a connection already: server= and reconnect= do not go with it".into(),
        );
    }
    if server && reconnect.is_some() {
        return Err("a server does not connect: reconnect= is for the other side".into());
    }
    Ok(NetdevKind::Stream(StreamConfig {
        address,
        server,
        reconnect,
    }))
}

/// 0: never.
fn pause(pause: Duration) -> Option<Duration> {
    (!pause.is_zero()).then_some(pause)
}

fn address(words: &mut Vec<Word>) -> Result<StreamAddress, String> {
    let missing = |key: &str| format!("{key}= is missing");
    let mut need = |key: &str| take(words, key)?.ok_or_else(|| missing(key));
    match &*need("addr.type")? {
        "unix" => Ok(StreamAddress::Unix(need("addr.path")?.into())),
        "inet" => {
            let (host, port) = (need("addr.host")?, need("addr.port")?);
            Ok(StreamAddress::Tcp(host, number("addr.port", &port)?))
        }
        "fd" => {
            let fd = need("addr.str")?;
            Ok(StreamAddress::Opened(number("addr.str", &fd)?))
        }
        other => Err(format!("addr.type={other}: takes unix, inet or fd")),
    }
}
