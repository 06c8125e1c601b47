//! User-mode networks: what they have open.

use crate::command::*;
use crate::target::Target;
use machine::{NetdevKind, NetworkSocket, UserSocket};
use std::fmt::Write;

/// Of the commands for forwards: the network, which may be left out, and the rule.
pub(super) const ARGUMENTS: &[Argument] = &[
    need("arg1", Kind::Text),
    need("arg2", Kind::Text).optional(),
];

/// Nobody to ask.
pub(super) const NONE: &str = "no user mode network stack in use";

/// The columns, which are QEMU's.
const HEAD: &str =
    "  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n";

/// All of them: the hub, if they are on one, and the name.
fn all(target: &Target) -> Vec<(i64, String, NetworkSocket)> {
    let netdevs = target.machine.netdevs();
    let users = netdevs
        .iter()
        .filter(|n| matches!(n.kind, NetdevKind::User(_)));
    let hub_of = |id: &str| {
        let mut hubs = netdevs.iter().filter_map(|netdev| match &netdev.kind {
            NetdevKind::HubPort { hub, netdev } if netdev.as_deref() == Some(id) => Some(*hub),
            _ => None,
        });
        hubs.next().map_or(-1, i64::from)
    };
    let found = users.filter_map(|netdev| {
        let socket = target.machine.network(&netdev.id)?;
        Some((hub_of(&netdev.id), netdev.id.clone(), socket))
    });
    found.collect()
}

/// What the arguments name.
pub(super) fn named<'a>(
    target: &Target,
    arguments: &'a Arguments,
) -> Result<(NetworkSocket, &'a str), Failure> {
    let first = need_text(arguments, "arg1")?;
    let mut all = all(target).into_iter();
    let (found, rule) = match text_of(arguments, "arg2") {
        None => (all.next(), first),
        Some(rule) => {
            let found = all.find(|(_, id, _)| id == first);
            let found = found.ok_or_else(|| format!("'{first}' is not a user mode network"))?;
            (Some(found), rule)
        }
    };
    let (.., network) = found.ok_or(NONE)?;
    Ok((network, rule))
}

/// `info usernet`.
pub(super) fn table(target: &Target) -> Result<String, Failure> {
    let mut text = String::new();
    for (hub, id, network) in all(target) {
        let _ = writeln!(text, "Hub {hub} ({id}):");
        text += HEAD;
        let rows = network.ask(|user, idle| user.sockets(idle));
        for row in rows.unwrap_or_else(|| Err(NONE.into()))? {
            text += &line(&row);
        }
    }
    Ok(text)
}

fn line(row: &UserSocket) -> String {
    let state = format!("  {}[{}]", row.protocol, row.state);
    let from = match row.from.ip() {
        any if any.is_unspecified() => "*".into(),
        ip => ip.to_string(),
    };
    format!(
        "{state:<19} {:3} {from:>15} {:5} {:>15} {:5} {:5} {:5}\n",
        row.fd,
        row.from.port(),
        row.to.ip().to_string(),
        row.to.port(),
        row.from_guest,
        row.to_guest
    )
}
