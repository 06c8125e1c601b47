//! The same boot again and again.

use super::record::{self, Progress};
use crate::bench::{bench_boot, guest_versions, median};
use crate::boots::alarm;
use crate::evidence;
use crate::expect::Session;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// What boots: the kernel and the initramfs of `cargo xtask bench boot`.
struct Kind {
    /// Of its progress and its logs.
    name: &'static str,
    vcpus: u32,
    /// What the row says after the number of boots.
    what: &'static str,
}

const ONE: Kind = Kind {
    name: "boots",
    vcpus: 1,
    what: "boots in a row",
};

const SMP: Kind = Kind {
    name: "smp",
    vcpus: 8,
    what: "boots in a row with 8 vCPUs",
};

/// A boot that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(300);
/// Printed by the first process.
const MARK: &str = "TRAPEZE-FIRST-PROCESS";

/// What was done so far, kept between calls.
#[derive(Default, Serialize, Deserialize)]
struct State {
    commit: String,
    seconds: Vec<f64>,
    failures: Vec<String>,
}

/// Boots with one vCPU.
pub(super) fn run(count: usize) -> Result<bool> {
    several(&ONE, count)
}

/// Boots with eight vCPUs.
pub(super) fn run_smp(count: usize) -> Result<bool> {
    several(&SMP, count)
}

/// Boots until `count` boots of these sources are done, those of an
/// interrupted call included.
fn several(kind: &Kind, count: usize) -> Result<bool> {
    let progress = Progress::of(kind.name)?;
    let commit = record::commit();
    let old = progress.load().filter(|s: &State| s.commit == commit);
    let mut state = old.unwrap_or(State {
        commit,
        ..State::default()
    });
    while state.done() < count {
        let number = state.done() + 1;
        match one(kind, &format!("{}-{number}", kind.name)) {
            Ok(seconds) => {
                println!("boot {number}/{count} {seconds:.2} s");
                state.seconds.push(seconds);
            }
            Err(why) => {
                println!("boot {number}/{count} FAILED: {why:#}");
                state.failures.push(format!("{why:#}"));
            }
        }
        progress.save(&state)?;
    }
    let good = state.failures.is_empty();
    let what = format!("{count} {}", kind.what);
    let summary = state.summary();
    record::append(&state.commit, &what, good, &summary, &guest_versions()?)?;
    progress.done()?;
    println!("{summary}");
    Ok(good)
}

/// Seconds to the first process; what a boot printed that failed is kept
/// under `name`.
fn one(kind: &Kind, name: &str) -> Result<f64> {
    let mut command = bench_boot()?;
    command.args(["-smp", &kind.vcpus.to_string()]);
    let begin = Instant::now();
    let mut session = Session::start(&mut command)?;
    let verdict = follow(&mut session, begin, kind.vcpus);
    verdict.or_else(|why| {
        evidence::keep(&session, name)?;
        Err(why)
    })
}

fn follow(session: &mut Session, begin: Instant, vcpus: u32) -> Result<f64> {
    session.expect(MARK, PATIENCE)?;
    let seconds = begin.elapsed().as_secs_f64();
    let code = session.finish(PATIENCE)?;
    if code != Some(0) {
        bail!("exit code {code:?} instead of 0");
    }
    let output = session.output();
    if let Some(alarm) = alarm(&output) {
        bail!("the kernel said '{alarm}'");
    }
    let up = output.split("smp: Brought up 1 node, ").nth(1);
    let count = up.and_then(|text| text.split(' ').next());
    let count = count.context("the kernel does not say how many CPUs it has")?;
    match count == vcpus.to_string() {
        true => Ok(seconds),
        false => bail!("{count} CPUs came up instead of {vcpus}"),
    }
}

impl State {
    fn done(&self) -> usize {
        self.seconds.len() + self.failures.len()
    }

    fn summary(&self) -> String {
        let times = || self.seconds.iter().copied();
        let mut text = format!(
            "{} passed, {} failed; median {:.2} s, slowest {:.2} s",
            self.seconds.len(),
            self.failures.len(),
            median(times()),
            times().fold(0.0, f64::max),
        );
        if let Some(first) = self.failures.first() {
            text.push_str(&format!("; first failure: {first}"));
        }
        text
    }
}
