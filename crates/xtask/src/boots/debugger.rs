//! The boot tests of `-gdb`: the real gdb stops Debian's kernel, which is on its
//! second vCPU, looks around, watches a variable, and leaves the guest alone; gdb
//! comes before the first instruction, leaves, comes back, waits for another one to
//! leave, and ends the machine.

use super::{Devices, PATIENCE, PROMPT, converse};
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

pub(super) const HELD: Devices = Devices {
    modules: &[],
    act: hold,
};

pub(super) const HELD_OPTIONS: &[&str] = &["-S", "-gdb", "unix:{folder}/gdb,server=on"];

const GDB: &str = "(gdb) ";

fn debug(session: &mut Session, folder: &TempFolder) -> Result<()> {
    session.expect(PROMPT, PATIENCE)?;
    let call = address(session, "__x64_sys_sethostname")?;
    let mut gdb = gdb()?;
    connect(&mut gdb, folder)?;
    let steps = [
        (GDB, "info threads\r"),
        ("CPU#1 [", ""),
        (GDB, &*format!("hbreak *{call}\r")),
        (GDB, "continue\r"),
        ("Continuing.", ""),
    ];
    converse(&mut gdb, &steps)?;
    session.send("taskset -c 1 hostname elsewhere\r")?;
    let steps = [
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
    ];
    converse(&mut gdb, &steps)?;
    session.expect(PROMPT, PATIENCE)?;
    session.send("hostname\r")?;
    session.expect("\nelsewhere", PATIENCE)?;
    session.send("poweroff\r")
}

fn gdb() -> Result<Session> {
    let mut gdb = Command::new("gdb");
    gdb.args(["-q", "-nx", "-ex", "set pagination off"]);
    gdb.args(["-ex", "set confirm off"]);
    Session::start(gdb.env("TERM", "dumb")).context("gdb")
}

fn connect(gdb: &mut Session, folder: &TempFolder) -> Result<()> {
    gdb.expect(GDB, PATIENCE)?;
    gdb.send(&folder.fill_in("target remote {folder}/gdb\r")?)
}

fn hold(session: &mut Session, folder: &TempFolder) -> Result<()> {
    session.expect("waiting for a connection on unix:", PATIENCE)?;
    let (mut first, mut second) = (gdb()?, gdb()?);
    connect(&mut first, folder)?;
    // Nothing has run: this is where the kernel is entered.
    let steps = [
        (GDB, "info threads\r"),
        ("* 1    Thread 1.1 (CPU#0", ""),
        (GDB, "p/x $rax\r"),
        ("= 0x0", ""),
        (GDB, "monitor info status\r"),
        ("paused", ""),
        (GDB, "disconnect\r"),
        ("Ending remote debugging.", ""),
    ];
    converse(&mut first, &steps)?;
    connect(&mut first, folder)?;
    let steps = [
        (GDB, "monitor info status\r"),
        ("paused", ""),
        (GDB, "detach\r"),
        ("detached", ""),
    ];
    converse(&mut first, &steps)?;
    session.expect(PROMPT, PATIENCE)?;
    // The second is served when the first has left.
    let look = [(GDB, "p $rip\r"), ("= (void (*)())", "")];
    connect(&mut first, folder)?;
    converse(&mut first, &look)?;
    connect(&mut second, folder)?;
    converse(&mut first, &look)?;
    converse(&mut first, &[(GDB, "detach\r"), ("detached", "")])?;
    converse(&mut second, &look)?;
    converse(&mut second, &[(GDB, "kill\r"), ("killed]", "")])
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
