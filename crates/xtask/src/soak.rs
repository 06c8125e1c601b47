//! `cargo xtask soak boots N`: the same boot again and again.

use crate::bench::{median, one_boot};
use crate::paths;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// What was done so far, kept between calls.
#[derive(Default, Serialize, Deserialize)]
struct State {
    seconds: Vec<f64>,
    failures: Vec<String>,
}

/// Boots until N boots are done, those of an interrupted call included.
pub(crate) fn run(arguments: &[String]) -> Result<bool> {
    let [what, count] = arguments else {
        bail!("say: soak boots N");
    };
    if what != "boots" {
        bail!("no soak test '{what}'; there is: boots");
    }
    let count: usize = count.parse().context("number of boots")?;
    let path = paths::target()?.join("soak-boots.json");
    let mut state: State = match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
        Err(_) => State::default(),
    };
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
        std::fs::write(&path, serde_json::to_vec(&state)?).context("soak state")?;
    }
    std::fs::remove_file(&path).context("soak state")?;
    println!("median {:.2} s", median(state.seconds.iter().copied()));
    println!(
        "{} passed, {} failed",
        state.seconds.len(),
        state.failures.len()
    );
    Ok(state.failures.is_empty())
}
