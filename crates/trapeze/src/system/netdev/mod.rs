//! `-netdev`, `-nic` and `-net`: networks, and adapters on them.

mod dgram;
mod dump;
mod hub;
mod socket;
mod stream;
mod tap;
mod user;
mod vhost_user;

pub(super) use dump::{PROPERTIES as DUMP_PROPERTIES, apply as dump};
pub(super) use hub::{Hub, net, resolve};
pub(super) use user::host_forward;
pub(super) use vhost_user::resolve as find_back_ends;

use super::device;
use super::keyval;
use super::parse::Options;
use crate::near::did_you_mean;
use machine::{NetdevConfig, NetdevKind};
use std::net::{SocketAddr, SocketAddrV4, ToSocketAddrs};

/// A word of an option: a key and perhaps its value.
type Word = (String, Option<String>);

/// A type of network.
struct Type {
    name: &'static str,
    parse: fn(Vec<Word>) -> Result<NetdevKind, String>,
}

/// Every type.
const TYPES: [Type; 7] = [
    Type {
        name: "user",
        parse: user::parse,
    },
    Type {
        name: "tap",
        parse: tap::parse,
    },
    Type {
        name: "stream",
        parse: stream::parse,
    },
    Type {
        name: "dgram",
        parse: dgram::parse,
    },
    Type {
        name: "socket",
        parse: socket::parse,
    },
    Type {
        name: "hubport",
        parse: hub::port,
    },
    Type {
        name: "vhost-user",
        parse: vhost_user::parse,
    },
];

/// Models of adapters that there are; QEMU's others are refused by name.
const MODELS: [&str; 3] = ["virtio-net-pci", "virtio", "virtio-net-device"];

/// `-netdev`.
pub(super) fn apply(options: &mut Options, value: &str) -> Result<(), String> {
    let (name, mut words) = type_and_words(value)?;
    let id = take(&mut words, "id")?.ok_or("id= is missing")?;
    let id = keyval::id(&id).map_err(|why| format!("id={id}: {why}"))?;
    add(options, id, &name, words)
}

/// `-nic`: a network and an adapter on it.
pub(super) fn nic(options: &mut Options, value: &str) -> Result<(), String> {
    let (name, mut words) = type_and_words(value)?;
    if name == "none" && words.is_empty() {
        return Ok(());
    }
    let adapter = Adapter::take(&mut words)?;
    let asked = take(&mut words, "id")?;
    let id = match asked {
        Some(id) => keyval::id(&id).map_err(|why| format!("id={id}: {why}"))?,
        None => format!("net{}", options.config.netdevs.len()),
    };
    add(options, id.clone(), &name, words)?;
    options.hubs.plugged.push((adapter, id));
    Ok(())
}

/// Adds the network `id` of the type `name`.
fn add(options: &mut Options, id: String, name: &str, words: Vec<Word>) -> Result<(), String> {
    let Some(found) = TYPES.iter().find(|t| t.name == name) else {
        let near = did_you_mean(name, TYPES.iter().map(|t| t.name));
        let all = TYPES.map(|t| t.name).join(", ");
        return Err(format!(
            "there is no network of type '{name}'{near}; there are {all}"
        ));
    };
    if options.config.netdevs.iter().any(|n| n.id == id) {
        return Err(format!("two networks have the id '{id}'"));
    }
    let kind = (found.parse)(words)?;
    options.config.netdevs.push(NetdevConfig { id, kind });
    Ok(())
}

/// The type comes first, with or without its key.
fn type_and_words(value: &str) -> Result<(String, Vec<Word>), String> {
    let mut words = keyval::parse(value).into_iter();
    let name = match words.next() {
        Some((name, None)) => name,
        Some((key, Some(name))) if key == "type" => name,
        _ => {
            let all = TYPES.map(|t| t.name).join(", ");
            return Err(format!("begins with the network's type: {all}"));
        }
    };
    Ok((name, words.collect()))
}

/// Takes what `key` says out of the words.
fn take(words: &mut Vec<Word>, key: &str) -> Result<Option<String>, String> {
    let Some(at) = words.iter().position(|(k, _)| k == key) else {
        return Ok(None);
    };
    let (_, value) = words.remove(at);
    value
        .map(Some)
        .ok_or_else(|| format!("{key}= needs a value"))
}

/// What `-nic` and `-net nic` say of an adapter.
#[derive(Debug, Default)]
struct Adapter {
    model: Option<String>,
    mac: Option<String>,
}

impl Adapter {
    fn take(words: &mut Vec<Word>) -> Result<Self, String> {
        let model = take(words, "model")?;
        if let Some(model) = model.as_deref().filter(|m| !MODELS.contains(m)) {
            let near = did_you_mean(model, MODELS.into_iter());
            return Err(format!(
                "model={model}: there is no such adapter{near}; there is virtio-net-pci"
            ));
        }
        let (mac, old) = (take(words, "mac")?, take(words, "macaddr")?);
        Ok(Self {
            model,
            mac: mac.or(old),
        })
    }

    /// Adds it as `-device` would.
    fn add(&self, options: &mut Options, netdev: &str) -> Result<(), String> {
        let mmio = options.config.board.pci.is_none();
        let model = match self.model.as_deref() {
            None | Some("virtio") if mmio => "virtio-net-device",
            None | Some("virtio") => "virtio-net-pci",
            Some(model) => model,
        };
        let mut text = model.to_string();
        for (key, value) in [("netdev", Some(netdev)), ("mac", self.mac.as_deref())] {
            if let Some(value) = value {
                text += &format!(",{key}={}", value.replace(',', ",,"));
            }
        }
        device::apply(options, &text)
    }
}

/// The properties of a network: each key may have one of these.
fn unknown(key: &str, known: &[&'static str]) -> String {
    let near = did_you_mean(key, known.iter().copied());
    format!("there is no property '{key}'{near}")
}

/// A number in `range`.
fn number<T>(key: &str, value: &str) -> Result<T, String>
where
    T: std::str::FromStr,
{
    value
        .parse()
        .map_err(|_| format!("{key}={value}: that is no number for it"))
}

/// `[ADDRESS]:PORT`, a name or an IPv6 address in brackets.
fn host_and_port(key: &str, text: &str) -> Result<(String, u16), String> {
    let wrong = || format!("{key}={text}: takes [ADDRESS]:PORT");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let inside = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let port = port.parse().map_err(|_| wrong())?;
    Ok((inside.unwrap_or(host).into(), port))
}

/// The address that a host's name stands for.
fn resolved(key: &str, host: &str, port: u16) -> Result<SocketAddr, String> {
    let found = (host, port).to_socket_addrs();
    let found = found.map_err(|e| format!("{key}={host}: {e}"))?;
    // QEMU's networks are IPv4 where both would do.
    let all: Vec<_> = found.collect();
    let first = all.iter().find(|a| a.is_ipv4()).or(all.first());
    let first = first.ok_or_else(|| format!("{key}={host}: there is no such host"))?;
    Ok(*first)
}

/// The address of a group.
fn group(key: &str, address: SocketAddr) -> Result<SocketAddrV4, String> {
    match address {
        SocketAddr::V4(group) if group.ip().is_multicast() => Ok(group),
        other => Err(format!(
            "{key}={}: takes an IPv4 address of a group, 224.0.0.0 to 239.255.255.255",
            other.ip()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::Personality;
    use machine::DeviceModel;

    /// What the words of a command line make: ids of networks, and for each adapter
    /// its network and address's last byte.
    type Made = (Vec<String>, Vec<(Option<String>, u8)>);

    fn made(words: &[&str]) -> Result<Made, String> {
        let mut options = Options::new(Personality::Trapeze);
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        options.parse(&words)?;
        let ids = options.config.netdevs.iter().map(|n| n.id.clone());
        let adapters = options.config.devices.iter();
        let adapters = adapters.filter_map(|d| match &d.model {
            DeviceModel::VirtioNet(net) => Some((net.netdev.clone(), net.options.mac[5])),
            _ => None,
        });
        Ok((ids.collect(), adapters.collect()))
    }

    #[test]
    fn every_way_to_say_it() {
        let one = |id: &str, mac| (vec![id.to_string()], vec![(Some(id.to_string()), mac)]);
        let mac = "52:54:00:12:34:99";
        for (words, want) in [
            (&["-nic", "user"][..], one("net0", 0x56)),
            (
                &["-nic", "user,model=virtio,mac=52:54:00:12:34:99"],
                one("net0", 0x99),
            ),
            (&["-net", "nic", "-net", "user"], one("net0", 0x56)),
            (
                &["-net", "user,vlan=3", "-net", "nic,vlan=3"],
                one("net0", 0x56),
            ),
            (
                &[
                    "-netdev",
                    "type=user,id=up",
                    "-device",
                    "virtio-net-pci,netdev=up",
                ],
                one("up", 0x56),
            ),
            (
                &[
                    "-netdev",
                    "user,id=up",
                    "-net",
                    "nic,netdev=up,macaddr=52:54:00:12:34:99",
                ],
                one("up", 0x99),
            ),
            (&["-nic", "none"], (vec![], vec![])),
            (&["-net", "none"], (vec![], vec![])),
        ] {
            assert_eq!(made(words), Ok(want), "{words:?} {mac}");
        }
        let two = made(&["-nic", "user", "-M", "microvm", "-nic", "user"]);
        assert_eq!(two.expect("two").1.len(), 2);
        let wrong = made(&["-nic", "user,mac=52"]).expect_err("no address");
        assert!(wrong.starts_with("-nic: "), "{wrong}");
    }

    #[test]
    fn more_than_two_meet_at_a_hub() {
        let words = ["-net", "nic", "-net", "user", "-net", "nic"];
        let (ids, adapters) = made(&words).expect("a hub of three");
        assert_eq!(ids, ["net0", "hub0port0", "hub0port1", "hub0port2"]);
        let ports: Vec<_> = adapters.into_iter().map(|a| a.0).collect();
        let named = |id: &str| Some(id.to_string());
        assert_eq!(ports, [named("hub0port1"), named("hub0port2")]);
        let two = ["-net", "nic,vlan=1", "-net", "nic,vlan=1"];
        assert_eq!(made(&two).expect("guests only").0.len(), 2);
        let port = ["-netdev", "hubport,id=p,hubid=0", "-net", "nic"];
        assert_eq!(made(&port).expect("a port each").0, ["p", "hub0port0"]);
        let apart = made(&["-net", "nic,vlan=2", "-net", "user,vlan=1"]);
        assert!(apart.expect_err("two hubs").contains("(vlan=1)"));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (words, named) in [
            (&["-netdev", "user"][..], "id= is missing"),
            (&["-netdev", "slirp,id=a"], "there are user, tap, stream"),
            (
                &["-netdev", "user,id=a", "-netdev", "user,id=a"],
                "two networks",
            ),
            (&["-nic", "user,model=e1000"], "model=e1000"),
            (&["-net", "nic"], "adapter without a network"),
            (&["-net", "user"], "network without an adapter"),
            (&["-net", "nic,vlan=1", "-net", "user"], "without"),
            (&["-net", "nic,speed=10", "-net", "user"], "'speed'"),
            (
                &["-netdev", "tap,id=a,vhost=on"],
                "vhost=on is not supported",
            ),
            (&["-netdev", "tap,id=a,fd=5,ifname=b"], "ifname="),
            (&["-netdev", "stream,id=a"], "addr.type= is missing"),
            (
                &["-netdev", "stream,id=a,addr.type=vsock"],
                "unix, inet or fd",
            ),
            (
                &["-netdev", "stream,id=a,addr.type=fd,addr.str=5,server=on"],
                "a connection already",
            ),
            (&["-netdev", "hubport,id=a"], "hubid= is missing"),
            (
                &["-netdev", "hubport,id=a,hubid=x"],
                "hubid=x: that is no number",
            ),
            (
                &["-object", "filter-dmp,id=f"],
                "did you mean 'filter-dump'",
            ),
        ] {
            let why = made(words).expect_err(named);
            assert!(why.contains(named), "{words:?}: {why}");
        }
    }

    #[test]
    fn queues_and_back_ends_that_cannot_be_are_refused() {
        for (words, named) in [
            (
                &["-netdev", "tap,id=a,queues=0"][..],
                "queues=0: takes 1 to 256",
            ),
            (
                &["-netdev", "tap,id=a,queues=9999"],
                "queues=9999: takes 1 to 256",
            ),
            (
                &["-netdev", "tap,id=a,fd=5,queues=2"],
                "fds=A:B:... names several",
            ),
            (&["-netdev", "tap,id=a,fds=5:x"], "fds=x: that is no number"),
            (&["-netdev", "tap,id=a,fds="], "fds=: that is no number"),
            (&["-netdev", "user,id=a,queues=2"], "'queues'"),
            (&["-netdev", "vhost-user,id=a"], "chardev= is missing"),
            (
                &["-netdev", "vhost-user,id=a,chardev=c"],
                "there is no chardev 'c'",
            ),
            (
                &["-netdev", "vhost-user,id=a,chardev=c,queues=0"],
                "queues=0: takes 1 to 128",
            ),
            (
                &[
                    "-chardev",
                    "null,id=c",
                    "-netdev",
                    "vhost-user,id=a,chardev=c",
                ],
                "-chardev socket,id=c,path=",
            ),
            (
                &[
                    "-chardev",
                    "socket,id=c,path=/s,server=on,wait=off",
                    "-netdev",
                    "vhost-user,id=a,chardev=c",
                ],
                "server=on is not supported",
            ),
            (
                &[
                    "-chardev",
                    "socket,id=c,path=/s",
                    "-netdev",
                    "vhost-user,id=a,chardev=c",
                    "-netdev",
                    "vhost-user,id=b,chardev=c",
                ],
                "chardev 'c' is in use",
            ),
        ] {
            let why = made(words).expect_err(named);
            assert!(why.contains(named), "{words:?}: {why}");
        }
    }
}
