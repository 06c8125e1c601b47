//! `-net`: adapters and networks that meet because they were named with the same
//! number.

use super::{Adapter, Word, add, take, type_and_words};
use crate::system::parse::Options;
use machine::{NetdevConfig, NetdevKind};
use std::collections::BTreeMap;

/// What `-net` named, by the number of the hub (once called a VLAN).
#[derive(Debug, Default)]
pub(in crate::system) struct Hub {
    ends: BTreeMap<u32, Ends>,
    /// Adapters whose networks are known. Which models they are depends on the board,
    /// which may be named later.
    pub(super) plugged: Vec<(Adapter, String)>,
}

#[derive(Debug, Default)]
struct Ends {
    adapters: Vec<Adapter>,
    /// Ids of networks.
    networks: Vec<String>,
}

/// `-net`.
pub(in crate::system) fn net(options: &mut Options, value: &str) -> Result<(), String> {
    let (name, mut words) = type_and_words(value)?;
    if name == "none" && words.is_empty() {
        return Ok(());
    }
    let number = match take(&mut words, "vlan")? {
        None => 0,
        Some(number) => super::number("vlan", &number)?,
    };
    if name == "nic" {
        return adapter(options, number, words);
    }
    let id = match (take(&mut words, "name")?, take(&mut words, "id")?) {
        (Some(id), _) | (None, Some(id)) => id,
        _ => format!("net{}", options.config.netdevs.len()),
    };
    add(options, id.clone(), &name, words)?;
    options
        .hubs
        .ends
        .entry(number)
        .or_default()
        .networks
        .push(id);
    Ok(())
}

/// `-net nic`.
fn adapter(options: &mut Options, number: u32, mut words: Vec<Word>) -> Result<(), String> {
    let adapter = Adapter::take(&mut words)?;
    if let Some(id) = take(&mut words, "netdev")? {
        refuse_rest(&words)?;
        options.hubs.plugged.push((adapter, id));
        return Ok(());
    }
    refuse_rest(&words)?;
    let ends = options.hubs.ends.entry(number).or_default();
    ends.adapters.push(adapter);
    Ok(())
}

fn refuse_rest(words: &[Word]) -> Result<(), String> {
    match words.first() {
        None => Ok(()),
        Some((key, _)) => Err(super::unknown(
            key,
            &["model", "mac", "macaddr", "netdev", "vlan"],
        )),
    }
}

/// `-netdev hubport`.
pub(super) fn port(words: Vec<Word>) -> Result<NetdevKind, String> {
    let (mut hub, mut netdev) = (None, None);
    for (key, value) in words {
        let value = value.ok_or_else(|| format!("{key}= needs a value"))?;
        match &*key {
            "hubid" => hub = Some(super::number("hubid", &value)?),
            "netdev" => netdev = Some(value),
            key => return Err(super::unknown(key, &["hubid", "netdev"])),
        }
    }
    let hub = hub.ok_or("hubid= is missing")?;
    Ok(NetdevKind::HubPort { hub, netdev })
}

/// Plugs each adapter into the network of its number: one into one, or all into a
/// hub.
pub(in crate::system) fn resolve(options: &mut Options) -> Result<(), String> {
    let Hub { ends, plugged } = std::mem::take(&mut options.hubs);
    for (adapter, network) in plugged {
        let added = adapter.add(options, &network);
        added.map_err(|why| format!("-nic: {why}"))?;
    }
    for (number, ends) in ends {
        let joined = match (&*ends.adapters, &*ends.networks) {
            ([adapter], [network]) if !is_named(options, number) => adapter.add(options, network),
            _ => join(options, number, &ends),
        };
        joined.map_err(|why| format!("-net: {why} (vlan={number})"))?;
    }
    Ok(())
}

/// `-netdev hubport` is about this hub.
fn is_named(options: &Options, number: u32) -> bool {
    let mut kinds = options.config.netdevs.iter().map(|n| &n.kind);
    kinds.any(|kind| matches!(kind, NetdevKind::HubPort { hub, .. } if *hub == number))
}

/// Gives each end a port of the hub.
fn join(options: &mut Options, hub: u32, ends: &Ends) -> Result<(), String> {
    if !is_named(options, hub) {
        match (&*ends.adapters, &*ends.networks) {
            ([], _) => return Err("a network without an adapter: -net nic is missing".into()),
            ([_], []) => {
                return Err("an adapter without a network: -net user is missing".into());
            }
            _ => {}
        }
    }
    let networks = ends.networks.iter().map(|id| Some(id.clone()));
    let adapters = ends.adapters.iter().map(|_| None);
    let mut ports = Vec::new();
    for (n, netdev) in networks.chain(adapters).enumerate() {
        let id = format!("hub{hub}port{n}");
        if options.config.netdevs.iter().any(|other| other.id == id) {
            return Err(format!("two networks have the id '{id}'"));
        }
        let kind = NetdevKind::HubPort { hub, netdev };
        ports.push(id.clone());
        options.config.netdevs.push(NetdevConfig { id, kind });
    }
    let ports = ports.iter().skip(ends.networks.len());
    let mut plugs = ends.adapters.iter().zip(ports);
    plugs.try_for_each(|(adapter, port)| adapter.add(options, port))
}
