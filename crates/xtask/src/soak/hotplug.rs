//! Disks, adapters and processors come and go under load.

use super::record;
use crate::bench::guest_versions;
use crate::boots;
use crate::paths;
use crate::process::output_of;
use anyhow::Result;
use std::process::Command;
use std::time::Instant;

/// Runs the machine's own test, on `pc` and on `q35`, with so many cycles.
pub(super) fn run(cycles: usize) -> Result<bool> {
    let commit = record::commit();
    let begin = Instant::now();
    let mut command = Command::new("cargo");
    command
        .args(["test", "--release", "-p", "machine", "--test", "hotplug"])
        .env("TRAPEZE_CYCLES", cycles.to_string())
        .current_dir(paths::root());
    let verdict = output_of(&mut command);
    let seconds = begin.elapsed().as_secs();
    let measured = match &verdict {
        Ok(_) => format!("{seconds} s with the build"),
        Err(why) => format!("{why:#}"),
    };
    println!("{measured}");
    let what = format!("{cycles} times a disk in use, an adapter and a vCPU, on pc and q35");
    record::append(
        &commit,
        &what,
        verdict.is_ok(),
        &measured,
        &guest_versions()?,
    )?;
    Ok(verdict.is_ok())
}

/// The same in Debian's kernel, by QMP, while a program keeps its vCPU busy.
pub(super) fn run_linux(cycles: usize) -> Result<bool> {
    let commit = record::commit();
    let begin = Instant::now();
    let verdict = boots::hotplug_cycles(cycles);
    let measured = match &verdict {
        Ok(()) => format!(
            "{} s; each disk was written to, no complaint of the guest's kernel",
            begin.elapsed().as_secs()
        ),
        Err(why) => format!("{why:#}"),
    };
    println!("{measured}");
    let what = format!("{cycles} times a disk, an adapter and a vCPU of a busy Linux, by QMP");
    let good = verdict.is_ok();
    record::append(&commit, &what, good, &measured, &guest_versions()?)?;
    Ok(good)
}
