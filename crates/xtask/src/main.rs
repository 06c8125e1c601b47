//! The project's own commands: set-up, tests, benchmarks, tidy checks.

mod bench;
mod boots;
mod debian;
mod evidence;
mod expect;
mod fuzz;
mod home;
mod hosts;
mod killed;
mod nested;
mod outer;
mod paths;
mod process;
mod programs;
mod sandbox;
mod setup;
mod soak;
mod suite;
mod tidy;
mod vitals;

use anyhow::{Result, bail};
use std::process::ExitCode;

struct Command {
    name: &'static str,
    arguments: &'static str,
    help: &'static str,
    run: fn(&[String]) -> Result<bool>,
}

const COMMANDS: &[Command] = &[
    Command {
        name: "test",
        arguments: "[STEP...]",
        help: "install what is needed and run every check, or only the named steps",
        run: suite::run,
    },
    Command {
        name: "setup",
        arguments: "",
        help: "install the Debian packages the tests use",
        run: |_| setup::run(),
    },
    Command {
        name: "tidy",
        arguments: "[--bless]",
        help: "dependency law, lengths, forbidden words; --bless lowers the ratchet",
        run: tidy::run,
    },
    Command {
        name: "boot",
        arguments: "[--accel NAME] [CASE...]",
        help: "the boot tests, or only the named ones",
        run: boots::run,
    },
    Command {
        name: "vitals",
        arguments: "[CHECK...]",
        help: "warnings of the kernel compared with QEMU TCG, memory, the guest's clock",
        run: vitals::run,
    },
    Command {
        name: "hosts",
        arguments: "[NAME...]",
        help: "trapeze in QEMU on other CPU models, and with memory that is merged and huge",
        run: hosts::run,
    },
    Command {
        name: "nested",
        arguments: "[--trace] [FILTER] | boot [CASE...]",
        help: "the conformance suite, or the boot tests, on real KVM nested in QEMU's TCG",
        run: nested::run,
    },
    Command {
        name: "fuzz",
        arguments: "[--seconds N] [--keep] [TARGET...] | TARGET FILE",
        help: "fuzz the targets (60 s each), or run one on a file; --keep adds to the corpus",
        run: fuzz::run,
    },
    Command {
        name: "sandbox",
        arguments: "",
        help: "the embedded guest on trapeze confined as in a container",
        run: |_| sandbox::run(),
    },
    Command {
        name: "bench",
        arguments: "boot|io|net|cpu|smp|exits [--runs N] [--only NAME] [--json FILE]; io, net [--seconds N]; \
            cpu [--rounds N] [--svg FILE] [--mitigations-off]",
        help: "boots, fio's jobs on virtio disks, iperf3's over the user-mode network, or small workloads and programs, in turns here \
            and under QEMU TCG (and natively), compared",
        run: bench::run,
    },
    Command {
        name: "soak",
        arguments: "NAME [NUMBER]",
        help: "the same for long; without a name it says what there is; goes into docs/soak.md",
        run: soak::run,
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<bool> {
    let Some(first) = arguments.first() else {
        bail!("which command?\n{}", usage());
    };
    if first == sandbox::CONFINED {
        return sandbox::confined(&arguments[1..]);
    }
    match COMMANDS.iter().find(|c| c.name == first) {
        Some(command) => (command.run)(&arguments[1..]),
        None => bail!("no command '{first}'\n{}", usage()),
    }
}

fn usage() -> String {
    let row = |c: &Command| {
        format!(
            "  cargo xtask {} {}\n      {}\n",
            c.name, c.arguments, c.help
        )
    };
    COMMANDS.iter().map(row).collect()
}
