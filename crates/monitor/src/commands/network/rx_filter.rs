//! Which frames the drivers of adapters want.

use super::{adapters, mac};
use crate::command::*;
use crate::target::Target;
use machine::{RxFilter, RxMode};
use serde_json::{Value, json};

const MODE: Type = Type::Choice(&["normal", "none", "all"]);

/// What is returned.
pub(super) const TYPE: Type = Type::List(&Type::Object(&[
    must("name", Type::Text),
    must("promiscuous", Type::Bool),
    must("multicast", MODE),
    must("unicast", MODE),
    must("vlan", MODE),
    must("broadcast-allowed", Type::Bool),
    must("multicast-overflow", Type::Bool),
    must("unicast-overflow", Type::Bool),
    must("main-mac", Type::Text),
    must("vlan-table", Type::List(&Type::Int)),
    must("unicast-table", Type::List(&Type::Text)),
    must("multicast-table", Type::List(&Type::Text)),
]));

/// Of one adapter, or of all.
pub(super) fn query(target: &Target, asked: Option<&str>) -> Answer {
    let machine = &target.machine;
    let mut rows = Vec::new();
    for (name, _, netdev) in adapters(target) {
        if asked.is_some_and(|asked| asked != name) {
            continue;
        }
        let link = netdev.and_then(|netdev| machine.link(&netdev));
        let filter = link.and_then(|link| link.rx_filter());
        rows.extend(filter.map(|filter| row(&name, &filter)));
    }
    match asked {
        Some(name) if rows.is_empty() => {
            let netdev = machine.link(name).is_some();
            let why = if netdev {
                format!("net client({name}) isn't a NIC")
            } else {
                format!("invalid net client name '{name}'")
            };
            Err(why.into())
        }
        _ => Ok(rows.into()),
    }
}

fn mode(mode: RxMode) -> &'static str {
    match mode {
        RxMode::None => "none",
        RxMode::Normal => "normal",
        RxMode::All => "all",
    }
}

fn row(name: &str, filter: &RxFilter) -> Value {
    let table = |table: &[[u8; 6]]| table.iter().map(|a| mac(*a).into()).collect::<Vec<Value>>();
    json!({
        "name": name,
        "promiscuous": filter.promiscuous,
        "multicast": mode(filter.multicast),
        "unicast": mode(filter.unicast),
        // There is no filter by VLANs.
        "vlan": "all",
        "vlan-table": [],
        "broadcast-allowed": filter.broadcast,
        "multicast-overflow": filter.multicast_overflow,
        "unicast-overflow": filter.unicast_overflow,
        "main-mac": mac(filter.mac),
        "unicast-table": table(&filter.unicast_table),
        "multicast-table": table(&filter.multicast_table),
    })
}
