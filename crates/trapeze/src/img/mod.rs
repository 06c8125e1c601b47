//! `trapeze img`: QEMU's `qemu-img` for raw and qcow2 images.

mod check;
mod commit;
mod compare;
mod convert;
mod copy;
mod create;
mod getopt;
mod help;
mod images;
mod info;
mod json;
mod map;
mod options;
mod progress;
mod rebase;
mod resize;
mod sizes;
mod snapshot;
mod table;

use crate::near::did_you_mean;
use table::{COMMANDS, Command, REFUSED};

/// Under which name the commands came: it begins every message.
pub(crate) struct Tool {
    name: &'static str,
}

impl Tool {
    /// Says something that is no result.
    fn warn(&self, text: &str) {
        eprintln!("{}: {text}", self.name);
    }
}

/// The commands as clap knows them, which does not read them.
pub(crate) fn declared(command: clap::Command) -> clap::Command {
    let option = |row: &table::Row| {
        let arg = clap::Arg::new(row.long).long(row.long).help(row.help);
        let arg = match row.short {
            ' ' => arg,
            short => arg.short(short),
        };
        match row.value {
            "" => arg.num_args(0),
            value => arg.value_name(value),
        }
    };
    let one = |c: &Command| {
        let options = c.options.iter().filter(|r| !r.help.is_empty());
        let words = clap::Arg::new("words").value_name(c.operands).num_args(0..);
        clap::Command::new(c.name)
            .about(c.help)
            .disable_help_flag(true)
            .args(options.map(option))
            .arg(words.value_hint(clap::ValueHint::AnyPath))
    };
    command
        .disable_help_subcommand(true)
        .subcommands(COMMANDS.iter().map(one))
}

/// Runs a command; the exit code.
pub(crate) fn main(name: &'static str, arguments: &[String]) -> u8 {
    let tool = Tool { name };
    let Some(first) = arguments.first() else {
        return tool.usage_error("Not enough arguments", "");
    };
    match first.as_str() {
        "-h" | "--help" => {
            print!("{}", help::overview(name));
            return 0;
        }
        "-V" | "--version" => {
            println!("{name} (Trapeze) version {}", env!("CARGO_PKG_VERSION"));
            return 0;
        }
        _ => {}
    }
    if let Some(option) = first.strip_prefix("--") {
        return tool.usage_error(&format!("unrecognized option '--{option}'"), "");
    }
    if let Some(letter) = first.strip_prefix('-').and_then(|w| w.chars().next()) {
        return tool.usage_error(&format!("invalid option -- '{letter}'"), "");
    }
    match COMMANDS.iter().find(|c| c.name == first) {
        Some(command) => tool.run(command, &arguments[1..]),
        None if REFUSED.contains(&first.as_str()) => {
            tool.warn(&format!("the command '{first}' is not supported"));
            1
        }
        None => {
            let hint = did_you_mean(first, COMMANDS.iter().map(|c| c.name));
            tool.usage_error(&format!("Command not found: {first}{hint}"), "")
        }
    }
}

impl Tool {
    /// An error in the words of a command line, and where to find help.
    fn usage_error(&self, text: &str, command: &str) -> u8 {
        self.warn(text);
        let space = if command.is_empty() { "" } else { " " };
        eprintln!("Try '{}{space}{command} --help' for more info", self.name);
        1
    }

    fn run(&self, command: &Command, words: &[String]) -> u8 {
        let parsed = match getopt::parse(command, words) {
            Ok(parsed) => parsed,
            Err(why) => {
                eprintln!("{} {}: {why}", self.name, command.name);
                eprintln!("Try '{} {} --help' for more info", self.name, command.name);
                return 1;
            }
        };
        if parsed.has("help") {
            print!("{}", help::of(self.name, command));
            return 0;
        }
        let refused = |(name, _): &&(&str, String)| {
            let row = command.options.iter().find(|r| r.long == *name);
            row.is_some_and(|r| r.help.is_empty())
        };
        if let Some((name, _)) = parsed.options.iter().find(refused) {
            self.warn(&format!("the option '--{name}' is not supported"));
            return 1;
        }
        match (command.run)(self, &parsed) {
            Ok(code) => code,
            Err(why) => match why.strip_prefix(TRY_HELP) {
                Some(text) => self.usage_error(text, command.name),
                None => {
                    self.warn(&why);
                    command.failure
                }
            },
        }
    }
}

/// Begins errors that a look at the help would avoid.
const TRY_HELP: &str = "\u{1}";

/// An error after which the help is pointed to.
fn try_help(text: impl std::fmt::Display) -> String {
    format!("{TRY_HELP}{text}")
}
