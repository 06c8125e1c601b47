//! Networks.

mod rx_filter;
mod user;

use super::hotplug::words;
use crate::command::*;
use crate::target::Target;
use machine::{DeviceConfig, DeviceModel, NetdevConfig, NetdevKind};
use std::collections::BTreeSet;
use std::fmt::Write;

pub static COMMANDS: &[Command] = &[
    people(
        &["info network"],
        "the networks and their adapters",
        |context, _| Ok(networks(context.target).into()),
    ),
    both(
        "set_link",
        &["set_link"],
        "plug the cable of a network or an adapter in or out",
        |context, arguments| {
            let name = need_text(arguments, "name")?;
            let up = arguments.get("up").is_some_and(|up| up == true);
            let machine = &context.target.machine;
            let netdev = netdev_of(context.target, name).unwrap_or(name.into());
            let link = machine.link(&netdev).ok_or_else(|| {
                let text = format!("Device '{name}' not found");
                Failure::of(Class::DeviceNotFound, text)
            })?;
            link.set_up(up);
            done()
        },
    )
    .takes(&[need("name", Kind::Text), need("up", Kind::Switch)]),
    people(
        &["info usernet"],
        "the connections and forwards of user-mode networks",
        |context, _| Ok(user::table(context.target)?.into()),
    ),
    people(
        &["hostfwd_add"],
        "forward an address of the host's to the guest of a user-mode network, as hostfwd= does",
        |context, arguments| {
            let (network, rule) = user::named(context.target, arguments)?;
            let forward = context
                .target
                .maker
                .host_forward(rule)
                .map_err(|why| format!("invalid host forwarding rule '{rule}' ({why})"))?;
            let answer = network.ask(|user, idle| user.add_forward(idle, forward));
            answer
                .unwrap_or_else(|| Err(user::NONE.into()))
                .map_err(|why| format!("could not set up host forwarding rule '{rule}': {why}"))?;
            done()
        },
    )
    .takes(user::ARGUMENTS),
    people(
        &["hostfwd_remove"],
        "end that: [tcp|udp]:[ADDRESS]:PORT names it",
        |context, arguments| {
            let (network, rule) = user::named(context.target, arguments)?;
            // The guest's end does not matter.
            let forward = context.target.maker.host_forward(&format!("{rule}-:1"));
            let forward = forward.map_err(|_| format!("invalid format '{rule}'"))?;
            let answer = network
                .ask(|user, idle| user.remove_forward(idle, forward.transport, forward.host));
            let removed = answer.unwrap_or_else(|| Err(user::NONE.into()))?;
            let what = if removed { "removed" } else { "not found" };
            Ok(format!("host forwarding rule for {rule} {what}").into())
        },
    )
    .takes(user::ARGUMENTS),
    program(
        "query-rx-filter",
        "which frames the drivers of adapters want",
        |context, arguments| rx_filter::query(context.target, text_of(arguments, "name")),
    )
    .takes(&[need("name", Kind::Text).optional()])
    .returns(rx_filter::TYPE),
    both(
        "object-add",
        &["object_add"],
        "make an object, as -object describes it: filter-dump",
        |context, arguments| {
            let dump = context.target.maker.dump(&words(arguments))?;
            context.target.machine.add_dump(&dump)?;
            done()
        },
    )
    .takes(&[need("qom-type", Kind::Options("qom-type"))]),
    both(
        "object-del",
        &["object_del"],
        "end a filter-dump",
        |context, arguments| {
            let id = need_text(arguments, "id")?;
            match context.target.machine.remove_dump(id) {
                true => done(),
                false => Err(format!("object '{id}' not found").into()),
            }
        },
    )
    .takes(&[need("id", Kind::Text)]),
];

/// The machine's adapters: each one's name, as QEMU makes it up if need be, and its network.
fn adapters(target: &Target) -> Vec<(String, DeviceConfig, Option<String>)> {
    let mut unnamed = 0;
    let devices = target.machine.devices().into_iter();
    let adapters = devices.filter_map(|device| match &device.model {
        DeviceModel::VirtioNet(net) => {
            let name = device.id.clone().unwrap_or_else(|| {
                unnamed += 1;
                format!("{}.{}", device.model.name(), unnamed - 1)
            });
            let netdev = net.netdev.clone();
            Some((name, device, netdev))
        }
        _ => None,
    });
    adapters.collect()
}

/// The network that an adapter is on.
fn netdev_of(target: &Target, adapter: &str) -> Option<String> {
    let mut adapters = adapters(target).into_iter();
    adapters.find(|(name, ..)| name == adapter)?.2
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// What QEMU says of an adapter.
fn adapter(name: &str, device: &DeviceConfig) -> String {
    let mac = match &device.model {
        DeviceModel::VirtioNet(net) => mac(net.options.mac),
        _ => String::new(),
    };
    let model = device.model.name();
    format!("{name}: index=0,type=nic,model={model},macaddr={mac}")
}

/// What QEMU says of a network, and its counters.
fn network(target: &Target, netdev: &NetdevConfig) -> String {
    let id = &netdev.id;
    let mut text = format!("{id}: index=0,type={}", kind(&netdev.kind));
    let more = details(&netdev.kind);
    if !more.is_empty() {
        text += &format!(",{more}");
    }
    let Some(socket) = target.machine.network(id) else {
        return text;
    };
    let counters = socket.link.counters();
    let _ = write!(
        text,
        ",link={},sent={},received={},dropped={}",
        if socket.link.is_up() { "up" } else { "down" },
        counters.sent,
        counters.received,
        counters.not_sent + counters.not_received
    );
    let dumps = socket.dumps.configs();
    if !dumps.is_empty() {
        text += "\nfilters:";
    }
    for dump in dumps {
        let (file, most) = (dump.file.display(), dump.max_length);
        let of = "queue=all,status=on,insert=behind,position=tail";
        let _ = write!(
            text,
            "\n  - {}: type=filter-dump,file={file},maxlen={most},netdev={id},{of}",
            dump.id
        );
    }
    text
}

/// What kind of network it is in particular.
fn details(kind: &NetdevKind) -> String {
    match kind {
        NetdevKind::User(user) => {
            let restrict = if user.restrict { "on" } else { "off" };
            format!("net={},restrict={restrict}", user.net)
        }
        NetdevKind::Tap(tap) => tap
            .name
            .as_ref()
            .map_or(String::new(), |n| format!("ifname={n}")),
        NetdevKind::Stream(stream) => stream.address.to_string(),
        NetdevKind::Dgram(dgram) => dgram.to_string(),
        NetdevKind::Socket(socket) => socket.to_string(),
        NetdevKind::VhostUser(back_end) => format!("chardev={}", back_end.chardev),
        NetdevKind::HubPort { hub, .. } => format!("hubid={hub}"),
        NetdevKind::Nowhere => String::new(),
    }
}

/// Hubs with what is on their ports, then adapters and their networks, then networks
/// without adapters.
fn networks(target: &Target) -> String {
    let (netdevs, adapters) = (target.machine.netdevs(), adapters(target));
    let on = |id: &str| {
        adapters
            .iter()
            .find(|(.., netdev)| netdev.as_deref() == Some(id))
    };
    let mut lines = Vec::new();
    let hubs = netdevs.iter().filter_map(|netdev| match netdev.kind {
        NetdevKind::HubPort { hub, .. } => Some(hub),
        _ => None,
    });
    let hubs: BTreeSet<u32> = hubs.collect();
    let mut behind_hubs = Vec::new();
    for number in hubs {
        lines.push(format!("hub {number}"));
        for port in &netdevs {
            let NetdevKind::HubPort { hub, netdev } = &port.kind else {
                continue;
            };
            if *hub != number {
                continue;
            }
            let named = netdev
                .as_ref()
                .and_then(|id| netdevs.iter().find(|n| n.id == *id));
            let peer = match (named, on(&port.id)) {
                (Some(peer), _) => format!(": {}", network(target, peer)),
                (None, Some((name, device, _))) => format!(": {}", adapter(name, device)),
                (None, None) => String::new(),
            };
            behind_hubs.extend(named.map(|peer| &peer.id));
            lines.push(format!(" \\ {}{peer}", port.id));
        }
    }
    let is_port = |netdev: &&NetdevConfig| matches!(netdev.kind, NetdevKind::HubPort { .. });
    for (name, device, netdev) in &adapters {
        let peer = netdevs.iter().find(|n| netdev.as_ref() == Some(&n.id));
        if !peer.as_ref().is_some_and(is_port) {
            lines.push(adapter(name, device));
            lines.extend(peer.map(|peer| format!(" \\ {}", network(target, peer))));
        }
    }
    let alone = netdevs
        .iter()
        .filter(|n| !is_port(n) && on(&n.id).is_none());
    let alone = alone.filter(|n| !behind_hubs.contains(&&n.id));
    lines.extend(alone.map(|netdev| network(target, netdev)));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn kind(kind: &NetdevKind) -> &'static str {
    match kind {
        NetdevKind::Nowhere | NetdevKind::HubPort { .. } => "hubport",
        NetdevKind::User(_) => "user",
        NetdevKind::Tap(_) => "tap",
        NetdevKind::Stream(_) => "stream",
        NetdevKind::Dgram(_) => "dgram",
        NetdevKind::Socket(_) => "socket",
        NetdevKind::VhostUser(_) => "vhost-user",
    }
}
