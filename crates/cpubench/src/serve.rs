//! Reads what to do, line by line.

use crate::program;
use crate::row::{self, Outcome, Row};
use crate::system::together;
use std::io::{self, BufRead, Write};
use std::path::Path;

/// Most processes that do something together.
const MOST_COPIES: usize = 64;

/// Serves standard input until `quit` or its end, with `folder`, a tmpfs, as
/// current folder.
pub(crate) fn serve(folder: &str) -> io::Result<()> {
    std::env::set_current_dir(Path::new(folder))?;
    println!("cpubench ready\ndone");
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] => {}
            ["quit"] => break,
            ["facts"] => facts(),
            ["run", name, count] => println!("{}", answer(name, count, "1")),
            ["together", copies, name, count] => println!("{}", answer(name, count, copies)),
            ["program", name, _, ..] => println!("{}", shell(name, &line)),
            _ => println!("failed line unknown: {line}"),
        }
        println!("done");
        io::stdout().flush()?;
    }
    Ok(())
}

fn answer(name: &str, count: &str, copies: &str) -> String {
    let Some(row) = row::all().find(|r| r.name == name) else {
        return format!("failed {name} there is no such row");
    };
    match (count.parse(), copies.parse()) {
        (Ok(count), Ok(copies @ 1..=MOST_COPIES)) => run(row, count, copies),
        (Ok(_), _) => format!("failed {name} '{copies}' is not 1 to {MOST_COPIES} copies"),
        _ => format!("failed {name} '{count}' is no count"),
    }
}

fn run(row: &Row, count: u64, copies: usize) -> String {
    let name = row.name;
    if let Some((missing, _)) = row.needs.iter().find(|(_, is_there)| !is_there()) {
        return format!("absent {name} {missing}");
    }
    said(
        name,
        match copies {
            1 => (row.run)(count),
            _ => together(row, copies, count),
        },
    )
}

fn shell(name: &str, line: &str) -> String {
    // The spaces in the rest are its own.
    let rest = line.split_once(&format!(" {name} "));
    said(name, program::run(rest.map_or("", |(_, rest)| rest)))
}

fn said(name: &str, outcome: io::Result<Outcome>) -> String {
    match outcome {
        Ok(outcome) => format!(
            "result {name} {} {:016x}",
            outcome.time.as_nanos(),
            outcome.checksum
        ),
        Err(why) => format!("failed {name} {why}"),
    }
}

/// What the kernel says of its surroundings.
fn facts() {
    let read = |path: &str| io::Result::unwrap_or_default(std::fs::read_to_string(path));
    let cpuinfo = read("/proc/cpuinfo");
    let flags = cpuinfo.lines().find_map(|l| l.strip_prefix("flags"));
    let flags = flags
        .unwrap_or_default()
        .trim_start_matches(['\t', ':', ' ']);
    let clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    // A terminal wraps nothing, but lines of a thousand letters are hard to read.
    for flag in flags.split_whitespace() {
        println!("fact flag {flag}");
    }
    println!("fact clocksource {}", read(clock).trim());
    println!("fact kernel {}", read("/proc/sys/kernel/osrelease").trim());
}
