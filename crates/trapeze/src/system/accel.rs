//! The accelerators, one row each.

use super::Personality;
use crate::near::did_you_mean;
use std::sync::Arc;

/// One accelerator.
pub(crate) struct Row {
    /// Name for `-accel`.
    pub(crate) name: &'static str,
    /// QEMU's name for what takes its place.
    pub(crate) alias: Option<&'static str>,
    /// One line of help.
    pub(crate) help: &'static str,
    /// Starts it.
    pub(crate) open: fn() -> anyhow::Result<Arc<dyn hv::Hypervisor>>,
}

/// Every accelerator.
pub(crate) const ACCELERATORS: [Row; 2] = [
    Row {
        name: "soft",
        alias: Some("tcg"),
        help: "Trapeze's own engine, runs everywhere ('tcg' is another name for it)",
        open: || Ok(Arc::new(engine::Soft::new())),
    },
    Row {
        name: "kvm",
        alias: None,
        help: "hardware virtualization through /dev/kvm",
        open: || Ok(Arc::new(kvm::Kvm::new()?)),
    },
];

/// The accelerator called `name`.
pub(crate) fn by_name(name: &str) -> Result<&'static Row, String> {
    let found = ACCELERATORS
        .iter()
        .find(|r| r.name == name || r.alias == Some(name));
    found.ok_or_else(|| {
        let hint = did_you_mean(name, ACCELERATORS.iter().map(|r| r.name));
        format!("unknown accelerator '{name}'{hint}; there are {}", list())
    })
}

/// `soft, kvm, tcg`.
pub(crate) fn list() -> String {
    let aliases = ACCELERATORS.iter().filter_map(|r| r.alias);
    let names: Vec<&str> = ACCELERATORS.iter().map(|r| r.name).chain(aliases).collect();
    names.join(", ")
}

/// Opens the first of `rows` that works. Those that did not are reported only
/// if none does.
pub(crate) fn open(
    rows: &[&'static Row],
    personality: Personality,
) -> Result<Arc<dyn hv::Hypervisor>, String> {
    let defaults: Vec<&'static Row> = match personality {
        Personality::Trapeze => vec![&ACCELERATORS[0]],
        Personality::Qemu { accelerators, .. } => accelerators
            .iter()
            .filter_map(|n| by_name(n).ok())
            .collect(),
    };
    let rows = if rows.is_empty() { &defaults[..] } else { rows };
    let mut refusals = Vec::new();
    for row in rows {
        match (row.open)() {
            Ok(hypervisor) => return Ok(hypervisor),
            Err(why) => refusals.push(format!("accelerator {}: {why:#}", row.name)),
        }
    }
    Err(refusals.join("; "))
}
