//! `cargo xtask test`: every check in order, then one summary.

use crate::paths::{self, cargo, installed};
use crate::process::{Counts, tested};
use crate::{boots, fuzz, hosts, nested, programs, sandbox, setup, tidy, vitals};
use anyhow::{Result, bail};
use std::process::Command;
use std::time::Instant;

struct Step {
    name: &'static str,
    run: fn() -> Result<Counts>,
}

const STEPS: &[Step] = &[
    Step {
        name: "setup",
        run: || setup::run().map(Counts::one),
    },
    Step {
        name: "fmt",
        run: fmt,
    },
    Step {
        name: "tidy",
        run: tidy::check,
    },
    Step {
        name: "clippy",
        run: clippy,
    },
    Step {
        name: "unit",
        run: unit,
    },
    Step {
        name: "conformance",
        run: || conformance(&[]),
    },
    Step {
        name: "stress",
        run: stress,
    },
    Step {
        name: "nested",
        run: nested::all,
    },
    Step {
        name: "differential",
        run: differential,
    },
    Step {
        name: "fuzz",
        run: fuzz::all,
    },
    Step {
        name: "boot",
        run: || boots::all("soft"),
    },
    Step {
        name: "vitals",
        run: vitals::all,
    },
    Step {
        name: "sandbox",
        run: sandbox::check,
    },
    Step {
        name: "hosts",
        run: hosts::all,
    },
];

/// Runs the steps, or those named; true if nothing failed.
pub(crate) fn run(names: &[String]) -> Result<bool> {
    if let Some(name) = names.iter().find(|n| STEPS.iter().all(|s| s.name != **n)) {
        let steps: Vec<&str> = STEPS.iter().map(|s| s.name).collect();
        bail!("no step '{name}'; there are {}", steps.join(", "));
    }
    let mut total = Counts::default();
    let mut table = Vec::new();
    for step in STEPS
        .iter()
        .filter(|s| names.is_empty() || names.iter().any(|n| n == s.name))
    {
        println!("==== {} ====", step.name);
        let begin = Instant::now();
        let mut counts = (step.run)().unwrap_or_else(|error| {
            println!("{}: {error:#}", step.name);
            Counts::one(false)
        });
        if counts == Counts::default() {
            // No count and no failure: the step itself is the check.
            counts = Counts::one(true);
        }
        total.add(counts);
        table.push((step.name, counts, begin.elapsed().as_secs()));
    }
    println!("==== summary ====");
    for (name, counts, seconds) in table {
        let verdict = if counts.failed == 0 { "ok" } else { "FAILED" };
        println!(
            "{name:<14}{:>6} passed {:>4} failed {seconds:>5} s  {verdict}",
            counts.passed, counts.failed
        );
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    Ok(total.failed == 0)
}

/// Programs for guests are no cargo targets, so they are named.
fn fmt() -> Result<Counts> {
    let mut counts = tested(cargo().args(["fmt", "--all", "--check"]))?;
    let guest = paths::root().join("crates/guest/freestanding/main.rs");
    let mut rustfmt = Command::new("rustfmt");
    rustfmt.args(["--edition", "2024", "--check"]).arg(guest);
    rustfmt.args(programs::list()?);
    counts.add(tested(&mut rustfmt)?);
    Ok(counts)
}

fn clippy() -> Result<Counts> {
    tested(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "--deny",
        "warnings",
    ]))
}

fn unit() -> Result<Counts> {
    let nextest = installed("cargo-nextest");
    let words: &[&str] = match nextest {
        true => &[
            "nextest",
            "run",
            "--workspace",
            "--no-fail-fast",
            "--status-level",
            "fail",
        ],
        false => &["test", "--workspace", "--no-fail-fast", "--quiet"],
    };
    must_count(tested(cargo().args(words))?)
}

fn conformance(words: &[&str]) -> Result<Counts> {
    must_count(tested(released("conformance").args(words))?)
}

/// A program of the workspace, as users get it.
fn released(package: &str) -> Command {
    let mut command = cargo();
    command.args(["run", "--release", "--quiet", "--package", package]);
    command
}

/// The contract's suite and random blocks while what is rare happens all the time.
fn stress() -> Result<Counts> {
    const HOW: [&str; 5] = ["single", "small-tlb", "logged", "forgetful", "small-cache"];
    const BLOCKS: [&str; 5] = ["--bin", "blocks", "--", "--count", "2000"];
    let mut all = Counts::default();
    for how in HOW {
        println!("---- {how} ----");
        all.add(conformance(&["--", "--stress", how])?);
        for privilege in [&[][..], &["--kernel"]] {
            let mut blocks = released("difftest");
            blocks.args(BLOCKS).args(privilege);
            all.add(Counts::one(
                blocks.args(["--stress", how]).status()?.success(),
            ));
        }
    }
    Ok(all)
}

fn differential() -> Result<Counts> {
    must_count(tested(&mut released("difftest"))?)
}

/// A runner that ran nothing has not passed.
fn must_count(counts: Counts) -> Result<Counts> {
    if counts == Counts::default() {
        bail!("no test ran in {}", paths::root().display());
    }
    Ok(counts)
}
