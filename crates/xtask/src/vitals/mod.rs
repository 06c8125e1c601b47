//! What a boot shows besides its shell: the kernel's warnings, the memory the
//! machine costs, the guest's clock.

pub(crate) mod clock;
mod memory;
mod messages;

use crate::expect::Session;
use crate::process::Counts;
use crate::{paths, programs};
use anyhow::{Result, bail};
use guestimg::{Flavour, Mode, Progress};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const PROMPT: &str = ":~# ";
/// Longest wait for one step; a debug aid, not a promise of speed.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of every machine here.
const RAM_MIB: u64 = 1024;
const QEMU: &str = "qemu-system-x86_64";

/// A check of its own boots.
struct Check {
    name: &'static str,
    run: fn(&str) -> Result<String>,
}

const CHECKS: [Check; 2] = [
    Check {
        name: "messages",
        run: messages::check,
    },
    Check {
        name: "running",
        run: running,
    },
];

/// `cargo xtask vitals [CHECK...]`.
pub(crate) fn run(names: &[String]) -> Result<bool> {
    if let Some(name) = names.iter().find(|n| !CHECKS.iter().any(|c| c.name == **n)) {
        bail!(
            "no check '{name}'; there are {}",
            CHECKS.map(|c| c.name).join(", ")
        );
    }
    let counts = some("soft", |c| {
        names.is_empty() || names.iter().any(|n| n == c.name)
    });
    println!("{} passed, {} failed", counts.passed, counts.failed);
    Ok(counts.failed == 0)
}

/// Every check, for `cargo xtask test`.
pub(crate) fn all() -> Result<Counts> {
    Ok(some("soft", |_| true))
}

fn some(accel: &str, wanted: impl Fn(&Check) -> bool) -> Counts {
    let mut counts = Counts::default();
    for check in CHECKS.iter().filter(|c| wanted(c)) {
        let verdict = (check.run)(accel);
        match &verdict {
            Ok(text) => println!("vitals {:<9} ok: {text}", check.name),
            Err(why) => println!("vitals {:<9} FAILED: {why:#}", check.name),
        }
        counts.add(Counts::one(verdict.is_ok()));
    }
    counts
}

/// One boot: memory from its start to its end, the clock under load.
fn running(accel: &str) -> Result<String> {
    let mut session = Session::start(&mut guest(Machine::Trapeze(accel), Flavour::Cloud)?)?;
    let memory = memory::Watch::start(session.pid(), RAM_MIB << 20);
    session.expect(PROMPT, PATIENCE)?;
    let booted = memory.now()?;
    let clock = clock::short(&mut session)?;
    let peak = memory.peak()?;
    power_off(&mut session)?;
    memory::judge(booted, peak)?;
    Ok(format!("{clock}; {}", memory::show(booted, peak)))
}

/// What runs a guest.
#[derive(Clone, Copy)]
enum Machine<'a> {
    /// Ours, with this accelerator.
    Trapeze(&'a str),
    /// QEMU without hardware virtualization.
    Tcg,
}

/// The command that boots `flavour` to its shell; the same guest in every
/// byte on both.
fn guest(machine: Machine<'_>, flavour: Flavour) -> Result<Command> {
    let image = guestimg::fetch(flavour, false, &mut Progress::stderr())?;
    let initramfs: PathBuf = match flavour {
        Flavour::Cloud => programs::initramfs(&image, &["clock"])?,
        _ => guestimg::initramfs(&image)?,
    };
    let mut command = match machine {
        Machine::Trapeze(accel) => {
            let mut command = Command::new(paths::trapeze()?);
            command.args(["system", "-accel", accel]);
            command
        }
        Machine::Tcg => {
            let mut command = Command::new(QEMU);
            command.args(["-accel", "tcg", "-cpu", "max"]);
            command
        }
    };
    command
        .args(["-m", &RAM_MIB.to_string(), "-nodefaults"])
        .args(["-display", "none", "-serial", "stdio", "-no-reboot"])
        .arg("-kernel")
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(initramfs)
        .arg("-append")
        .arg(guestimg::command_line(Mode::Shell, Some("vt100"), None));
    Ok(command)
}

/// The kernel's messages so far, with their levels; from prompt to prompt.
fn kernel_log(session: &mut Session) -> Result<String> {
    session.send("dmesg -r; echo dmesg ended $?\r")?;
    let log = session.expect("dmesg ended 0", PATIENCE)?;
    session.expect(PROMPT, PATIENCE)?;
    Ok(log)
}

fn power_off(session: &mut Session) -> Result<()> {
    session.send("poweroff\r")?;
    match session.finish(PATIENCE)? {
        Some(0) => Ok(()),
        code => bail!("exit code {code:?} instead of 0"),
    }
}
