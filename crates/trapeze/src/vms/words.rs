//! The words of these commands: parsed by clap, completed by shells.

use ::vms::{image, store};
use anyhow::Result;
use clap::{Arg, ArgAction, ArgMatches, Command};
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};

/// Parses and runs; the exit code.
pub(crate) fn main(words: &[String], command: Command, run: fn(&ArgMatches) -> Result<u8>) -> u8 {
    let name = command.get_name().to_string();
    let command = command.bin_name(format!("trapeze {name}"));
    match command.try_get_matches_from(std::iter::once(&name).chain(words)) {
        Ok(matches) => run(&matches).unwrap_or_else(|why| {
            eprintln!("trapeze: {why:#}");
            1
        }),
        // Help is no error.
        Err(why) if !why.use_stderr() => {
            let _ = why.print();
            0
        }
        Err(why) => {
            eprintln!("trapeze: {name}: {}", in_a_line(&name, &why.to_string()));
            1
        }
    }
}

/// What clap says in several: the error, a tip, and how the command is used.
fn in_a_line(name: &str, said: &str) -> String {
    let said = said.split("\nUsage:").next().unwrap_or_default();
    let said = said.split("\nFor more information").next();
    let mut line = String::new();
    for part in said.unwrap_or_default().lines().map(str::trim) {
        match part.strip_prefix("tip: ") {
            Some(tip) => line.push_str(&format!("; {tip}")),
            None if part.is_empty() || line.is_empty() => line.push_str(part),
            None => line.push_str(&format!(" {part}")),
        }
    }
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    format!("{line}; 'trapeze {name} --help' says more")
}

pub(super) fn vm_names() -> Vec<CompletionCandidate> {
    let all = store::list().unwrap_or_default();
    all.iter()
        .map(|vm| CompletionCandidate::new(&vm.name).help(Some(vm.state().name().into())))
        .collect()
}

pub(super) fn image_names() -> Vec<CompletionCandidate> {
    let all = image::list().unwrap_or_default();
    all.iter()
        .map(|i| CompletionCandidate::new(&i.name).help(Some(i.about.system.clone().into())))
        .collect()
}

pub(super) fn vm() -> Arg {
    let names = ArgValueCandidates::new(vm_names);
    Arg::new("name")
        .value_name("NAME")
        .required(true)
        .add(names)
}
pub(super) fn vms() -> Arg {
    vm().num_args(1..)
}
pub(crate) fn option(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}
pub(crate) fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .help(help)
        .action(ArgAction::SetTrue)
}
pub(crate) fn json() -> Arg {
    flag("json", "for programs")
}
/// What is the guest's: words behind the machine's name.
pub(super) fn guests(help: &'static str) -> Arg {
    Arg::new("rest")
        .value_name("COMMAND")
        .num_args(0..)
        .trailing_var_arg(true)
        .allow_hyphen_values(true)
        .help(help)
}
pub(crate) fn one<'a>(matches: &'a ArgMatches, id: &str) -> &'a str {
    matches.get_one::<String>(id).map_or("", |n| n)
}
pub(super) fn many<'a>(matches: &'a ArgMatches, id: &str) -> impl Iterator<Item = &'a String> {
    matches.get_many::<String>(id).into_iter().flatten()
}
