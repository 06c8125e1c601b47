//! `trapeze trace`: what the vCPUs of a machine leave the guest for, as a picture.

use crate::vms::{one, option};
use ::stat::{Machine, Trace};
use anyhow::{Context, Result, bail};
use clap::{Arg, ArgMatches, Command};
use std::fs::File;
use std::io::BufWriter;
use std::time::Duration;

/// Longest recording, in seconds: an hour.
const LONGEST: f64 = 3600.0;

const EXAMPLES: &str = "\
The file opens in https://ui.perfetto.dev and in chrome://tracing: a track for each
vCPU with its time in the guest and each exit, and one for each of the accelerator's
counters that moved. One recording of a machine at a time.

Examples:
  trapeze trace                          the machine that runs, 5 seconds
  trapeze trace debian --seconds 30 -o boot.json";

pub(crate) fn declare(command: Command) -> Command {
    command
        .arg(
            Arg::new("machine")
                .value_name("MACHINE")
                .help("its name or the number of its process; needed if several run"),
        )
        .arg(seconds("5"))
        .arg(option("output", "FILE", "where to; without, NAME.trace.json").short('o'))
        .after_help(EXAMPLES)
}

/// How long to look.
pub(crate) fn seconds(default: &'static str) -> Arg {
    option("seconds", "N", "how long to record").default_value(default)
}

/// What was given for it.
pub(crate) fn duration(matches: &ArgMatches) -> Result<Duration> {
    let text = one(matches, "seconds");
    match text.parse().ok().filter(|s| *s > 0.0 && *s <= LONGEST) {
        Some(seconds) => Ok(Duration::from_secs_f64(seconds)),
        None => bail!("--seconds {text}: a number above 0, up to {LONGEST}, is needed"),
    }
}

pub(crate) fn run(matches: &ArgMatches) -> Result<u8> {
    let time = duration(matches)?;
    let name = matches.get_one::<String>("machine").map(String::as_str);
    let machine = Machine::find(name)?;
    let path = match one(matches, "output") {
        "" => format!("{}.trace.json", machine.name.replace('/', "_")),
        path => path.to_string(),
    };
    let file = File::create(&path).with_context(|| format!("--output {path}"))?;
    let mut trace = Trace::new(BufWriter::new(file), &machine.name, machine.pid)?;
    eprintln!("recording {} for {} s", machine.name, time.as_secs_f64());
    machine.record(time, |batch| trace.add(&batch))?;
    let (exits, lost) = (trace.exits, trace.lost);
    trace.finish()?;
    println!("{path}: {exits} exits; open it in https://ui.perfetto.dev");
    if lost > 0 {
        println!("{lost} more came too fast to be recorded");
    }
    Ok(0)
}
