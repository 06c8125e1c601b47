//! The commands, one row each, and what the program's own name means.

mod completions;
mod manual;
mod tree;

use crate::near::did_you_mean;
use crate::system::{self, Personality};
use crate::vms::{images, manage, reach, run};
use crate::{check, embedded, img, linux, stat, trace, vms};
use anyhow::Result;
use clap::ArgMatches;

struct Command {
    name: &'static str,
    arguments: &'static str,
    help: &'static str,
    words: Words,
}

/// Who reads what comes behind the command.
enum Words {
    /// The command itself.
    Own(fn(&[String]) -> u8),
    /// clap, to which they are declared.
    Declared(
        fn(clap::Command) -> clap::Command,
        fn(&ArgMatches) -> Result<u8>,
    ),
}

use Words::{Declared, Own};

impl Command {
    fn run(&self, words: &[String]) -> u8 {
        match self.words {
            Own(run) => run(words),
            Declared(_, run) => vms::main(words, self.declared(), run),
        }
    }

    /// As clap knows it.
    fn declared(&self) -> clap::Command {
        let command = clap::Command::new(self.name).about(self.help);
        match self.words {
            Own(_) => tree::own(command),
            Declared(declare, _) => declare(command),
        }
    }
}

const COMMANDS: &[Command] = &[
    Command {
        name: "linux",
        arguments: "[OPTIONS]",
        help: "boot Debian's kernel to a shell (the default); takes the options of 'system'",
        words: Own(linux::run),
    },
    Command {
        name: "guest",
        arguments: "[OPTIONS]",
        help: "boot the embedded guest: shows CPU, memory and interrupts, checks itself",
        words: Own(embedded::run),
    },
    Command {
        name: "system",
        arguments: "[OPTIONS]",
        help: "run a machine described by QEMU's options; 'trapeze system -help' lists them",
        words: Own(|words| system::main(Personality::Trapeze, words)),
    },
    Command {
        name: "img",
        arguments: "COMMAND [OPTIONS]",
        help: "make, check, convert disk images; 'trapeze img --help' lists the commands",
        words: Own(|words| img::main("trapeze img", words)),
    },
    Command {
        name: "fetch",
        arguments: "[--refresh] [cloud-amd64|686|686-pae]",
        help: "get a Debian kernel and busybox into the cache, print where they are",
        words: Own(linux::fetch),
    },
    Command {
        name: "run",
        arguments: "IMAGE [OPTIONS]",
        help: "make a machine from an image and start it; 'debian' is made if it is not there",
        words: Declared(run::declare, run::run),
    },
    Command {
        name: "start",
        arguments: "NAME...",
        help: "start machines again",
        words: Declared(manage::declare_start, manage::start),
    },
    Command {
        name: "ls",
        arguments: "[--json]",
        help: "list machines",
        words: Declared(manage::declare_ls, manage::ls),
    },
    Command {
        name: "stop",
        arguments: "NAME...",
        help: "ask guests to power off, and end them if they do not",
        words: Declared(manage::declare_stop, manage::stop),
    },
    Command {
        name: "rm",
        arguments: "[--force] NAME...",
        help: "remove machines with their disks",
        words: Declared(manage::declare_rm, manage::rm),
    },
    Command {
        name: "console",
        arguments: "NAME",
        help: "a machine's serial console; Ctrl-A D leaves it, Ctrl-A X ends the machine",
        words: Declared(reach::declare_console, reach::console),
    },
    Command {
        name: "logs",
        arguments: "[-f] NAME",
        help: "what that said",
        words: Declared(reach::declare_logs, reach::logs),
    },
    Command {
        name: "ssh",
        arguments: "NAME [COMMAND]",
        help: "a shell in the guest",
        words: Declared(reach::declare_ssh, reach::ssh),
    },
    Command {
        name: "exec",
        arguments: "NAME COMMAND",
        help: "run a program in the guest; its exit code is this one's",
        words: Declared(reach::declare_exec, reach::exec),
    },
    Command {
        name: "image",
        arguments: "build|import|ls|rm",
        help: "the images that machines are made from",
        words: Declared(images::declare, images::run),
    },
    Command {
        name: "completions",
        arguments: "bash|zsh|fish",
        help: "print what a shell needs to complete these commands",
        words: Declared(completions::declare, completions::run),
    },
    Command {
        name: "man",
        arguments: "DIR",
        help: "write the manual's pages into a folder",
        words: Declared(manual::declare, manual::run),
    },
    Command {
        name: "check",
        arguments: "[--json]",
        help: "what this host can do, which accelerator is used and why",
        words: Declared(check::declare, check::run),
    },
    Command {
        name: "stat",
        arguments: "[-1|--once|-l|--log] [-f FIELDS] [OPTIONS]",
        help: "what running machines count, live or as text",
        words: Declared(stat::declare, stat::run),
    },
    Command {
        name: "trace",
        arguments: "[MACHINE] [--seconds N] [-o FILE]",
        help: "record a machine's exits and counters as a trace that Perfetto shows",
        words: Declared(trace::declare, trace::run),
    },
    Command {
        name: "help",
        arguments: "",
        help: "this text",
        words: Own(|_| help()),
    },
];

/// Names under which the binary behaves as QEMU, and the accelerators each
/// tries unless told otherwise.
const QEMU_NAMES: [(&str, &[&str]); 3] = [
    ("qemu-system-x86_64", &["soft"]),
    ("qemu-kvm", &["kvm", "soft"]),
    ("kvm", &["kvm", "soft"]),
];

/// The name under which it behaves as `trapeze img`.
const QEMU_IMG: &str = "qemu-img";

/// Runs what the program's name and its arguments ask for; the exit code.
pub fn dispatch(program: &str, arguments: &[String]) -> u8 {
    let name = program.rsplit('/').next().unwrap_or_default();
    if let Some((name, accelerators)) = QEMU_NAMES.iter().find(|(n, _)| *n == name) {
        return system::main(Personality::Qemu { name, accelerators }, arguments);
    }
    if name == QEMU_IMG {
        return img::main(QEMU_IMG, arguments);
    }
    if let Some(code) = completions::asked(program, arguments) {
        return code;
    }
    let Some(first) = arguments.first() else {
        return linux::run(&[]);
    };
    match first.as_str() {
        "-h" | "-help" | "--help" => return help(),
        "-V" | "-version" | "--version" => {
            println!("{}", system::version());
            return 0;
        }
        _ => {}
    }
    match COMMANDS.iter().find(|c| c.name == first) {
        Some(command) => command.run(&arguments[1..]),
        None => unknown(first),
    }
}

fn unknown(word: &str) -> u8 {
    let names = COMMANDS.iter().map(|c| c.name);
    let hint = match word.starts_with('-') {
        true => "; machine options go after 'trapeze linux' or 'trapeze system'".to_string(),
        false => did_you_mean(word, names),
    };
    eprintln!("trapeze: '{word}' is not a command{hint}; 'trapeze help' lists them");
    1
}

fn help() -> u8 {
    println!("{}\n\nusage: trapeze [COMMAND]\n", system::version());
    for c in COMMANDS {
        println!("  {:<12}{}\n              {}", c.name, c.arguments, c.help);
    }
    println!("\nLinked as qemu-system-x86_64, qemu-kvm or kvm it behaves as 'trapeze system',");
    println!("linked as qemu-img as 'trapeze img'.");
    0
}
