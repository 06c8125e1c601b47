//! `trapeze console`, `logs`, `ssh`, `exec`: ways into a machine.

use super::words::{flag, guests, many, vm};
use super::{machine, running, show};
use ::vms::console::{Left, attach};
use ::vms::{State, Vm, ssh as remote, start};
use anyhow::{Context, Result, bail};
use clap::{ArgMatches, Command};
use machine::console::RawTerminal;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::time::Duration;

/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(100);

pub(super) fn on_console(vm: &Vm) -> Result<u8> {
    let terminal = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let raw = RawTerminal::enter(terminal);
    let left = attach(vm)?;
    drop(raw);
    if left == Left::Quit {
        start::stop(vm, Duration::ZERO)?;
    }
    let now = match left {
        Left::Detached => "still runs",
        Left::Ended | Left::Quit => "ended",
    };
    eprintln!("\ntrapeze: {} {now}", vm.name);
    Ok(0)
}

pub(crate) fn declare_console(command: Command) -> Command {
    command.arg(vm())
}

pub(crate) fn console(matches: &ArgMatches) -> Result<u8> {
    let vm = running(matches)?;
    eprintln!(
        "trapeze: console of {}; Ctrl-A D leaves it, Ctrl-A X ends the machine",
        vm.name
    );
    on_console(&vm)
}

pub(crate) fn declare_logs(command: Command) -> Command {
    let follow = flag("follow", "go on until the machine ends, or Ctrl-C");
    command.arg(vm()).arg(follow.short('f'))
}

pub(crate) fn logs(matches: &ArgMatches) -> Result<u8> {
    let vm = machine(matches)?;
    let path = vm.path("console.log");
    let mut file = match File::open(&path) {
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => {
            bail!(
                "{0} has not run yet; 'trapeze start {0}' starts it",
                vm.name
            )
        }
        file => file.with_context(|| path.display().to_string())?,
    };
    let mut buffer = [0; 1 << 16];
    loop {
        // What it says before it ends is there once it has ended.
        let goes_on = matches.get_flag("follow") && vm.state() == State::Running;
        loop {
            let count = file.read(&mut buffer)?;
            if !show::print(&buffer[..count])? {
                return Ok(0);
            }
            if count == 0 {
                break;
            }
        }
        if !goes_on {
            return Ok(0);
        }
        std::thread::sleep(LOOK);
    }
}

/// `words` are what ssh is given behind the machine.
fn over_ssh(matches: &ArgMatches, words: impl Iterator<Item = String>) -> Result<u8> {
    let vm = running(matches)?;
    let mut command = remote::command(&vm)?;
    let status = command.args(words).status();
    let status = status.context("ssh cannot be run; it comes with the package openssh-client")?;
    Ok(status.code().map_or(255, |c| c.clamp(0, 255) as u8))
}

pub(crate) fn declare_ssh(command: Command) -> Command {
    command.arg(vm()).arg(guests("for the guest's shell"))
}

pub(crate) fn ssh(matches: &ArgMatches) -> Result<u8> {
    over_ssh(matches, many(matches, "rest").cloned())
}

pub(crate) fn declare_exec(command: Command) -> Command {
    command
        .arg(vm())
        .arg(guests("the program and its words, which no shell changes").required(true))
}

pub(crate) fn exec(matches: &ArgMatches) -> Result<u8> {
    // ssh's other end is a shell, which shall see the words as they are.
    over_ssh(matches, many(matches, "rest").map(remote::quoted))
}
