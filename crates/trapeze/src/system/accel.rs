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
    /// Sets a property of it, such as `translate=off`.
    pub(crate) set: fn(&mut engine::Options, &str) -> Result<(), String>,
    /// An error if it cannot do what is asked of the engine.
    suits: fn(&engine::Options) -> Result<(), &'static str>,
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
        suits: soft_suits,
        open: |options| Ok(Arc::new(engine::Soft::with_options(options))),
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
        suits: kvm_suits,
        open: |_| Ok(Arc::new(kvm::Kvm::new()?)),
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

fn soft_suits(options: &engine::Options) -> Result<(), &'static str> {
    match options.lockstep && !options.translate {
        true => Err("-d lockstep compares translations, and translate=off makes none"),
        false => Ok(()),
    }
}

fn kvm_suits(options: &engine::Options) -> Result<(), &'static str> {
    match (options.profile, options.lockstep) {
        (true, _) => Err("-d profile needs the software engine: -accel soft"),
        (_, true) => Err("-d lockstep needs the software engine: -accel soft"),
        _ => Ok(()),
    }
}

/// In the order in which they are tried unless told otherwise: the faster one first.
pub(crate) const DEFAULT: [&str; 2] = ["kvm", "soft"];

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

/// Opens the first of `rows` that works, or of what is tried by default. What was
/// asked for and does not work is told, and what the user could have.
pub(crate) fn open(
    rows: &[&'static Row],
    personality: Personality,
    engine: engine::Options,
) -> Result<Arc<dyn hv::Hypervisor>, String> {
    let names = match personality {
        Personality::Trapeze => &DEFAULT[..],
        Personality::Qemu { accelerators, .. } => accelerators,
    };
    let defaults: Vec<_> = names.iter().filter_map(|n| by_name(n).ok()).collect();
    let asked = !rows.is_empty();
    let mut refusals = Vec::new();
    for row in if asked { rows } else { &defaults[..] } {
        match attempt(row, engine) {
            Ok(hypervisor) => {
                for (refusal, _) in refusals.iter().filter(|(_, denied)| asked || *denied) {
                    log::warn!("{refusal}; {} runs instead", row.name);
                }
                return Ok(hypervisor);
            }
            Err((why, denied)) => {
                refusals.push((format!("accelerator {}: {why}", row.name), denied));
            }
        }
    }
    let refusals: Vec<String> = refusals.into_iter().map(|(refusal, _)| refusal).collect();
    Err(refusals.join("; "))
}

/// Starts one; else why not, and if the host has it, but not for this user.
fn attempt(row: &Row, engine: engine::Options) -> Result<Arc<dyn hv::Hypervisor>, (String, bool)> {
    (row.suits)(&engine).map_err(|why| (why.to_string(), false))?;
    (row.open)(engine).map_err(|why| {
        let denied = matches!(why.downcast_ref(), Some(hv::Error::Denied(_)));
        (format!("{why:#}"), denied)
    })
}
