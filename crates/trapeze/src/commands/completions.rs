//! Completion in shells: they ask this program, which knows the machines.

use super::tree;
use crate::near::did_you_mean;
use anyhow::{Result, bail};
use clap::{Arg, ArgMatches, Command};
use clap_complete::CompleteEnv;
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};

/// Set by the shell's function when it asks.
const VARIABLE: &str = "TRAPEZE_COMPLETE";
const SHELLS: [(&str, &dyn EnvCompleter); 3] = [("bash", &Bash), ("zsh", &Zsh), ("fish", &Fish)];

pub(super) fn declare(command: Command) -> Command {
    let shell = Arg::new("shell").value_name("SHELL").required(true);
    command
        .arg(shell.value_parser(SHELLS.map(|(name, _)| name)))
        .after_help("Examples:\n  echo 'source <(trapeze completions bash)' >> ~/.bashrc\n  trapeze completions zsh > ~/.zfunc/_trapeze      (a folder of $fpath)\n  trapeze completions fish > ~/.config/fish/completions/trapeze.fish")
}

pub(super) fn run(matches: &ArgMatches) -> Result<u8> {
    let wanted = matches.get_one::<String>("shell").map_or("", |n| n);
    let Some((_, shell)) = SHELLS.iter().find(|(name, _)| *name == wanted) else {
        let near = did_you_mean(wanted, SHELLS.iter().map(|(name, _)| *name));
        bail!("'{wanted}' is no shell{near}");
    };
    let mut text = Vec::new();
    shell.write_registration(VARIABLE, "trapeze", "trapeze", "trapeze", &mut text)?;
    crate::vms::print(&text)?;
    Ok(0)
}

/// Answers a shell, if that is who calls; the exit code.
pub(super) fn asked(program: &str, arguments: &[String]) -> Option<u8> {
    std::env::var_os(VARIABLE)?;
    let words = std::iter::once(program).chain(arguments.iter().map(String::as_str));
    let folder = std::env::current_dir().ok();
    let answered = CompleteEnv::with_factory(tree::all)
        .var(VARIABLE)
        .try_complete(words, folder.as_deref());
    match answered {
        Ok(true) => Some(0),
        Ok(false) => None,
        Err(why) => {
            eprintln!("trapeze: completion: {why}");
            Some(1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command as Process;

    /// Each shell reads its script without running it.
    #[test]
    fn shells_understand_their_scripts() {
        for (name, shell) in SHELLS {
            let mut text = Vec::new();
            let written =
                shell.write_registration(VARIABLE, "trapeze", "trapeze", "trapeze", &mut text);
            written.unwrap();
            let path = std::env::temp_dir().join(format!("trapeze-{name}-{}", std::process::id()));
            std::fs::write(&path, text).unwrap();
            let output = Process::new(name).arg("-n").arg(&path).output().unwrap();
            std::fs::remove_file(&path).unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.is_empty(), "{name}: {said}");
        }
    }
}
