//! Trapeze on other hosts: inside a QEMU guest whose CPU lacks what the
//! translator likes to use, or comes from the other maker, or whose kernel has
//! been told to merge pages and to set huge ones aside.

use crate::outer::Outer;
use crate::paths::{self, BUILT};
use crate::process::Counts;
use anyhow::{Result, bail};

/// Seconds after which QEMU is stopped; the longest takes 70 s of CPU time.
const LIMIT: u32 = 600;

/// A machine that Trapeze runs on.
struct Host {
    name: &'static str,
    /// QEMU's model.
    cpu: &'static str,
    /// What is run there, by `sh` as root.
    script: &'static str,
    /// What that must say.
    answers: &'static [&'static str],
}

const CHECK: &str = "\"$TRAPEZE\" guest -m 64 -append check; echo TRAPEZE-EXIT $?";
const CHECKED: &[&str] = &["GUEST-OK", "TRAPEZE-EXIT 0"];

const HOSTS: [Host; 3] = [
    Host {
        name: "Nehalem",
        // The oldest that we support: x86-64-v2 without AVX, BMI2 and FSGSBASE.
        cpu: "Nehalem",
        script: CHECK,
        answers: CHECKED,
    },
    Host {
        name: "EPYC",
        // One of AMD's.
        cpu: "EPYC",
        script: CHECK,
        answers: CHECKED,
    },
    Host {
        // One whose settings are ours to change.
        name: "memory",
        cpu: "max",
        script: include_str!("hosts/memory.sh"),
        answers: &["FAULTS 0"],
    },
];

/// `cargo xtask hosts [NAME...]`.
pub(crate) fn run(names: &[String]) -> Result<bool> {
    if let Some(name) = names.iter().find(|n| !HOSTS.iter().any(|h| h.name == **n)) {
        bail!(
            "no host '{name}'; there are {}",
            HOSTS.map(|h| h.name).join(", ")
        );
    }
    let counts = some(|h| names.is_empty() || names.iter().any(|n| n == h.name))?;
    println!("{} passed, {} failed", counts.passed, counts.failed);
    Ok(counts.failed == 0)
}

/// One check for each host.
pub(crate) fn all() -> Result<Counts> {
    some(|_| true)
}

fn some(wanted: impl Fn(&Host) -> bool) -> Result<Counts> {
    let mut counts = Counts::default();
    for host in HOSTS.iter().filter(|h| wanted(h)) {
        let name = host.name;
        let verdict = boot(host);
        match &verdict {
            Ok(()) => println!("host {name:<12} ok"),
            Err(why) => println!("host {name:<12} FAILED: {why:#}"),
        }
        counts.add(Counts::one(verdict.is_ok()));
    }
    Ok(counts)
}

fn boot(host: &Host) -> Result<()> {
    let outer = Outer {
        cpu: host.cpu,
        modules: &[],
        kernel: "",
        mebibytes: 1024,
        seconds: LIMIT,
    };
    let script = format!(
        "export {BUILT}='{}'\n{}",
        paths::trapeze()?.display(),
        host.script
    );
    let text = outer.run(&script)?;
    let Some(missing) = host.answers.iter().find(|a| !text.contains(**a)) else {
        return Ok(());
    };
    let tail: Vec<&str> = text.lines().rev().take(40).collect();
    bail!(
        "it did not say '{missing}'; its last lines, newest first:\n{}",
        tail.join("\n")
    )
}
