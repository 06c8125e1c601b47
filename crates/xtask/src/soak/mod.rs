//! `cargo xtask soak`: the same thing for long, recorded in `docs/soak.md`.

mod boots;
mod clock;
mod disk;
mod hotplug;
mod network;
mod record;
mod system;
mod writer;

use anyhow::{Context, Result, bail};

struct Soak {
    name: &'static str,
    /// What its number counts.
    unit: &'static str,
    default: usize,
    run: fn(usize) -> Result<bool>,
}

const SOAKS: &[Soak] = &[
    Soak {
        name: "boots",
        unit: "boots",
        default: 20,
        run: boots::run,
    },
    Soak {
        name: "smp",
        unit: "boots with 8 vCPUs",
        default: 200,
        run: boots::run_smp,
    },
    Soak {
        name: "clock",
        unit: "minutes",
        default: 10,
        run: clock::run,
    },
    Soak {
        name: "disk",
        unit: "kills",
        default: 100,
        run: disk::run,
    },
    Soak {
        name: "writer",
        unit: "kills",
        default: 100,
        run: writer::run,
    },
    Soak {
        name: "hotplug",
        unit: "times each device comes and goes",
        default: 100,
        run: hotplug::run,
    },
    Soak {
        name: "network",
        unit: "GiB that are loaded",
        default: 1,
        run: network::run,
    },
    Soak {
        name: "hotplug-linux",
        unit: "times each device comes and goes",
        default: 100,
        run: hotplug::run_linux,
    },
    Soak {
        name: "stress",
        unit: "seconds",
        default: 60,
        run: system::stress,
    },
    Soak {
        name: "stressors",
        unit: "seconds for each of some 170",
        default: 10,
        run: system::stressors,
    },
    Soak {
        name: "build",
        unit: "builds",
        default: 1,
        run: system::build,
    },
];

/// `cargo xtask soak NAME [NUMBER]`.
pub(crate) fn run(arguments: &[String]) -> Result<bool> {
    let (name, number) = match arguments {
        [name] => (name, None),
        [name, number] => (name, Some(number)),
        _ => bail!("say: soak {}", names()),
    };
    let Some(soak) = SOAKS.iter().find(|s| s.name == name) else {
        bail!("no soak test '{name}'; there are {}", names());
    };
    let number = match number {
        Some(text) => text
            .parse()
            .with_context(|| format!("number of {}", soak.unit))?,
        None => soak.default,
    };
    if number == 0 {
        bail!("0 {} test nothing", soak.unit);
    }
    (soak.run)(number)
}

fn names() -> String {
    let names: Vec<String> = SOAKS
        .iter()
        .map(|s| format!("{} [{}]", s.name, s.unit))
        .collect();
    names.join(", ")
}
