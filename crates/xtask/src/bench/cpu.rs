//! `cargo xtask bench cpu`: the workloads of `crates/cpubench` natively, in a
//! guest here and in the same guest under QEMU TCG, in turns row by row so that
//! all see the same weather. Both guests run all the time and idle while the
//! others work. What is measured is one file, `crates/cpubench/cpu.json`.

mod config;
mod contender;
mod plot;
mod report;
pub(super) mod smp;

use super::{QEMU, host, version};
use crate::debian::Programs;
use crate::paths::{self, TempFolder};
use crate::setup::check_qemu;
use anyhow::{Context, Result, bail};
use config::{Config, Kind, Row};
use contender::{Answer, Contender};
use report::{Measured, Report, Surroundings};
use std::path::Path;

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
    /// For workloads, or for programs in their tree.
    fn start(
        config: &Config,
        plan: &Plan,
        rows: &[&Row],
        programs: Option<&Programs>,
    ) -> Result<Self> {
        let program = contender::program()?;
        let trapeze = paths::trapeze()?;
        let folder = TempFolder::in_memory("bench-cpu")?;
        let guest = |name, vmm: &Path, options: &[String]| {
            let initramfs = programs.map(|p| p.initramfs.as_path());
            let mut guest = config.guest(&program, initramfs, plan.mitigations_off)?;
            guest.program = vmm.to_path_buf();
            Contender::guest(name, &guest, options)
        };
        let native = match programs {
            Some(programs) => {
                Contender::native_in_tree(&program, &programs.tree, &folder.path(""))?
            }
            None => Contender::native(&program, &folder.path(""))?,
        };
        let whole = rows.iter().any(|r| r.whole_cpu);
        let mut contenders = Self {
            native,
            trapeze: guest("trapeze", &trapeze, &config.trapeze)?,
            tcg: guest("tcg", Path::new(QEMU), &config.tcg)?,
            whole: whole
                .then(|| guest("trapeze", &trapeze, &config.trapeze_whole_cpu))
                .transpose()?,
            _folder: folder,
        };
        if programs.is_some() {
            contenders.native.prepare(config)?;
            contenders.trapeze.prepare(config)?;
            contenders.tcg.prepare(config)?;
        }
        Ok(contenders)
    }

    /// One round of a row.
    fn round(&mut self, row: &Row, measured: &mut Measured) -> Result<()> {
        let native = self.native.measure(row)?;
        let ours = match (row.whole_cpu, &mut self.whole) {
            (true, Some(whole)) => whole.measure(row)?,
            _ => self.trapeze.measure(row)?,
        };
        let theirs = self.tcg.measure(row)?;
        let right = row.checksum.or(native.checksum());
        measured.native.extend(native.seconds(row, right)?);
        measured.trapeze.extend(ours.seconds(row, right)?);
        measured.tcg.extend(theirs.seconds(row, right)?);
        Ok(())
    }

    /// Every round of every row, to the guests' end.
    fn all_rounds(
        mut self,
        config: &Config,
        plan: &Plan,
        rows: &[&Row],
        surroundings: &mut Surroundings,
    ) -> Result<Vec<Measured>> {
        surroundings.differences =
            config.compare_flags(&self.trapeze.flags()?, &self.tcg.flags()?)?;
        let mut measured: Vec<Measured> = rows.iter().map(|row| Measured::new(row)).collect();
        for round in 1..=plan.rounds {
            for (row, measured) in rows.iter().zip(&mut measured) {
                self.round(row, measured)?;
                eprintln!("{round}/{} {}", plan.rounds, measured.line());
            }
        }
        self.finish()?;
        Ok(measured)
    }

    fn finish(self) -> Result<()> {
        self.trapeze.finish()?;
        self.tcg.finish()?;
        self.whole.map_or(Ok(()), Contender::finish)
    }
}

impl Answer {
    fn checksum(&self) -> Option<u64> {
        match self {
            Self::Result { checksum, .. } => Some(*checksum),
            Self::Absent(_) => None,
        }
    }

    /// None if the CPU lacks something; an error if the result is not the right
    /// one.
    fn seconds(&self, row: &Row, right: Option<u64>) -> Result<Option<f64>> {
        match self {
            Self::Absent(_) => Ok(None),
            Self::Result { checksum, .. } if Some(*checksum) != right => bail!(
                "{}: wrong result {checksum:016x} instead of {:016x}",
                row.name,
                right.unwrap_or_default()
            ),
            Self::Result { nanoseconds, .. } => Ok(Some(*nanoseconds as f64 / 1e9)),
        }
    }
}

/// Workloads first, then programs, each with guests of their own.
fn measure(config: &Config, plan: &Plan) -> Result<Report> {
    let wanted = |r: &&Row| plan.only.is_empty() || plan.only.contains(&r.name);
    let rows = config.rows.iter().filter(wanted);
    let (programs, workloads): (Vec<&Row>, Vec<&Row>) = rows.partition(|r| r.kind == Kind::Program);
    let mut surroundings = Surroundings {
        host: host(),
        guest: config.versions()?,
        programs: None,
        trapeze: version(&paths::trapeze()?),
        qemu: version(Path::new(QEMU)),
        mitigations: !plan.mitigations_off,
        differences: Vec::new(),
    };
    let mut measured = Vec::new();
    if !workloads.is_empty() {
        let contenders = Contenders::start(config, plan, &workloads, None)?;
        measured.extend(contenders.all_rounds(config, plan, &workloads, &mut surroundings)?);
    }
    if !programs.is_empty() {
        let tree = Programs::get()?;
        let contenders = Contenders::start(config, plan, &programs, Some(&tree))?;
        measured.extend(contenders.all_rounds(config, plan, &programs, &mut surroundings)?);
        surroundings.programs = Some(tree.version);
    }
    Ok(Report::new(surroundings, plan.rounds, measured))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_result_is_an_error_and_an_absent_one_is_not() {
        let config = Config::read().unwrap();
        let row = &config.rows[0];
        let answer = Answer::Result {
            nanoseconds: 1_500_000_000,
            checksum: 7,
        };
        assert_eq!(answer.seconds(row, Some(7)).unwrap(), Some(1.5));
        assert!(answer.seconds(row, Some(8)).is_err());
        assert!(answer.seconds(row, None).is_err());
        let absent = Answer::Absent("avx512f".into());
        assert_eq!(absent.seconds(row, None).unwrap(), None);
    }

    #[test]
    fn options_and_rows_are_checked() {
        let config = Config::read().unwrap();
        let parse = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_string).collect();
            super::parse(&words, &config)
        };
        let plan = parse("--rounds 2 --mitigations-off --only sieve,gzip").unwrap();
        assert!(plan.rounds == 2 && plan.mitigations_off);
        assert_eq!(plan.only, ["sieve", "gzip"]);
        for wrong in ["--rounds 0", "--only nothing", "--only", "--fast 1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
