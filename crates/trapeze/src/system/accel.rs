//! The accelerators, one row each.

use super::Personality;
use crate::near::did_you_mean;
use anyhow::bail;
use std::sync::Arc;

/// One accelerator.
pub(crate) struct Row {
    /// Name for `-accel`.
    pub(crate) name: &'static str,
    /// QEMU's name for what takes its place.
    pub(crate) alias: Option<&'static str>,
    /// One line of help.
    pub(crate) help: &'static str,
    /// Sets a property of it, such as `translate=off`.
    pub(crate) set: fn(&mut engine::Options, &str) -> Result<(), String>,
    /// Starts it.
    pub(crate) open: fn(engine::Options) -> anyhow::Result<Arc<dyn hv::Hypervisor>>,
}

/// Every accelerator.
pub(crate) const ACCELERATORS: [Row; 2] = [
    Row {
        name: "soft",
        alias: Some("tcg"),
        help: "Trapeze's own engine, runs everywhere ('tcg' is another name for it)",
        set: set_soft,
        open: open_soft,
    },
    Row {
        name: "kvm",
        alias: None,
        help: "hardware virtualization through /dev/kvm",
        set: |_, property| {
            Err(format!(
                "property '{property}' is not supported; there are none"
            ))
        },
        open: open_kvm,
    },
];

fn set_soft(options: &mut engine::Options, property: &str) -> Result<(), String> {
    match property {
        "translate=on" => options.translate = true,
        "translate=off" => options.translate = false,
        _ => match property.strip_prefix("tb-size=") {
            Some(size) => options.code_cache = Some(tb_size(size)?),
            None => {
                let why = "is not supported; there are translate=on|off and tb-size=MIB";
                return Err(format!("property '{property}' {why}"));
            }
        },
    }
    Ok(())
}

/// Bytes from MiB, as QEMU's property has it.
fn tb_size(mib: &str) -> Result<usize, String> {
    let (least, most) = (1, engine::CODE_CACHE.end() >> 20);
    let fits = |n: &usize| (least..=most).contains(n);
    let found = mib.parse().ok().filter(fits).map(|n| n << 20);
    found.ok_or_else(|| format!("tb-size={mib} is not a number of MiB from {least} to {most}"))
}

fn open_soft(options: engine::Options) -> anyhow::Result<Arc<dyn hv::Hypervisor>> {
    if options.lockstep && !options.translate {
        bail!("-d lockstep compares translations, and translate=off makes none");
    }
    Ok(Arc::new(engine::Soft::with_options(options)))
}

fn open_kvm(options: engine::Options) -> anyhow::Result<Arc<dyn hv::Hypervisor>> {
    if options.profile {
        bail!("-d profile needs the software engine: -accel soft");
    }
    if options.lockstep {
        bail!("-d lockstep needs the software engine: -accel soft");
    }
    Ok(Arc::new(kvm::Kvm::new()?))
}

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
    engine: engine::Options,
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
        match (row.open)(engine) {
            Ok(hypervisor) => return Ok(hypervisor),
            Err(why) => refusals.push(format!("accelerator {}: {why:#}", row.name)),
        }
    }
    Err(refusals.join("; "))
}
