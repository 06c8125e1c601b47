//! `-netdev`, `-nic` and `-net`: networks, and adapters on them.

mod hub;
mod stream;
mod tap;
mod user;

pub(super) use hub::{Hub, net, resolve};

use super::device;
use super::keyval;
use super::parse::Options;
use crate::near::did_you_mean;
use machine::{NetdevConfig, NetdevKind};

/// A word of an option: a key and perhaps its value.
type Word = (String, Option<String>);

/// A type of network.
struct Type {
    name: &'static str,
    parse: fn(Vec<Word>) -> Result<NetdevKind, String>,
}

/// Every type.
const TYPES: [Type; 3] = [
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
    adapter.add(options, Some(&id))
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
        _ => return Err("begins with the network's type: user, tap or stream".into()),
    };
    Ok((name, words.collect()))
}

/// Takes what `key` says out of the words.
fn take(words: &mut Vec<Word>, key: &str) -> Result<Option<String>, String> {
    let Some(at) = words.iter().position(|(k, _)| k == key) else {
        return Ok(None);
    };
    let (_, value) = words.remove(at);
    value.map(Some).ok_or_else(|| format!("{key}= needs a value"))
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
    fn add(&self, options: &mut Options, netdev: Option<&str>) -> Result<(), String> {
        let mmio = options.config.board.pci.is_none();
        let model = match self.model.as_deref() {
            None | Some("virtio") if mmio => "virtio-net-device",
            None | Some("virtio") => "virtio-net-pci",
            Some(model) => model,
        };
        let mut text = model.to_string();
        for (key, value) in [("netdev", netdev), ("mac", self.mac.as_deref())] {
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
