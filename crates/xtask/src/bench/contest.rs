//! A job done here, under QEMU TCG and natively, in turns so that all see the same
//! weather, and what is demanded of it.

use super::{guest_versions, host, median};
use anyhow::{Context, Result, bail};
use serde::Serialize;

/// What is demanded: so many times QEMU's throughput, or this part of the host's own;
/// and never below QEMU's.
const TIMES_TCG: f64 = 2.0;
const PART_OF_NATIVE: f64 = 0.8;
const DEFAULT_RUNS: usize = 3;

/// Who does a job.
#[derive(Clone, Copy)]
pub(super) enum Contender {
    Trapeze,
    Tcg,
    Native,
}

const CONTENDERS: [Contender; 3] = [Contender::Trapeze, Contender::Tcg, Contender::Native];

/// What was asked for.
pub(super) struct Plan {
    runs: usize,
    pub(super) seconds: u32,
    /// Only rows whose name contains this.
    only: String,
    json: Option<String>,
}

/// One job: what each contender did, by run.
#[derive(Serialize)]
struct Row {
    job: String,
    unit: &'static str,
    trapeze: Vec<f64>,
    tcg: Vec<f64>,
    native: Vec<f64>,
    /// Medians of the ratios within each run.
    times_tcg: f64,
    part_of_native: f64,
    fulfils: bool,
}

/// All of them.
#[derive(Serialize)]
struct Report {
    host: String,
    guest: String,
    rows: Vec<Row>,
}

impl Plan {
    /// `[--runs N] [--seconds N] [--only TEXT] [--json FILE]`.
    pub(super) fn parse(arguments: &[String], seconds: u32) -> Result<Self> {
        let mut plan = Self {
            runs: DEFAULT_RUNS,
            seconds,
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

    /// Those of `jobs`, with their names, that were asked for.
    pub(super) fn chosen<J>(&self, jobs: Vec<(String, J)>) -> Result<Vec<(String, J)>> {
        let wanted = jobs
            .into_iter()
            .filter(|(name, _)| name.contains(&self.only));
        let chosen: Vec<_> = wanted.collect();
        match chosen.is_empty() {
            true => bail!("--only {}: no row has this in its name", self.only),
            false => Ok(chosen),
        }
    }

    /// Has each job done by all, and prints what came of it.
    pub(super) fn contest<J>(
        &self,
        jobs: Vec<(String, J)>,
        unit: impl Fn(&J) -> &'static str,
        mut measure: impl FnMut(Contender, &J) -> Result<f64>,
    ) -> Result<()> {
        let mut rows = Vec::new();
        for (name, job) in jobs {
            let mut row = Row::new(name, unit(&job));
            for run in 0..self.runs {
                // Another one begins each time: what the one before has left in
                // the host's caches and queues is the next one's burden.
                for turn in run..run + CONTENDERS.len() {
                    let contender = CONTENDERS[turn % CONTENDERS.len()];
                    let result = measure(contender, &job)?;
                    row.of(contender).push(result);
                }
            }
            row.judge();
            eprintln!("{}", line(&row));
            rows.push(row);
        }
        let report = Report {
            host: host(),
            guest: guest_versions()?,
            rows,
        };
        print!("{}", table(&report));
        if let Some(path) = &self.json {
            std::fs::write(path, serde_json::to_string_pretty(&report)?).context("--json")?;
        }
        Ok(())
    }
}

impl Row {
    fn new(job: String, unit: &'static str) -> Self {
        Self {
            job,
            unit,
            trapeze: Vec::new(),
            tcg: Vec::new(),
            native: Vec::new(),
            times_tcg: 0.0,
            part_of_native: 0.0,
            fulfils: false,
        }
    }

    fn of(&mut self, contender: Contender) -> &mut Vec<f64> {
        match contender {
            Contender::Trapeze => &mut self.trapeze,
            Contender::Tcg => &mut self.tcg,
            Contender::Native => &mut self.native,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(trapeze: f64, tcg: f64, native: f64) -> bool {
        let mut row = Row::new("job".into(), "MB/s");
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
