//! `cargo xtask bench io`: the same fio jobs in a guest on virtio-blk here, in
//! the same guest under QEMU TCG, and natively on a file of the same kind, in
//! turns job by job so that all see the same weather. Both guests run all the
//! time and idle while the others work.

mod fio;
mod images;

use super::guest::{Guest, Machine};
use super::{host, median};
use crate::paths::installed;
use crate::setup::check_qemu;
use anyhow::{Context, Result, bail};
use fio::{JOBS, Job};
use images::{DISKS, Disk, Images};
use serde::Serialize;

const DEFAULT_RUNS: usize = 3;
const DEFAULT_SECONDS: u32 = 2;
/// What the issue demands: so many times QEMU's throughput, or this part of
/// the host's own; and never below QEMU's.
const TIMES_TCG: f64 = 2.0;
const PART_OF_NATIVE: f64 = 0.8;

/// Here, under TCG, natively.
const CONTENDERS: usize = 3;

/// What was asked for.
struct Plan {
    runs: usize,
    seconds: u32,
    /// Only rows whose name contains this.
    only: String,
    json: Option<String>,
}

/// One job on one disk: MB/s of each contender, by run.
#[derive(Serialize)]
struct Row {
    disk: &'static str,
    job: &'static str,
    trapeze: Vec<f64>,
    tcg: Vec<f64>,
    native: Vec<f64>,
    /// Medians of the ratios within each run.
    times_tcg: f64,
    part_of_native: f64,
    fulfils: bool,
}

#[derive(Serialize)]
struct Report {
    host: String,
    guest: String,
    unit: &'static str,
    rows: Vec<Row>,
}

/// `cargo xtask bench io [--runs N] [--seconds N] [--only TEXT] [--json FILE]`.
pub(super) fn run(arguments: &[String]) -> Result<bool> {
    let plan = parse(arguments)?;
    if !installed(fio::PROGRAM) {
        bail!(
            "{} is missing; 'cargo xtask setup' installs it",
            fio::PROGRAM
        );
    }
    check_qemu()?;
    let report = measure(&plan)?;
    print!("{}", table(&report));
    if let Some(path) = plan.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)?).context("--json")?;
    }
    Ok(true)
}

fn parse(arguments: &[String]) -> Result<Plan> {
    let mut plan = Plan {
        runs: DEFAULT_RUNS,
        seconds: DEFAULT_SECONDS,
        only: String::new(),
        json: None,
    };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let value = words
            .next()
            .with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--runs" => plan.runs = value.parse().context("--runs")?,
            "--seconds" => plan.seconds = value.parse().context("--seconds")?,
            "--only" => plan.only = value.clone(),
            "--json" => plan.json = Some(value.clone()),
            _ => bail!("unknown option {word}"),
        }
    }
    if plan.runs == 0 || plan.seconds == 0 {
        bail!("--runs 0 and --seconds 0 measure nothing");
    }
    Ok(plan)
}

/// `raw tmpfs 4k random read 32`.
fn name(disk: &Disk, job: &Job) -> String {
    format!("{} {}", disk.name, job.name)
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

fn measure(plan: &Plan) -> Result<Report> {
    let wanted = |d: &Disk, j: &Job| name(d, j).contains(&plan.only);
    let disks = DISKS.iter();
    let pairs: Vec<(&Disk, &Job)> = disks
        .flat_map(|d| JOBS.iter().map(move |j| (d, j)))
        .filter(|(d, j)| wanted(d, j))
        .collect();
    if pairs.is_empty() {
        bail!("--only {}: no row has this in its name", plan.only);
    }
    let images = Images::create()?;
    let start = |machine| Guest::start(machine, &fio::KIT, &drives(&images, machine));
    let (mut ours, mut tcg) = (start(Machine::Trapeze)?, start(Machine::Tcg)?);
    let mut rows = Vec::new();
    for (disk, job) in pairs {
        let mut row = Row::new(disk, job);
        for run in 0..plan.runs {
            // Another one begins each time: what the one before has left in
            // the host's caches and queues is the next one's burden.
            for turn in run..run + CONTENDERS {
                match turn % CONTENDERS {
                    0 => row
                        .trapeze
                        .push(fio::in_guest(&mut ours, disk, job, plan.seconds)?),
                    1 => row
                        .tcg
                        .push(fio::in_guest(&mut tcg, disk, job, plan.seconds)?),
                    _ => {
                        let file = images.native(disk);
                        row.native
                            .push(fio::native(&file, disk, job, plan.seconds)?);
                    }
                }
            }
        }
        row.judge();
        eprintln!("{}", line(&row));
        rows.push(row);
    }
    ours.finish()?;
    tcg.finish()?;
    Ok(Report {
        host: host(),
        guest: super::guest_versions()?,
        unit: "MB/s",
        rows,
    })
}

impl Row {
    fn new(disk: &Disk, job: &Job) -> Self {
        Self {
            disk: disk.name,
            job: job.name,
            trapeze: Vec::new(),
            tcg: Vec::new(),
            native: Vec::new(),
            times_tcg: 0.0,
            part_of_native: 0.0,
            fulfils: false,
        }
    }

    fn judge(&mut self) {
        let ratio = |to: &[f64]| median(self.trapeze.iter().zip(to).map(|(a, b)| a / b));
        self.times_tcg = ratio(&self.tcg);
        self.part_of_native = ratio(&self.native);
        let fast = self.times_tcg >= TIMES_TCG || self.part_of_native >= PART_OF_NATIVE;
        self.fulfils = fast && self.times_tcg >= 1.0;
    }
}

fn line(row: &Row) -> String {
    let middle = |values: &[f64]| median(values.iter().copied());
    format!(
        "| {} | {} | {:.1} | {:.1} | {:.1} | {:.2} | {:.2} | {} |",
        row.disk,
        row.job,
        middle(&row.trapeze),
        middle(&row.tcg),
        middle(&row.native),
        row.times_tcg,
        row.part_of_native,
        if row.fulfils { "yes" } else { "no" },
    )
}

fn table(report: &Report) -> String {
    let mut text = format!("guest: {}\nhost:  {}\n\n", report.guest, report.host);
    text.push_str(
        "| disk | job | trapeze MB/s | qemu tcg MB/s | native MB/s | x tcg | x native | fulfils |\n\
         |---|---|--:|--:|--:|--:|--:|---|\n",
    );
    for row in &report.rows {
        text.push_str(&line(row));
        text.push('\n');
    }
    let good = report.rows.iter().filter(|r| r.fulfils).count();
    text.push_str(&format!(
        "\n{good} of {} rows fulfil the demand\n",
        report.rows.len()
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(trapeze: f64, tcg: f64, native: f64) -> bool {
        let mut row = Row::new(&DISKS[0], &JOBS[0]);
        row.trapeze = vec![trapeze];
        row.tcg = vec![tcg];
        row.native = vec![native];
        row.judge();
        row.fulfils
    }

    #[test]
    fn the_demand_is_twice_tcg_or_near_native_and_never_below_tcg() {
        assert!(judged(20.0, 10.0, 100.0));
        assert!(judged(85.0, 80.0, 100.0));
        assert!(!judged(19.0, 10.0, 100.0));
        assert!(!judged(85.0, 90.0, 100.0));
    }
}
