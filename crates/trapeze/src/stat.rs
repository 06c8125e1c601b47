//! `trapeze stat`: the counters of machines that run.

use crate::trace::{duration, seconds};
use crate::vms::{flag, json, one, option};
use ::stat::{Filter, Fleet, Host, Latencies, Machine, Source, serve, watch};
use anyhow::{Result, bail};
use clap::{ArgMatches, Command};
use std::io::{IsTerminal, stdout};

const EXAMPLES: &str = "\
Without one of -1, -l and --prometheus: a live view, on a terminal.

Examples:
  trapeze stat                           all machines of this user, live
  trapeze stat -1 -f 'exits|.*_exits'    two looks, a second apart
  trapeze stat -l -f 'exits|pf_' -p 4711 a line each second, of one machine
  trapeze stat --prometheus 127.0.0.1:9464
  trapeze stat --exits -p 4711           exits by reason, with how long each took
  sudo trapeze stat --host -1            all on this host's KVM, QEMU's as well";

pub(crate) fn declare(command: Command) -> Command {
    command
        .arg(
            flag("once", "sums and rates, once")
                .short('1')
                .visible_alias("batch"),
        )
        .arg(flag("log", "a line of rates each second").short('l'))
        .arg(option("fields", "REGEX", "only counters whose names begin so").short('f'))
        .arg(
            option("pid", "PID", "only the machine of this process")
                .short('p')
                .value_parser(clap::value_parser!(u32)),
        )
        .arg(flag(
            "host",
            "what KVM counts for all machines of the host (debugfs)",
        ))
        .arg(option("prometheus", "ADDRESS", "answer GET /metrics there"))
        .arg(flag(
            "exits",
            "exits of one machine by reason, with histograms of how long each took",
        ))
        .arg(seconds("2").requires("exits"))
        .arg(json())
        .group(clap::ArgGroup::new("manner").args(["once", "log", "prometheus", "exits"]))
        .group(clap::ArgGroup::new("source").args(["pid", "host"]))
        .after_help(EXAMPLES)
}

/// The machine is the only one, or the one of `--pid`.
fn exits(matches: &ArgMatches) -> Result<u8> {
    let pid = matches.get_one::<u32>("pid").map(u32::to_string);
    let machine = Machine::find(pid.as_deref())?;
    let mut all = Latencies::default();
    machine.record(duration(matches)?, |batch| {
        all.add(&batch);
        Ok(())
    })?;
    match matches.get_flag("json") {
        true => println!("{:#}", all.json()),
        false => print!("{}", all.table()),
    }
    Ok(0)
}

pub(crate) fn run(matches: &ArgMatches) -> Result<u8> {
    if matches.get_flag("exits") {
        return exits(matches);
    }
    let filter = match one(matches, "fields") {
        "" => Filter::default(),
        pattern => Filter::new(pattern).map_err(|why| anyhow::anyhow!("--fields: {why}"))?,
    };
    if matches.get_flag("json") && !matches.get_flag("once") {
        bail!("stat: --json is for -1 and --exits");
    }
    let mut source: Box<dyn Source> = match matches.get_flag("host") {
        true => Box::new(Host::new()),
        false => Box::new(Fleet::new(matches.get_one("pid").copied())),
    };
    let source = source.as_mut();
    let address = one(matches, "prometheus");
    if matches.get_flag("once") && matches.get_flag("json") {
        println!("{:#}", ::stat::json(source, &filter)?);
    } else if matches.get_flag("once") {
        print!("{}", ::stat::once(source, &filter)?);
    } else if matches.get_flag("log") {
        ::stat::log(source, &filter, &mut stdout())?;
    } else if !address.is_empty() {
        serve(address, source, &filter, |a| println!("http://{a}/metrics"))?;
    } else if stdout().is_terminal() {
        watch(source, &filter)?;
    } else {
        bail!("stat: the live view needs a terminal; -1 and -l do not");
    }
    Ok(0)
}
