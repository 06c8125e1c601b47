//! `cargo xtask bench smp`: how much more two processes get done on two vCPUs than
//! one, as a part of what two host CPUs do natively.

use super::config::{Config, Row};
use super::contender::{self, Contender};
use crate::bench::{QEMU, host, median, version};
use crate::paths::{self, TempFolder};
use crate::setup::check_qemu;
use anyhow::{Context, Result, bail};
use std::path::Path;

/// Processes, vCPUs and the host's CPUs that are needed.
const COPIES: usize = 2;
const DEFAULT_ROUNDS: usize = 5;
/// What is measured: user code, and what processes ask of the kernel. None of these
/// stays on one CPU by itself, or writes to files.
const ROWS: [&str; 8] = [
    "integer",
    "hash-map",
    "tree",
    "copy-rep-1m",
    "fault-anonymous",
    "map-unmap",
    "fork-exit",
    "system-call",
];

/// One contender's scaling of one row, by round: 2 is perfect.
type Scaling = Vec<f64>;

/// `cargo xtask bench smp [--rounds N]`.
pub(in crate::bench) fn run(arguments: &[String]) -> Result<bool> {
    let rounds = match arguments {
        [] => DEFAULT_ROUNDS,
        [word, value] if word == "--rounds" => value.parse().context("--rounds")?,
        _ => bail!("cargo xtask bench smp [--rounds N]"),
    };
    if rounds == 0 {
        bail!("--rounds 0 measures nothing");
    }
    let cpus = std::thread::available_parallelism()?.get();
    if cpus < COPIES {
        bail!("two vCPUs need two CPUs to scale on, and there is {cpus}");
    }
    check_qemu()?;
    let config = Config::read()?;
    let rows: Vec<&Row> = ROWS.iter().filter_map(|name| config.row(name)).collect();
    if rows.len() != ROWS.len() {
        bail!("cpu.json lacks one of {}", ROWS.join(", "));
    }
    let table = measure(&config, &rows, rounds)?;
    println!("host:    {}", host());
    println!("trapeze: {}", version(&paths::trapeze()?));
    println!("qemu:    {}", version(Path::new(QEMU)));
    println!(
        "{COPIES} processes on {COPIES} vCPUs, {rounds} rounds: work done in a second over that of one\n"
    );
    print!("{}", show(&rows, &table));
    Ok(true)
}

fn measure(config: &Config, rows: &[&Row], rounds: usize) -> Result<Vec<[Scaling; 3]>> {
    let program = contender::program()?;
    let folder = TempFolder::in_memory("bench-smp")?;
    let guest = |name, vmm: &Path, options: &[String]| {
        let mut guest = config.guest(&program, None, false)?;
        guest.program = vmm.to_path_buf();
        guest.options.extend(["-smp".into(), COPIES.to_string()]);
        Contender::guest(name, &guest, options)
    };
    let mut contenders = [
        Contender::native(&program, &folder.path(""))?,
        guest("trapeze", &paths::trapeze()?, &config.trapeze)?,
        guest("tcg", Path::new(QEMU), &config.tcg)?,
    ];
    let mut table: Vec<[Scaling; 3]> = rows.iter().map(|_| Default::default()).collect();
    for round in 1..=rounds {
        for (row, scalings) in rows.iter().zip(&mut table) {
            for (contender, scaling) in contenders.iter_mut().zip(scalings) {
                scaling.push(scale(contender, row)?);
            }
        }
        eprintln!("{round}/{rounds}");
    }
    let [_, trapeze, tcg] = contenders;
    trapeze.finish()?;
    tcg.finish()?;
    Ok(table)
}

/// The row once, then its copies together.
fn scale(contender: &mut Contender, row: &Row) -> Result<f64> {
    let mut seconds = |copies| {
        let answer = contender.measure_copies(row, copies)?;
        let seconds = answer.seconds(row, row.checksum)?;
        seconds.with_context(|| format!("{}: this CPU cannot do it", row.name))
    };
    Ok(COPIES as f64 * seconds(1)? / seconds(COPIES)?)
}

fn show(rows: &[&Row], table: &[[Scaling; 3]]) -> String {
    let mut text = String::from(
        "| row | native | trapeze | tcg | trapeze / native | tcg / native |\n|---|--:|--:|--:|--:|--:|\n",
    );
    let mut logs = [0.0; 2];
    for (row, scalings) in rows.iter().zip(table) {
        let [native, trapeze, tcg] = scalings.each_ref().map(|s| median(s.iter().copied()));
        let parts = [trapeze / native, tcg / native];
        logs.iter_mut().zip(parts).for_each(|(l, p)| *l += p.ln());
        text += &format!(
            "| {} | {native:.2} | {trapeze:.2} | {tcg:.2} | {:.2} | {:.2} |\n",
            row.name, parts[0], parts[1]
        );
    }
    let [ours, theirs] = logs.map(|l| (l / rows.len() as f64).exp());
    text + &format!("| **geometric mean** | | | | **{ours:.2}** | **{theirs:.2}** |\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_rows_are_there_and_options_are_checked() {
        let config = Config::read().unwrap();
        assert!(ROWS.iter().all(|name| config.row(name).is_some()));
        for wrong in [&["--rounds", "0"][..], &["--rounds", "x"], &["--fast"]] {
            let words: Vec<String> = wrong.iter().map(|w| w.to_string()).collect();
            assert!(run(&words).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_table_says_what_part_of_native_is_reached() {
        let config = Config::read().unwrap();
        let rows = [config.row("tree").unwrap()];
        let table = [[vec![2.0, 2.0, 1.0], vec![1.0], vec![0.5]]];
        let text = show(&rows, &table);
        assert!(
            text.contains("| tree | 2.00 | 1.00 | 0.50 | 0.50 | 0.25 |"),
            "{text}"
        );
        assert!(text.contains("**0.50** | **0.25**"), "{text}");
    }
}
