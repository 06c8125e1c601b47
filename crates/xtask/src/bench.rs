//! `cargo xtask bench boot`: process start to the guest's first process, here
//! and under QEMU TCG, in turns so that both see the same weather.
//! `cargo xtask bench io` is in [`io`].

mod io;

use crate::paths::{self, installed};
use crate::process::wait_measured;
use anyhow::{Context, Result, bail};
use guestimg::{Flavour, Mode, Progress};
use serde::Serialize;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

const QEMU: &str = "qemu-system-x86_64";
const MARK: &str = "TRAPEZE-FIRST-PROCESS";
const DEFAULT_RUNS: usize = 5;

/// One way of booting.
struct Contender {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
}

/// One boot.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Run {
    /// Process start to the first user process.
    pub(crate) seconds: f64,
    /// Peak resident set of the process.
    pub(crate) peak_mib: f64,
}

/// What one contender did.
#[derive(Serialize)]
struct Series {
    name: &'static str,
    version: String,
    median_seconds: f64,
    median_peak_mib: f64,
    runs: Vec<Run>,
}

/// The whole measurement.
#[derive(Serialize)]
struct Report {
    guest: String,
    host: String,
    series: Vec<Series>,
    /// Trapeze's median time over QEMU's.
    ratio: Option<f64>,
}

/// `cargo xtask bench`.
pub(crate) fn run(arguments: &[String]) -> Result<bool> {
    match arguments.split_first() {
        Some((name, rest)) if name == "boot" => boots(rest),
        Some((name, rest)) if name == "io" => io::run(rest),
        _ => bail!("which benchmark? there are: boot, io"),
    }
}

/// `cargo xtask bench boot [--runs N] [--json FILE]`.
fn boots(arguments: &[String]) -> Result<bool> {
    let mut words = arguments.iter();
    let (mut runs, mut json) = (DEFAULT_RUNS, None);
    while let Some(word) = words.next() {
        let value = words
            .next()
            .with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--runs" => runs = value.parse().context("--runs")?,
            "--json" => json = Some(value),
            _ => bail!("unknown option {word}"),
        }
    }
    if runs == 0 {
        bail!("--runs 0 measures nothing");
    }
    let report = measure(runs)?;
    print!("{}", table(&report));
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_string_pretty(&report)?).context("--json")?;
    }
    Ok(true)
}

/// Options both take; the guest is the same in every byte.
fn guest_options() -> Result<(String, Vec<String>)> {
    let image = guestimg::fetch(Flavour::Cloud, false, &mut Progress::stderr())?;
    let initramfs = guestimg::initramfs(&image)?;
    let line = guestimg::command_line(Mode::Bench, None, None);
    let path = |p: PathBuf| p.to_string_lossy().into_owned();
    let fixed = [
        "-m",
        "1G",
        "-nodefaults",
        "-display",
        "none",
        "-serial",
        "stdio",
        "-no-reboot",
    ];
    let mut options: Vec<String> = fixed.map(str::to_string).to_vec();
    options.extend([
        "-kernel".into(),
        path(image.kernel),
        "-initrd".into(),
        path(initramfs),
    ]);
    options.extend(["-append".into(), line]);
    Ok((image.versions.trim_end().replace('\n', ", "), options))
}

/// The boot of Trapeze that is measured.
fn ours(options: &[String]) -> Result<Contender> {
    let mut arguments = ["system", "-accel", "soft"].map(str::to_string).to_vec();
    arguments.extend_from_slice(options);
    Ok(Contender {
        name: "trapeze",
        program: paths::trapeze()?,
        arguments,
    })
}

fn measure(runs: usize) -> Result<Report> {
    let (guest, options) = guest_options()?;
    let mut contenders = vec![ours(&options)?];
    if installed(QEMU) {
        let mut arguments = ["-accel", "tcg", "-cpu", "max"]
            .map(str::to_string)
            .to_vec();
        arguments.extend(options);
        contenders.push(Contender {
            name: "qemu tcg",
            program: QEMU.into(),
            arguments,
        });
    } else {
        eprintln!("bench: {QEMU} is not installed, so there is nothing to compare with");
    }
    let mut results: Vec<Vec<Run>> = contenders.iter().map(|_| Vec::new()).collect();
    for round in 1..=runs {
        for (contender, results) in contenders.iter().zip(&mut results) {
            let run = boot(contender)?;
            eprintln!(
                "round {round}/{runs} {:<9}{:7.3} s {:7.1} MiB",
                contender.name, run.seconds, run.peak_mib
            );
            results.push(run);
        }
    }
    let rows = contenders.iter().zip(results);
    let series: Vec<Series> = rows.map(|(c, runs)| series(c, runs)).collect();
    let ratio = (series.len() == 2).then(|| series[0].median_seconds / series[1].median_seconds);
    Ok(Report {
        guest,
        host: host(),
        series,
        ratio,
    })
}

/// Packages and versions of the guest that is measured.
pub(crate) fn guest_versions() -> Result<String> {
    Ok(guest_options()?.0)
}

/// One boot of what `cargo xtask bench boot` measures, for the soak test.
pub(crate) fn one_boot() -> Result<Run> {
    boot(&ours(&guest_options()?.1)?)
}

fn boot(contender: &Contender) -> Result<Run> {
    let begin = Instant::now();
    let mut child = Command::new(&contender.program)
        .args(&contender.arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| contender.program.display().to_string())?;
    let mut output = BufReader::new(child.stdout.take().context("no output")?);
    let (mut line, mut seconds, mut last) = (Vec::new(), None, String::new());
    let mut panicked = false;
    while output.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&line);
        panicked |= text.contains("Kernel panic");
        if text.contains(MARK) {
            seconds.get_or_insert_with(|| begin.elapsed().as_secs_f64());
        }
        last = text.trim_end().to_string();
        line.clear();
    }
    let (code, peak_kib) = wait_measured(child)?;
    match seconds {
        Some(seconds) if code == 0 && !panicked => Ok(Run {
            seconds,
            peak_mib: peak_kib as f64 / 1024.0,
        }),
        _ => bail!(
            "{} did not boot: exit code {code}, last line '{last}'",
            contender.name
        ),
    }
}

fn series(contender: &Contender, runs: Vec<Run>) -> Series {
    Series {
        name: contender.name,
        version: version(&contender.program),
        median_seconds: median(runs.iter().map(|r| r.seconds)),
        median_peak_mib: median(runs.iter().map(|r| r.peak_mib)),
        runs,
    }
}

fn version(program: &PathBuf) -> String {
    let output = Command::new(program).arg("-version").output();
    let text = output.map(|o| o.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .next()
        .unwrap_or_default()
        .to_string()
}

/// Processor, number of CPUs and kernel of the host.
pub(crate) fn host() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|l| l.strip_prefix("model name\t: "));
    let cpus = cpuinfo
        .lines()
        .filter(|l| l.starts_with("processor"))
        .count();
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{} x {cpus}, Linux {}",
        model.unwrap_or("unknown"),
        kernel.trim_end().split('-').next().unwrap_or_default()
    )
}

/// The median; 0 of nothing.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

fn table(report: &Report) -> String {
    let mut text = format!("guest: {}\nhost:  {}\n\n", report.guest, report.host);
    text.push_str(
        "| | version | median s | fastest | slowest | peak MiB |\n|---|---|--:|--:|--:|--:|\n",
    );
    for s in &report.series {
        let times = || s.runs.iter().map(|r| r.seconds);
        let (low, high) = (
            times().fold(f64::MAX, f64::min),
            times().fold(0.0, f64::max),
        );
        text.push_str(&format!(
            "| {} | {} | {:.2} | {low:.2} | {high:.2} | {:.0} |\n",
            s.name, s.version, s.median_seconds, s.median_peak_mib
        ));
    }
    if let Some(ratio) = report.ratio {
        text.push_str(&format!(
            "\nratio {ratio:.3} (trapeze / QEMU TCG, {} runs each)\n",
            report.series[0].runs.len()
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
        assert_eq!(median([].into_iter()), 0.0);
    }
}
