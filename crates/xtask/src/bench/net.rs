//! `cargo xtask bench net`: iperf3 from a guest on the user-mode network to the host's
//! loopback, here, under QEMU TCG, and without a guest, in turns job by job so that all
//! see the same weather.

mod iperf;

use super::guest::{Guest, Machine};
use super::{host, median};
use crate::paths::installed;
use crate::setup::check_qemu;
use anyhow::{Context, Result, bail};
use iperf::{JOBS, Job, Server};
use serde::Serialize;

const DEFAULT_RUNS: usize = 3;
const DEFAULT_SECONDS: u32 = 3;
/// What is demanded: so many times QEMU's throughput, or this part of the host's own;
/// and never below QEMU's.
const TIMES_TCG: f64 = 2.0;
const PART_OF_NATIVE: f64 = 0.8;
/// Here, under TCG, natively.
const CONTENDERS: usize = 3;
/// The host, as guests know it.
const HOST: &str = "10.0.2.2";
const CONFIGURE: &str = "ip addr add 10.0.2.15/24 dev eth0 && ip link set eth0 up && \
                         ip route add default via 10.0.2.2 && ip link set lo up && sleep 1";

/// What was asked for.
struct Plan {
    runs: usize,
    seconds: u32,
    /// Only rows whose name contains this.
    only: String,
    json: Option<String>,
}

/// One job: what each contender did, by run.
#[derive(Serialize)]
struct Row {
    job: &'static str,
    unit: &'static str,
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
    rows: Vec<Row>,
}

/// `cargo xtask bench net [--runs N] [--seconds N] [--only TEXT] [--json FILE]`.
pub(super) fn run(arguments: &[String]) -> Result<bool> {
    let plan = parse(arguments)?;
    let program = iperf::PROGRAM;
    if !installed(program) {
        bail!("{program} is missing; 'cargo xtask setup' installs it");
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
    for pair in arguments.chunks(2) {
        let [word, value] = pair else {
            bail!("{} needs a value", pair[0]);
        };
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

fn start(machine: Machine) -> Result<Guest> {
    let options = ["-nic", "user,model=virtio-net-pci"].map(str::to_string);
    let mut guest = Guest::start(machine, &iperf::KIT, &options)?;
    let said = guest.say(CONFIGURE, 1)?;
    match said.contains("end 0") {
        true => Ok(guest),
        false => bail!("{}: the guest's network: {said}", machine.name()),
    }
}

fn measure(plan: &Plan) -> Result<Report> {
    let jobs: Vec<&Job> = JOBS
        .iter()
        .filter(|j| j.name.contains(&plan.only))
        .collect();
    if jobs.is_empty() {
        bail!("--only {}: no row has this in its name", plan.only);
    }
    let server = Server::start()?;
    let (mut ours, mut tcg) = (start(Machine::Trapeze)?, start(Machine::Tcg)?);
    let mut rows = Vec::new();
    for job in jobs {
        let mut row = Row::new(job);
        for run in 0..plan.runs {
            for turn in run..run + CONTENDERS {
                let seconds = plan.seconds;
                match turn % CONTENDERS {
                    0 => (row.trapeze).push(server.from_guest(&mut ours, HOST, job, seconds)?),
                    1 => row
                        .tcg
                        .push(server.from_guest(&mut tcg, HOST, job, seconds)?),
                    _ => row.native.push(server.natively(job, seconds)?),
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
        rows,
    })
}

impl Row {
    fn new(job: &Job) -> Self {
        Self {
            job: job.name,
            unit: job.unit,
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
        "| {} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {} |",
        row.job,
        row.unit,
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
        "| job | unit | trapeze | qemu tcg | native | x tcg | x native | fulfils |\n\
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
