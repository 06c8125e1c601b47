//! The same boot again and again.

use super::record::{self, Progress};
use crate::bench::{guest_versions, median, one_boot};
use anyhow::Result;
use serde::{Deserialize, Serialize};

/// What was done so far, kept between calls.
#[derive(Default, Serialize, Deserialize)]
struct State {
    commit: String,
    seconds: Vec<f64>,
    failures: Vec<String>,
}

/// Boots until `count` boots of these sources are done, those of an
/// interrupted call included.
pub(super) fn run(count: usize) -> Result<bool> {
    let progress = Progress::of("boots")?;
    let commit = record::commit();
    let old = progress.load().filter(|s: &State| s.commit == commit);
    let mut state = old.unwrap_or(State {
        commit,
        ..State::default()
    });
    while state.seconds.len() + state.failures.len() < count {
        let number = state.seconds.len() + state.failures.len() + 1;
        match one_boot() {
            Ok(run) => {
                println!("boot {number}/{count} {:.2} s", run.seconds);
                state.seconds.push(run.seconds);
            }
            Err(why) => {
                println!("boot {number}/{count} FAILED: {why:#}");
                state.failures.push(format!("{why:#}"));
            }
        }
        progress.save(&state)?;
    }
    let good = state.failures.is_empty();
    let what = format!("{count} boots in a row");
    record::append(
        &state.commit,
        &what,
        good,
        &state.summary(),
        &guest_versions()?,
    )?;
    progress.done()?;
    println!("{}", state.summary());
    Ok(good)
}

impl State {
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
