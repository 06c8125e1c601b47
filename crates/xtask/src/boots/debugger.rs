//! The boot test of `-gdb`: the real gdb stops Debian's kernel, which is on its
//! second vCPU, looks around, watches a variable, and leaves the guest alone.

use super::{Devices, PATIENCE, PROMPT};
use crate::expect::Session;
use crate::paths::TempFolder;
use anyhow::{Context, Result};
use std::process::Command;

pub(super) const DEVICES: Devices = Devices {
    modules: &[],
    act: debug,
};

pub(super) const OPTIONS: &[&str] = &["-smp", "2", "-gdb", "unix:{folder}/gdb,server=on,wait=off"];

pub(super) const STEPS: &[(&str, &str)] = &[];

const GDB: &str = "(gdb) ";

fn debug(session: &mut Session, folder: &TempFolder) -> Result<()> {
    session.expect(PROMPT, PATIENCE)?;
    let call = address(session, "__x64_sys_sethostname")?;
    let mut gdb = Command::new("gdb");
    gdb.args(["-q", "-nx", "-ex", "set pagination off"]);
    gdb.args(["-ex", "set confirm off"]);
    let mut gdb = Session::start(gdb.env("TERM", "dumb")).context("gdb")?;
    let socket = folder.fill_in("target remote {folder}/gdb\r")?;
    for (wait, typed) in [
        (GDB, &*socket),
        (GDB, "info threads\r"),
        ("CPU#1 [", ""),
        (GDB, &*format!("hbreak *{call}\r")),
        (GDB, "continue\r"),
        ("Continuing.", ""),
    ] {
        gdb.expect(wait, PATIENCE)?;
        gdb.send(typed)?;
    }
    session.send("taskset -c 1 hostname elsewhere\r")?;
    for (wait, typed) in [
        ("Thread 2 hit Breakpoint 1", ""),
        (GDB, "p $rip\r"),
        (&*call.to_string(), ""),
        (GDB, "stepi 100\r"),
        (GDB, "x/8i $pc\r"),
        (GDB, "delete\r"),
        (GDB, "watch *(char*)$rsp\r"),
        (GDB, "continue\r"),
        ("Old value", ""),
        (GDB, "delete\r"),
        (GDB, "continue\r"),
        ("Continuing.", "\x03"),
        ("SIGINT", ""),
        (GDB, "detach\r"),
        ("detached", "quit\r"),
    ] {
        gdb.expect(wait, PATIENCE)?;
        gdb.send(typed)?;
    }
    session.expect(PROMPT, PATIENCE)?;
    session.send("hostname\r")?;
    session.expect("\nelsewhere", PATIENCE)?;
    session.send("poweroff\r")
}

/// Where the kernel has a function.
fn address(session: &mut Session, name: &str) -> Result<String> {
    session.send(&format!(
        "echo at 0x$(grep ' {name}$' /proc/kallsyms | cut -d' ' -f1) end\r"
    ))?;
    session.expect("\nat 0x", PATIENCE)?;
    let said = session.expect(" end", PATIENCE)?;
    let output = session.output();
    let digits = output
        .rsplit("at 0x")
        .find_map(|t| t.get(..16).filter(|d| d.starts_with("ffff")));
    let digits = digits.with_context(|| format!("no address in '{said}'"))?;
    Ok(format!("0x{digits}"))
}
