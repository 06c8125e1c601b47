//! Starting a machine's process, and asking it to end.

use crate::image::Image;
use crate::qmp;
use crate::{State, Vm, ssh};
use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long a process has after SIGTERM, which it obeys at once unless its disk
/// is slow.
const LAST: Duration = Duration::from_secs(10);

/// Starts the machine with `program`, which is `trapeze`; returns when it runs.
/// If somebody has the port of its ssh it gets another one.
///
/// # Errors
/// It runs already, or what the machine said.
pub fn start(vm: &mut Vm, image: &Image, program: &Path) -> Result<()> {
    let lock = vm.lock()?;
    if vm.state_under_lock() == State::Running {
        bail!("{} runs already", vm.name);
    }
    // A process that was killed leaves these.
    for name in ["pid", "console.sock", "qmp.sock"] {
        let _ = fs::remove_file(vm.path(name));
    }
    if !ssh::is_free(vm.config.ssh_port) {
        vm.config.ssh_port = ssh::free_port()?;
        vm.save()?;
    }
    write_seed(vm)?;
    let output = command(vm, image, program)
        .output()
        .with_context(|| program.display().to_string())?;
    drop(lock);
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    bail!("{}", said.trim().trim_start_matches("trapeze: "));
}

/// What the guest reads from fw_cfg.
fn write_seed(vm: &Vm) -> Result<()> {
    let mut mounts = String::new();
    for (_, tag) in &vm.config.shares {
        mounts.push_str(&format!("{tag} /mnt/{tag}\n"));
    }
    let keys = ssh::authorized_keys()?;
    for (name, text) in [("authorized_keys", keys), ("shares", mounts)] {
        fs::write(vm.path(name), text).with_context(|| vm.path(name).display().to_string())?;
    }
    Ok(())
}

/// A path in a list of properties, where a comma is doubled.
fn quoted(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

fn command(vm: &Vm, image: &Image, program: &Path) -> Command {
    let config = &vm.config;
    let at = |name: &str| quoted(&vm.path(name));
    let mut network = format!("user,hostfwd=tcp:127.0.0.1:{}-:22", config.ssh_port);
    for forward in &config.publish {
        network.push_str(&format!(",hostfwd=tcp:{forward}"));
    }
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command.args(["system", "-nodefaults", "-display", "none", "-daemonize"]);
    command.args(["-name", &vm.name, "-m", &config.memory]);
    command.args(["-smp", &config.cpus.to_string(), "-kernel"]);
    command.arg(image.folder.join("vmlinuz"));
    if let Some(initrd) = image.file("initrd") {
        command.arg("-initrd").arg(initrd);
    }
    let append = format!("{} systemd.hostname={}", image.about.append, vm.name);
    command.args(["-append", &append, "-drive"]);
    command.arg(format!("file={},format=qcow2,if=virtio", at("disk.qcow2")));
    command.args(["-nic", &network, "-device", "virtio-rng-pci", "-chardev"]);
    command.arg(format!(
        "socket,id=console,path={},server=on,wait=off,logfile={},logappend=on",
        at("console.sock"),
        at("console.log")
    ));
    command.args(["-serial", "chardev:console", "-fw_cfg"]);
    command.arg(format!(
        "name=opt/io.systemd.credentials/ssh.authorized_keys.root,file={}",
        at("authorized_keys")
    ));
    command.arg("-fw_cfg");
    command.arg(format!("name=opt/org.trapeze/shares,file={}", at("shares")));
    for (number, (folder, tag)) in config.shares.iter().enumerate() {
        command.arg("-fsdev");
        command.arg(format!("local,id=share{number},path={}", quoted(folder)));
        command.arg("-device");
        command.arg(format!("virtio-fs-pci,fsdev=share{number},tag={tag}"));
    }
    let socket = format!("unix:{},server=on,wait=off", at("qmp.sock"));
    command.args(["-qmp", &socket]);
    command.arg("-pidfile").arg(vm.path("pid"));
    command.arg("-D").arg(vm.path("machine.log"));
    command.args(&config.options);
    command
}

/// How a machine came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its guest powered off.
    PoweredOff,
    /// Its process was told to end: to the guest that is a power loss.
    CutOff,
}

/// Ends the machine: asks the guest, and after `patience` the process.
///
/// # Errors
/// It does not run, or still does.
pub fn stop(vm: &Vm, patience: Duration) -> Result<Ended> {
    let Some(process) = vm.process() else {
        bail!("{} does not run", vm.name);
    };
    if !patience.is_zero() && ask(vm) && process.wait(patience) {
        return Ok(Ended::PoweredOff);
    }
    for signal in [Signal::TERM, Signal::KILL] {
        process.signal(signal)?;
        if process.wait(LAST) {
            return Ok(Ended::CutOff);
        }
    }
    bail!("{} does not end", vm.name)
}

/// Asks the guest to power off; whether it heard.
fn ask(vm: &Vm) -> bool {
    let by_button = qmp::Client::connect(&vm.path("qmp.sock"))
        .and_then(|mut client| client.execute("system_powerdown"));
    if by_button.is_ok() {
        return true;
    }
    let Ok(mut command) = ssh::command(vm) else {
        return false;
    };
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // The connection may break before ssh has its answer.
    ssh::answers(vm) && command.args(["systemctl", "poweroff"]).status().is_ok()
}
