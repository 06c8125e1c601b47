//! `-net`: adapters and networks that meet because they were named with the same
//! number.

use super::{Adapter, Word, add, take, type_and_words};
use crate::system::parse::Options;
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

/// Plugs each adapter into the network of its number.
pub(in crate::system) fn resolve(options: &mut Options) -> Result<(), String> {
    let Hub { ends, plugged } = std::mem::take(&mut options.hubs);
    for (adapter, network) in plugged {
        let added = adapter.add(options, &network);
        added.map_err(|why| format!("-nic: {why}"))?;
    }
    for (number, ends) in ends {
        let refused = |why: &str| Err(format!("-net: {why} (vlan={number})"));
        match (&*ends.adapters, &*ends.networks) {
            ([], _) => return refused("a network without an adapter: -net nic is missing"),
            ([adapter], [network]) => match adapter.add(options, network) {
                Ok(()) => {}
                Err(why) => return refused(&why),
            },
            (_, []) => return refused("an adapter without a network: -net user is missing"),
            _ => {
                return refused(
                    "more than one adapter and one network on a hub are not supported; \
                     -nic gives each adapter a network of its own",
                );
            }
        }
    }
    Ok(())
}
