//! All commands as clap knows them, for completions and the manual.

use super::COMMANDS;
use crate::{img, system};
use clap::{Arg, Command};
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use guestimg::Flavour;

/// The whole program.
pub(super) fn all() -> Command {
    Command::new("trapeze")
        .about("virtual machines with or without hardware virtualization")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_subcommand(true)
        .subcommands(COMMANDS.iter().map(super::Command::declared))
}

/// A command that reads its words itself: what others should know of them.
pub(super) fn own(command: Command) -> Command {
    match command.get_name() {
        "img" => img::declared(command),
        "fetch" => {
            let kernels = Flavour::ALL.map(Flavour::name);
            let refresh = Arg::new("refresh").long("refresh").num_args(0);
            command.arg(refresh.help("get them again")).arg(
                Arg::new("kernel")
                    .value_name("KERNEL")
                    .value_parser(kernels),
            )
        }
        // The options have one dash, which clap does not know: they are words.
        "linux" | "guest" | "system" => {
            let options = Arg::new("options").value_name("OPTIONS");
            let options = options.num_args(0..).allow_hyphen_values(true);
            let options = options.trailing_var_arg(true);
            command
                .disable_help_flag(true)
                .arg(options.add(ArgValueCandidates::new(machine_options)))
        }
        _ => command.disable_help_flag(true),
    }
}

/// Those of `trapeze system`.
fn machine_options() -> Vec<CompletionCandidate> {
    let all = system::options();
    all.map(|(name, _, help)| {
        let short = help.split(['.', ';', ':', '(']).next().unwrap_or(help);
        CompletionCandidate::new(format!("-{name}")).help(Some(short.trim().to_string().into()))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    /// clap's own checks: names that stand twice, arguments that cannot be.
    #[test]
    fn what_is_declared_is_sound() {
        super::all().debug_assert();
    }
}
