//! `cargo xtask bench boot`: process start to the guest's first process, and
//! to the login of a Debian on a disk, here and under QEMU TCG, in turns so
//! that both see the same weather.
//! `cargo xtask bench exits` is `conformance`'s `exits`,
//! `cargo xtask bench cpu` is in [`cpu`], `cargo xtask bench smp` in [`cpu::smp`],
//! `cargo xtask bench io` in [`io`], `cargo xtask bench net` in [`net`].

mod contest;
mod cpu;
pub(crate) mod guest;
mod io;
pub(crate) mod net;

use crate::debian::Debian;
use crate::paths::{self, TempFolder, cargo, installed};
use crate::process::wait_measured;
use anyhow::{Context, Result, bail};
use guestimg::{Flavour, Mode, Progress};
use serde::Serialize;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const QEMU: &str = "qemu-system-x86_64";
const DEFAULT_RUNS: usize = 5;

/// What is booted.
struct Guest {
    /// Its name in reports and on the command line.
    name: &'static str,
    /// Packages and versions.
    versions: String,
    /// Options that every contender takes; the guest is the same in every byte.
    options: Vec<String>,
    /// Where the clock stops: a part of a line on the console.
    mark: &'static str,
    /// The guest ends by itself; else it is killed at the mark.
    ends: bool,
    /// The disk, made anew for each boot.
    disk: Option<(Debian, TempFolder)>,
}

/// One way of booting.
struct Contender {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
}

/// One boot.
#[derive(Clone, Copy, Serialize)]
struct Run {
    /// Process start to the first user process.
    seconds: f64,
    /// Peak resident set of the process.
    peak_mib: f64,
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
    host: String,
    rows: Vec<Row>,
}

/// What became of one guest.
#[derive(Serialize)]
struct Row {
    name: &'static str,
    guest: String,
    series: Vec<Series>,
    /// Trapeze's median time over QEMU's.
    ratio: Option<f64>,
}

/// `cargo xtask bench`.
pub(crate) fn run(arguments: &[String]) -> Result<bool> {
    match arguments.split_first() {
        Some((name, rest)) if name == "boot" => boots(rest),
        Some((name, rest)) if name == "cpu" => cpu::run(rest),
        Some((name, rest)) if name == "exits" => exits(rest),
        Some((name, rest)) if name == "io" => io::run(rest),
        Some((name, rest)) if name == "net" => net::run(rest),
        Some((name, rest)) if name == "smp" => cpu::smp::run(rest),
        _ => bail!("which benchmark? there are: boot, cpu, exits, io, net, smp"),
    }
}

/// `cargo xtask bench exits [soft|kvm]`.
fn exits(arguments: &[String]) -> Result<bool> {
    let mut command = cargo();
    command.args(["run", "--release", "--quiet", "--package", "conformance"]);
    command.args(["--bin", "exits", "--"]).args(arguments);
    Ok(command.status().context("cargo run")?.success())
}

/// `cargo xtask bench boot [--runs N] [--json FILE] [--only NAME]`.
fn boots(arguments: &[String]) -> Result<bool> {
    let mut words = arguments.iter();
    let (mut runs, mut json, mut only) = (DEFAULT_RUNS, None, None);
    while let Some(word) = words.next() {
        let value = words
            .next()
            .with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--runs" => runs = value.parse().context("--runs")?,
            "--json" => json = Some(value),
            "--only" => only = Some(value),
            _ => bail!("unknown option {word}"),
        }
    }
    if runs == 0 {
        bail!("--runs 0 measures nothing");
    }
    let report = measure(runs, only.map(String::as_str))?;
    print!("{}", table(&report));
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_string_pretty(&report)?).context("--json")?;
    }
    Ok(true)
}

/// Options of every boot that is measured.
const COMMON: [&str; 6] = [
    "-nodefaults",
    "-display",
    "none",
    "-serial",
    "stdio",
    "-no-reboot",
];

impl Guest {
    /// The kernel and an initramfs.
    fn initramfs() -> Result<Self> {
        let image = guestimg::fetch(Flavour::Cloud, false, &mut Progress::stderr())?;
        let initramfs = guestimg::initramfs(&image)?;
        let line = guestimg::command_line(Mode::Bench, None, None);
        let path = |p: PathBuf| p.to_string_lossy().into_owned();
        let kernel = path(image.kernel);
        let initramfs = path(initramfs);
        let files = ["-kernel", &kernel, "-initrd", &initramfs];
        let own = ["-m", "1G", "-append", line.as_str()];
        let all = COMMON.iter().chain(&own).chain(&files);
        Ok(Self {
            name: "initramfs",
            versions: image.versions.trim_end().replace('\n', ", "),
            options: all.map(|s| s.to_string()).collect(),
            mark: "TRAPEZE-FIRST-PROCESS",
            ends: true,
            disk: None,
        })
    }

    /// A whole Debian on a qcow2 disk, to its login.
    fn debian() -> Result<Self> {
        let debian = Debian::get()?;
        let folder = TempFolder::new("bench-boot")?;
        let mut options: Vec<String> = COMMON.map(str::to_string).to_vec();
        options.extend(["-m".into(), "2G".into()]);
        options.extend(debian.options(&folder.path("disk.qcow2")));
        Ok(Self {
            name: "debian",
            versions: debian.version.clone(),
            options,
            mark: "trapeze ttyS0",
            ends: false,
            disk: Some((debian, folder)),
        })
    }

    /// Puts everything as it is before each boot.
    fn prepare(&self) -> Result<()> {
        let Some((debian, folder)) = &self.disk else {
            return Ok(());
        };
        let path = folder.path("disk.qcow2");
        // There is none before the first boot.
        let _ = std::fs::remove_file(&path);
        debian.overlay(&path)
    }

    /// The boot of Trapeze that is measured.
    fn ours(&self) -> Result<Contender> {
        let mut arguments = ["system", "-accel", "soft"].map(str::to_string).to_vec();
        arguments.extend_from_slice(&self.options);
        Ok(Contender {
            name: "trapeze",
            program: paths::trapeze()?,
            arguments,
        })
    }

    /// The same under QEMU.
    fn tcg(&self) -> Contender {
        let mut arguments = ["-accel", "tcg", "-cpu", "max"]
            .map(str::to_string)
            .to_vec();
        arguments.extend_from_slice(&self.options);
        Contender {
            name: "qemu tcg",
            program: QEMU.into(),
            arguments,
        }
    }
}

type Make = fn() -> Result<Guest>;

/// What is booted, by name.
const GUESTS: [(&str, Make); 2] = [("initramfs", Guest::initramfs), ("debian", Guest::debian)];

fn measure(runs: usize, only: Option<&str>) -> Result<Report> {
    let wanted = GUESTS.iter().filter(|(n, _)| only.is_none_or(|o| o == *n));
    let rows: Vec<Row> = wanted
        .map(|(_, make)| measure_guest(&make()?, runs))
        .collect::<Result<_>>()?;
    if rows.is_empty() {
        bail!("--only what? there are: {}", GUESTS.map(|g| g.0).join(", "));
    }
    Ok(Report { host: host(), rows })
}

fn measure_guest(guest: &Guest, runs: usize) -> Result<Row> {
    let mut contenders = vec![guest.ours()?];
    if installed(QEMU) {
        contenders.push(guest.tcg());
    } else {
        eprintln!("bench: {QEMU} is not installed, so there is nothing to compare with");
    }
    let mut results: Vec<Vec<Run>> = contenders.iter().map(|_| Vec::new()).collect();
    for round in 1..=runs {
        for (contender, results) in contenders.iter().zip(&mut results) {
            let run = boot(guest, contender)?;
            eprintln!(
                "{} {round}/{runs} {:<9}{:7.3} s {:7.1} MiB",
                guest.name, contender.name, run.seconds, run.peak_mib
            );
            results.push(run);
        }
    }
    let rows = contenders.iter().zip(results);
    let series: Vec<Series> = rows.map(|(c, runs)| series(c, runs)).collect();
    let ratio = (series.len() == 2).then(|| series[0].median_seconds / series[1].median_seconds);
    Ok(Row {
        name: guest.name,
        guest: guest.versions.clone(),
        series,
        ratio,
    })
}

/// Packages and versions of the guest that is measured.
pub(crate) fn guest_versions() -> Result<String> {
    Ok(Guest::initramfs()?.versions)
}

/// The boot that `cargo xtask bench boot` measures, for the soak tests.
pub(crate) fn bench_boot() -> Result<Command> {
    let ours = Guest::initramfs()?.ours()?;
    let mut command = Command::new(&ours.program);
    command.args(&ours.arguments);
    Ok(command)
}

fn boot(guest: &Guest, contender: &Contender) -> Result<Run> {
    guest.prepare()?;
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
        if seconds.is_none() && text.contains(guest.mark) {
            seconds = Some(begin.elapsed().as_secs_f64());
            if !guest.ends {
                child.kill()?;
            }
        }
        last = text.trim_end().to_string();
        line.clear();
    }
    let (code, peak_kib) = wait_measured(child)?;
    let ended = code == 0 || !guest.ends;
    match seconds {
        Some(seconds) if ended && !panicked => Ok(Run {
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

/// What `program` says of its version.
fn version(program: &Path) -> String {
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
    let mut text = format!("host: {}\n", report.host);
    for row in &report.rows {
        row_table(row, &mut text);
    }
    text
}

fn row_table(row: &Row, text: &mut String) {
    text.push_str(&format!("\n{}: {}\n\n", row.name, row.guest));
    text.push_str(
        "| | version | median s | fastest | slowest | peak MiB |\n|---|---|--:|--:|--:|--:|\n",
    );
    for s in &row.series {
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
    if let Some(ratio) = row.ratio {
        text.push_str(&format!(
            "\nratio {ratio:.3} (trapeze / QEMU TCG, {} runs each)\n",
            row.series[0].runs.len()
        ));
    }
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
