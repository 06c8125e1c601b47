//! Guests that write to their disk, killed.

use super::record::{self, Progress};
use crate::bench::guest_versions;
use crate::killed::{Kind, Victim};
use anyhow::Result;
use serde::{Deserialize, Serialize};

/// What was done so far, kept between calls.
#[derive(Default, Serialize, Deserialize)]
struct State {
    commit: String,
    /// Records acknowledged before each kill.
    done: Vec<(Kind, u64)>,
    failures: Vec<(Kind, String)>,
}

/// Kills `kills` machines with each kind of image, those of an interrupted
/// call included.
pub(super) fn run(kills: usize) -> Result<bool> {
    let progress = Progress::of("writer")?;
    let commit = record::commit();
    let old = progress.load().filter(|s: &State| s.commit == commit);
    let mut state = old.unwrap_or(State {
        commit,
        ..State::default()
    });
    for kind in Kind::ALL {
        several(kind, kills, &mut state, &progress)?;
    }
    let good = state.failures.is_empty();
    let summary = state.summary();
    let names = Kind::ALL.map(Kind::name).join(", ");
    let what = format!("{kills} machines killed whose guest writes, on each of {names}");
    record::append(&state.commit, &what, good, &summary, &guest_versions()?)?;
    progress.done()?;
    println!("{summary}");
    Ok(good)
}

fn several(kind: Kind, kills: usize, state: &mut State, progress: &Progress) -> Result<()> {
    let mut victim = None;
    while state.count(kind) < kills {
        let number = state.count(kind) + 1;
        let here = format!("{} {number}/{kills}", kind.name());
        let target = match &mut victim {
            Some(target) => target,
            None => victim.insert(Victim::new("soft", kind, number as u64)?),
        };
        match target.kill(&format!("writer-{kind:?}-{number}")) {
            Ok(records) => {
                println!("{here} killed after {records} records");
                state.done.push((kind, records));
            }
            Err(why) => {
                println!("{here} FAILED: {why:#}");
                state.failures.push((kind, format!("{why:#}")));
                // What comes after is judged by itself.
                victim = None;
            }
        }
        progress.save(&state)?;
    }
    Ok(())
}

impl State {
    fn count(&self, kind: Kind) -> usize {
        let done = self.done.iter().filter(|d| d.0 == kind).count();
        done + self.failures.iter().filter(|f| f.0 == kind).count()
    }

    fn summary(&self) -> String {
        let records: u64 = self.done.iter().map(|d| d.1).sum();
        let mut text = match self.failures.len() {
            0 => format!(
                "each of {records} acknowledged records was there; no corruption by our check \
                 or qemu-img's"
            ),
            failed => format!("{} kills passed, {failed} failed", self.done.len()),
        };
        if let Some((_, first)) = self.failures.first() {
            text.push_str(&format!("; first failure: {first}"));
        }
        text
    }
}
