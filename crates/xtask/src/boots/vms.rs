//! The boot test of machines with names: what a user does from nothing to ssh
//! and back, with folders of the test's own. Packages come from the cache.

use super::{PATIENCE, fetch};
use crate::expect::Session;
use crate::home::Home;
use anyhow::{Context, Result, bail, ensure};
use guestimg::Flavour;
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The machine's name.
const NAME: &str = "first";
/// What ext4 says when it was not unmounted before.
const RECOVERED: &str = "recovery complete";

pub(super) fn live(accel: &str) -> Result<()> {
    let home = Home::new(NAME, accel)?;
    interrupt(&home)?;
    home.run(&["image", "build", "debian"])?;
    let begin = Instant::now();
    run(&home).context("run")?;
    reach(&home).context("ssh and exec")?;
    share(&home).context("the shared folder")?;
    publish(&home).context("the published port")?;
    stop_and_start(&home).context("stop and start")?;
    lose_power(&home).context("kill -9 and start")?;
    console(&home).context("console")?;
    end(&home).context("logs -f, stop and rm")?;
    println!(
        "boot vms: {:.1} s after the image",
        begin.elapsed().as_secs_f32()
    );
    import(&home).context("image import")
}

/// Ctrl-C while an image is made leaves nothing.
fn interrupt(home: &Home) -> Result<()> {
    let mut command = home.command(&["image", "build", "debian"])?;
    let mut session = Session::start(&mut command)?;
    session.expect("packages every Debian has", PATIENCE)?;
    let new = home.folder.path("data/trapeze/images/.debian.new");
    ensure!(new.exists(), "no {}", new.display());
    session.send("\x03")?;
    let code = session.finish(PATIENCE)?;
    ensure!(code.is_none(), "exit code {code:?}, not a signal");
    ensure!(!new.exists(), "{} is left", new.display());
    Ok(())
}

fn run(home: &Home) -> Result<()> {
    fs::create_dir(home.folder.path("box"))?;
    fs::write(home.folder.path("box/from-host"), "the host's\n")?;
    let share = home.folder.fill_in("{folder}/box")?;
    let publish = home.folder.fill_in("{port}:8000")?;
    let mut words = vec!["run", "debian", "--detach", "--name", NAME];
    words.extend([
        "--publish",
        &publish,
        "--share",
        &share,
        "--disk-size",
        "12G",
    ]);
    words.extend(["--", "-accel", &home.accel]);
    let (_, said) = home.run(&words)?;
    ensure!(said.contains("trapeze ssh first"), "{said}");
    home.check_state("running")?;
    let (again, named) = (home.output(&words)?, format!("'{NAME}' is in use"));
    let said = String::from_utf8_lossy(&again.stderr);
    ensure!(
        again.status.code() == Some(1) && said.contains(&named),
        "{said}"
    );
    // The disk is larger than the image's, and the guest uses all of it.
    let size = home.exec(&["df", "-B1", "--output=size", "/"])?;
    let size: u64 = size.lines().nth(1).unwrap_or_default().trim().parse()?;
    ensure!(size > 11 << 30, "{size} bytes in /");
    let units = home.sh("systemctl is-system-running --wait; systemctl --failed")?;
    ensure!(units.starts_with("running\n"), "{units}");
    Ok(())
}

fn reach(home: &Home) -> Result<()> {
    let line = "echo out; echo err >&2; exit 7";
    let output = home.output(&["exec", NAME, "sh", "-c", line])?;
    ensure!(output.status.code() == Some(7), "{}", output.status);
    ensure!(output.stdout == b"out\n", "{output:?}");
    ensure!(output.stderr == b"err\n", "{output:?}");
    let words = home.exec(&["printf", "%s|", "a  b", "$HOME", "it's"])?;
    ensure!(words == "a  b|$HOME|it's|", "{words}");
    let (home_there, _) = home.run(&["ssh", NAME, "echo $HOME; hostname"])?;
    ensure!(home_there == format!("/root\n{NAME}\n"), "{home_there}");
    Ok(())
}

fn share(home: &Home) -> Result<()> {
    let seen = home.exec(&["cat", "/mnt/box/from-host"])?;
    ensure!(seen == "the host's\n", "{seen}");
    home.sh("echo \"the guest's\" > /mnt/box/from-guest")?;
    let seen = fs::read_to_string(home.folder.path("box/from-guest"))?;
    ensure!(seen == "the guest's\n", "{seen}");
    Ok(())
}

fn publish(home: &Home) -> Result<()> {
    home.sh("systemd-run --quiet systemd-socket-activate -l 8000 --accept --inetd cat; until ss -ltn | grep -q :8000; do sleep 0.1; done")?;
    let mut stream = TcpStream::connect(("127.0.0.1", home.folder.port()?))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(b"there and back")?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer == "there and back", "{answer}");
    Ok(())
}

fn recoveries(home: &Home) -> Result<usize> {
    Ok(home.exec(&["dmesg"])?.matches(RECOVERED).count())
}

/// The guest had unmounted its disk, or ext4 would say something at the start.
fn stop_and_start(home: &Home) -> Result<()> {
    home.sh("echo kept > /root/data")?;
    let (_, said) = home.run(&["stop", NAME])?;
    ensure!(said.is_empty(), "{said}");
    home.check_state("stopped")?;
    let (log, _) = home.run(&["logs", NAME])?;
    ensure!(log.contains("reboot: Power down"), "{log}");
    let again = home.output(&["stop", NAME])?;
    ensure!(again.status.code() == Some(1), "a second stop succeeds");
    // Somebody takes the port of its ssh meanwhile.
    let port = home.listed()?["ssh_port"].as_u64().unwrap_or(0);
    let taken = TcpListener::bind(("127.0.0.1", u16::try_from(port)?))?;
    let (_, said) = home.run(&["start", NAME])?;
    drop(taken);
    ensure!(
        said.contains(&format!("somebody has port {port}")),
        "{said}"
    );
    home.check_state("running")?;
    let data = home.exec(&["cat", "/root/data"])?;
    ensure!(data == "kept\n", "{data}");
    let recoveries = recoveries(home)?;
    ensure!(recoveries == 0, "the disk was not unmounted");
    Ok(())
}

fn lose_power(home: &Home) -> Result<()> {
    home.sh("echo safe > /root/data2; sync")?;
    let pid = home.listed()?["pid"].to_string();
    let killed = Command::new("kill").args(["-9", &pid]).status()?;
    ensure!(killed.success(), "kill -9 {pid}");
    // The kernel closes its files a moment later.
    let begin = Instant::now();
    while home.listed()?["state"] == "running" {
        ensure!(begin.elapsed() < PATIENCE, "{pid} still runs");
    }
    home.check_state("killed")?;
    home.run(&["start", NAME])?;
    let data = home.exec(&["cat", "/root/data", "/root/data2"])?;
    ensure!(data == "kept\nsafe\n", "{data}");
    let recoveries = recoveries(home)?;
    ensure!(recoveries == 1, "ext4 recovered {recoveries} times");
    Ok(())
}

fn console(home: &Home) -> Result<()> {
    let mut session = Session::start(&mut home.command(&["console", NAME])?)?;
    session.expect("Ctrl-A D leaves it", PATIENCE)?;
    session.send("\r")?;
    session.expect("root@first:~# ", PATIENCE)?;
    session.send("echo $((6 * 7)) is it; tty\r")?;
    session.expect("42 is it", PATIENCE)?;
    session.expect("/dev/ttyS0", PATIENCE)?;
    session.send("\x01d")?;
    session.expect("first still runs", PATIENCE)?;
    let code = session.finish(PATIENCE)?;
    ensure!(code == Some(0), "exit code {code:?}");
    home.check_state("running")
}

fn end(home: &Home) -> Result<()> {
    let image = home.output(&["image", "rm", "debian"])?;
    let said = String::from_utf8_lossy(&image.stderr);
    ensure!(said.contains("in use by first"), "{said}");
    let mut follow = home.command(&["logs", "-f", NAME])?;
    let follow = follow.stdout(Stdio::piped()).spawn()?;
    home.run(&["stop", NAME])?;
    // It ends because the machine has.
    let followed = follow.wait_with_output()?;
    ensure!(followed.status.success(), "{}", followed.status);
    let text = String::from_utf8_lossy(&followed.stdout);
    // One of each stop, and nothing of the kill.
    let stops = text.matches("reboot: Power down").count();
    ensure!(stops == 2, "{stops} stops in the log");
    home.run(&["rm", NAME])?;
    let left: Vec<_> = fs::read_dir(home.folder.path("state/trapeze/vms"))?
        .flatten()
        .map(|e| e.file_name())
        .filter(|name| name.as_encoded_bytes() != b".lock")
        .collect();
    ensure!(left.is_empty(), "{left:?} is left");
    home.run(&["image", "rm", "debian"]).map(drop)
}

/// A disk with a partition table and a system, whose newest kernel boots.
fn import(home: &Home) -> Result<()> {
    const START: usize = 1 << 20;
    const LEN: usize = 64 << 20;
    let tree = home.folder.path("tree");
    fs::create_dir_all(tree.join("boot"))?;
    fs::create_dir_all(tree.join("usr/lib"))?;
    let image = fetch(Flavour::Cloud)?;
    let at = |name: &str| tree.join("boot").join(name);
    fs::write(at("vmlinuz-6.9"), "an old kernel, which does not boot")?;
    fs::copy(&image.kernel, at("vmlinuz-6.10"))?;
    fs::copy(guestimg::initramfs(&image)?, at("initrd.img-6.10"))?;
    fs::write(tree.join("usr/lib/os-release"), "PRETTY_NAME=\"Test 1\"\n")?;
    let part = home.folder.path("part");
    fs::File::create(&part)?.set_len(LEN as u64)?;
    let mut mkfs = Command::new("mke2fs");
    mkfs.args(["-q", "-t", "ext4", "-d"]).arg(&tree).arg(&part);
    let path = std::env::var("PATH").unwrap_or_default();
    mkfs.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    ensure!(mkfs.status().context("mke2fs")?.success(), "mke2fs");
    // One entry of an MBR: a Linux partition from sector 2048.
    let mut disk = vec![0; START];
    disk[446..454].copy_from_slice(&[0, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff]);
    disk[454..458].copy_from_slice(&((START / 512) as u32).to_le_bytes());
    disk[458..462].copy_from_slice(&((LEN / 512) as u32).to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk.extend(fs::read(&part)?);
    let file = home.folder.fill_in("{folder}/disk")?;
    fs::write(&file, disk)?;
    let (said, _) = home.run(&["image", "import", &file, "--name", "own"])?;
    ensure!(said.starts_with("own: Test 1"), "{said}");
    let (json, _) = home.run(&["image", "ls", "--json"])?;
    let json: Value = serde_json::from_str(&json)?;
    ensure!(json[0]["kernel"] == "vmlinuz-6.10", "{json}");
    let root = json[0]["append"].as_str().unwrap_or_default();
    ensure!(root.starts_with("root=UUID="), "{json}");
    let mut command = home.command(&["run", "own", "--", "-accel", &home.accel])?;
    let mut session = Session::start(&mut command)?;
    session.expect("First user process", PATIENCE)?;
    session.send("\x01x")?;
    session.expect("own ended", PATIENCE)?;
    session.finish(PATIENCE)?;
    home.run(&["rm", "own"])?;
    fs::write(&file, vec![0; 1 << 20])?;
    let output = home.output(&["image", "import", &file, "--name", "none"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() != Some(1) || !said.contains("no Linux with a kernel") {
        bail!("an empty disk: {}: {said}", output.status);
    }
    Ok(())
}
