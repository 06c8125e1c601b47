//! Processes that write to disk images, killed.

use super::record;
use crate::paths::cargo;
use crate::process::tested;
use anyhow::Result;

/// Kills writers, each kind of image so often: see `crates/disk/tests/killed.rs`.
pub(super) fn run(kills: usize) -> Result<bool> {
    let commit = record::commit();
    let mut command = cargo();
    command
        .args(["test", "--package", "disk", "--test", "killed"])
        .env("TRAPEZE_KILLS", kills.to_string());
    let counts = tested(&mut command)?;
    let good = counts.failed == 0 && counts.passed > 0;
    let measured = match good {
        true => "every acknowledged record was there; no corruption by our check or qemu-img's",
        false => "a record was lost or an image damaged; the output says which",
    };
    let what = format!("{kills} writers killed on each of raw, qcow2, qcow2 with backing file");
    record::append(&commit, &what, good, measured, "none")?;
    Ok(good)
}
