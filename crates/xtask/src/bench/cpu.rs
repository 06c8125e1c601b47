//! `cargo xtask bench cpu`: the workloads of `crates/cpubench` natively, in a
//! guest here and in the same guest under QEMU TCG, in turns row by row so that
//! all see the same weather. Both guests run all the time and idle while the
//! others work. What is measured is one file, `crates/cpubench/cpu.json`.

mod config;
mod contender;
mod plot;
mod report;

use super::{QEMU, host, version};
use crate::paths::{self, TempFolder};
use crate::setup::check_qemu;
use anyhow::{Context, Result, bail};
use config::{Config, Row};
use contender::{Answer, Contender};
use report::{Measured, Report, Surroundings};
use std::path::{Path, PathBuf};

const DEFAULT_ROUNDS: usize = 5;

/// What was asked for.
struct Plan {
    rounds: usize,
    /// Names of rows; all if empty.
    only: Vec<String>,
    json: Option<String>,
    svg: Option<String>,
    mitigations_off: bool,
}

/// `cargo xtask bench cpu [--rounds N] [--only ROW[,ROW]] [--json FILE]
/// [--svg FILE] [--mitigations-off]`.
pub(super) fn run(arguments: &[String]) -> Result<bool> {
    let config = Config::read()?;
    let plan = parse(arguments, &config)?;
    check_qemu()?;
    let report = measure(&config, &plan)?;
    print!("{}", report.table());
    if let Some(path) = plan.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)?).context("--json")?;
    }
    if let Some(path) = plan.svg {
        std::fs::write(path, plot::svg(&report)).context("--svg")?;
    }
    Ok(true)
}

fn parse(arguments: &[String], config: &Config) -> Result<Plan> {
    let mut plan = Plan {
        rounds: DEFAULT_ROUNDS,
        only: Vec::new(),
        json: None,
        svg: None,
        mitigations_off: false,
    };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        if word == "--mitigations-off" {
            plan.mitigations_off = true;
            continue;
        }
        let value = words
            .next()
            .with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--rounds" => plan.rounds = value.parse().context("--rounds")?,
            "--only" => plan.only = value.split(',').map(str::to_string).collect(),
            "--json" => plan.json = Some(value.clone()),
            "--svg" => plan.svg = Some(value.clone()),
            _ => bail!("unknown option {word}"),
        }
    }
    if plan.rounds == 0 {
        bail!("--rounds 0 measures nothing");
    }
    if let Some(name) = plan.only.iter().find(|n| config.row(n).is_none()) {
        let names: Vec<&str> = config.rows.iter().map(|r| r.name.as_str()).collect();
        bail!("no row '{name}'; there are: {}", names.join(", "));
    }
    Ok(plan)
}

/// Everybody who is measured.
struct Contenders {
    native: Contender,
    trapeze: Contender,
    tcg: Contender,
    /// Trapeze with what TCG's CPU lacks, if a row needs that.
    whole: Option<Contender>,
    /// Where the native one writes.
    _folder: TempFolder,
}

impl Contenders {
    fn start(config: &Config, plan: &Plan, rows: &[&Row]) -> Result<Self> {
        let program = contender::program()?;
        let trapeze = paths::trapeze()?;
        let folder = TempFolder::in_memory("bench-cpu")?;
        let guest = |name, vmm: &Path, options: &[String]| {
            let mut command = config.guest(&program, plan.mitigations_off)?;
            command.program = vmm.to_path_buf();
            Contender::guest(name, &command, options)
        };
        let whole = rows.iter().any(|r| r.whole_cpu);
        let contenders = Self {
            native: Contender::native(&program, &folder.path(""))?,
            trapeze: guest("trapeze", &trapeze, &config.trapeze)?,
            tcg: guest("tcg", &PathBuf::from(QEMU), &config.tcg)?,
            whole: whole
                .then(|| guest("trapeze", &trapeze, &config.trapeze_whole_cpu))
                .transpose()?,
            _folder: folder,
        };
        Ok(contenders)
    }

    /// One round of a row.
    fn round(&mut self, row: &Row, measured: &mut Measured) -> Result<()> {
        let native = self.native.measure(row)?;
        let (ours, theirs) = match (row.whole_cpu, &mut self.whole) {
            (true, Some(whole)) => (whole.measure(row)?, self.tcg.measure(row)?),
            _ => (self.trapeze.measure(row)?, self.tcg.measure(row)?),
        };
        measured.native.extend(native.seconds(row)?);
        measured.trapeze.extend(ours.seconds(row)?);
        measured.tcg.extend(theirs.seconds(row)?);
        Ok(())
    }

    /// The CPU flags of one guest alone; an error if a program could tell.
    fn compare_flags(&mut self, config: &Config) -> Result<Vec<String>> {
        config.compare_flags(&self.trapeze.flags()?, &self.tcg.flags()?)
    }

    fn finish(self) -> Result<()> {
        self.trapeze.finish()?;
        self.tcg.finish()?;
        self.whole.map_or(Ok(()), Contender::finish)
    }
}

impl Answer {
    /// None if the CPU lacks something; an error if the result is wrong.
    fn seconds(&self, row: &Row) -> Result<Option<f64>> {
        match self {
            Self::Absent(_) => Ok(None),
            Self::Result { checksum, .. } if *checksum != row.checksum => bail!(
                "{}: wrong result {checksum:016x} instead of {:016x}",
                row.name,
                row.checksum
            ),
            Self::Result { nanoseconds, .. } => Ok(Some(*nanoseconds as f64 / 1e9)),
        }
    }
}

fn measure(config: &Config, plan: &Plan) -> Result<Report> {
    let wanted = |r: &&Row| plan.only.is_empty() || plan.only.contains(&r.name);
    let rows: Vec<&Row> = config.rows.iter().filter(wanted).collect();
    let mut contenders = Contenders::start(config, plan, &rows)?;
    let surroundings = Surroundings {
        host: host(),
        guest: config.versions()?,
        trapeze: version(&paths::trapeze()?),
        qemu: version(Path::new(QEMU)),
        mitigations: !plan.mitigations_off,
        differences: contenders.compare_flags(config)?,
    };
    let mut measured: Vec<Measured> = rows.iter().map(|row| Measured::new(row)).collect();
    for round in 1..=plan.rounds {
        for (row, measured) in rows.iter().zip(&mut measured) {
            contenders.round(row, measured)?;
            eprintln!("{round}/{} {}", plan.rounds, measured.line());
        }
    }
    contenders.finish()?;
    Ok(Report::new(surroundings, plan.rounds, measured))
}
