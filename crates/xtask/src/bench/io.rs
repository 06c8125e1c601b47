//! `cargo xtask bench io`: the same fio jobs in a guest on virtio-blk here, in
//! the same guest under QEMU TCG, and natively on a file of the same kind. Both guests
//! run all the time and idle while the others work.

mod fio;
mod images;

use super::contest::{Contender, Plan};
use super::guest::{Guest, Machine};
use crate::paths::installed;
use crate::setup::check_qemu;
use anyhow::{Result, bail};
use fio::{JOBS, Job};
use images::{DISKS, Disk, Images};

const DEFAULT_SECONDS: u32 = 2;

/// `cargo xtask bench io [--runs N] [--seconds N] [--only TEXT] [--json FILE]`.
pub(super) fn run(arguments: &[String]) -> Result<bool> {
    let plan = Plan::parse(arguments, DEFAULT_SECONDS)?;
    if !installed(fio::PROGRAM) {
        bail!(
            "{} is missing; 'cargo xtask setup' installs it",
            fio::PROGRAM
        );
    }
    check_qemu()?;
    let pairs = DISKS.iter().flat_map(|d| JOBS.iter().map(move |j| (d, j)));
    let jobs = pairs.map(|(d, j)| (format!("{} {}", d.name, j.name), (d, j)));
    let jobs: Vec<(String, (&Disk, &Job))> = plan.chosen(jobs.collect())?;
    let images = Images::create()?;
    let start = |machine| Guest::start(machine, &fio::KIT, &drives(&images, machine));
    let (mut ours, mut tcg) = (start(Machine::Trapeze)?, start(Machine::Tcg)?);
    plan.contest(
        jobs,
        |_| "MB/s",
        |contender, &(disk, job)| match contender {
            Contender::Trapeze => fio::in_guest(&mut ours, disk, job, plan.seconds),
            Contender::Tcg => fio::in_guest(&mut tcg, disk, job, plan.seconds),
            Contender::Native => fio::native(&images.native(disk), disk, job, plan.seconds),
        },
    )?;
    ours.finish()?;
    tcg.finish()?;
    Ok(true)
}

/// Options for every disk of the table.
fn drives(images: &Images, machine: Machine) -> Vec<String> {
    let drive = |disk: &Disk| {
        let file = images.image(disk, machine.name());
        let format = if disk.qcow2 { "qcow2" } else { "raw" };
        let (file, cache) = (file.display(), disk.cache);
        let drive = format!("file={file},if=virtio,format={format},cache={cache}");
        ["-drive".to_string(), drive]
    };
    DISKS.iter().flat_map(drive).collect()
}
