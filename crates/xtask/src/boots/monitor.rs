//! The boot test of monitors: a disk, an adapter and a processor come and go
//! through QMP while the guest works, clients misbehave, and a person uses the
//! terminal's own monitor.

use super::{Devices, PATIENCE, PROMPT};
use crate::expect::Session;
use crate::paths::{self, TempFolder};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

pub(super) const DEVICES: Devices = Devices {
    modules: &["virtio_blk", "failover", "net_failover", "virtio_net"],
    act: control,
};

pub(super) const OPTIONS: &[&str] = &[
    "-smp",
    "1,maxcpus=2",
    "-nographic",
    "-name",
    "test",
    "-qmp",
    "unix:{folder}/qmp,server=on,wait=off",
    "-chardev",
    "socket,id=people,path={folder}/hmp,server=on,wait=off",
    "-mon",
    "people",
    "-serial",
    "mon:stdio",
    "-device",
    "virtio-balloon-pci",
];

pub(super) const STEPS: &[(&str, &str)] = &[
    (PROMPT, super::boards::LOAD),
    ("\nin 0", ""),
    (
        PROMPT,
        "while :; do md5sum /bin/busybox; done > /dev/null &\r",
    ),
];

/// Times that everything comes and goes; `soak hotplug` has more.
const CYCLES: usize = 5;
/// Opening brackets that a client sends, far more than a message has.
const BRACKETS: usize = 64 << 20;

/// A client.
pub(super) struct Qmp {
    reader: BufReader<UnixStream>,
}

impl Qmp {
    fn connect(folder: &TempFolder) -> Result<Self> {
        let stream = UnixStream::connect(folder.path("qmp")).context("connecting to QMP")?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut client = Self {
            reader: BufReader::new(stream),
        };
        let greeting = client.message()?;
        ensure!(greeting["QMP"]["version"].is_object(), "{greeting}");
        client.run("qmp_capabilities", json!({}))?;
        Ok(client)
    }

    fn message(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            bail!("QMP's connection ended");
        }
        Ok(serde_json::from_str(&line)?)
    }

    fn send(&self, bytes: &[u8]) -> Result<()> {
        Ok(self.reader.get_ref().write_all(bytes)?)
    }

    /// The answer, events before it aside.
    fn ask(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments, "id": command });
        self.send(request.to_string().as_bytes())?;
        loop {
            let message = self.message()?;
            if message["id"] == *command {
                return Ok(message);
            }
        }
    }

    pub(super) fn run(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let mut answer = self.ask(command, arguments)?;
        match answer.get("error") {
            Some(error) => bail!("{command}: {error}"),
            None => Ok(answer["return"].take()),
        }
    }

    fn wait_for_deleted(&mut self, mut ids: Vec<&str>) -> Result<()> {
        while !ids.is_empty() {
            let message = self.message()?;
            if message["event"] == "DEVICE_DELETED" {
                ids.retain(|id| message["data"]["device"] != **id);
            }
        }
        Ok(())
    }
}

/// The same machine, whose devices come and go so often and nothing else.
pub(crate) fn cycles(cycles: usize) -> Result<()> {
    let folder = TempFolder::new("soak-monitor")?;
    let guest = super::Guest::Devices(DEVICES);
    let mut session = super::start(&paths::trapeze()?, "soft", &guest, OPTIONS, &folder)?;
    super::converse(&mut session, STEPS)?;
    std::fs::File::create(folder.path("disk"))?.set_len(16 << 20)?;
    session.expect(PROMPT, PATIENCE)?;
    let mut qmp = Qmp::connect(&folder)?;
    repeat(cycles, &mut qmp, &mut session, &folder)?;
    session.send("kill $!\r")?;
    session.expect(PROMPT, PATIENCE)?;
    session.send("poweroff\r")?;
    super::end(session, 0)
}

fn repeat(cycles: usize, qmp: &mut Qmp, session: &mut Session, folder: &TempFolder) -> Result<()> {
    for cycle in 0..cycles {
        come_and_go(qmp, session, folder).with_context(|| format!("cycle {cycle}"))?;
    }
    Ok(())
}

fn control(session: &mut Session, folder: &TempFolder) -> Result<()> {
    std::fs::File::create(folder.path("disk"))?.set_len(16 << 20)?;
    session.expect(PROMPT, PATIENCE)?;
    let mut qmp = Qmp::connect(folder)?;
    repeat(CYCLES, &mut qmp, session, folder)?;
    misbehave(&mut qmp, folder)?;
    stop_and_go_on(&mut qmp)?;
    super::schema::check(&mut qmp)?;
    by_hand(folder)?;
    on_the_terminal(session)?;
    qmp.run("system_powerdown", json!({}))?;
    qmp.run(
        "human-monitor-command",
        json!({ "command-line": "info status" }),
    )?;
    session.send("poweroff\r")
}

fn come_and_go(qmp: &mut Qmp, session: &mut Session, folder: &TempFolder) -> Result<()> {
    let file = json!({ "driver": "file", "filename": folder.path("disk") });
    let disk = json!({ "driver": "raw", "node-name": "d0", "file": file });
    qmp.run("blockdev-add", disk)?;
    let device = json!({ "driver": "virtio-blk-pci", "id": "disk0", "drive": "d0" });
    qmp.run("device_add", device.clone())?;
    let again = qmp.ask("device_add", device)?;
    ensure!(again["error"]["class"] == "GenericError", "twice: {again}");
    qmp.run("netdev_add", json!({ "type": "user", "id": "n0" }))?;
    let device = json!({ "driver": "virtio-net-pci", "id": "nic0", "netdev": "n0" });
    qmp.run("device_add", device)?;
    let cpu = json!({ "driver": "max-x86_64-cpu", "id": "cpu1", "core-id": 1 });
    qmp.run("device_add", cpu)?;
    // What is used cannot go.
    let used = qmp.ask("blockdev-del", json!({ "node-name": "d0" }))?;
    ensure!(used["error"].is_object(), "a disk in use went: {used}");

    session.send("until [ -b /dev/vda ] && [ -d /sys/class/net/eth0 ]; do sleep 0.1; done\r")?;
    session.expect(PROMPT, PATIENCE)?;
    session.send(
        "dd if=/dev/urandom of=/dev/vda bs=1M count=4 conv=fsync 2>/dev/null; echo wrote $?\r",
    )?;
    session.expect("\nwrote 0", PATIENCE)?;
    session.expect(PROMPT, PATIENCE)?;
    let stats = qmp.run("query-blockstats", json!({}))?;
    let written = stats[0]["stats"]["wr_bytes"].as_u64();
    ensure!(written >= Some(4 << 20), "blockstats: {stats}");
    let vcpus = qmp.run("query-cpus-fast", json!({}))?;
    ensure!(vcpus.as_array().map(Vec::len) == Some(2), "{vcpus}");

    look_at_networks(qmp, folder).context("networks")?;
    for id in ["disk0", "nic0", "cpu1"] {
        qmp.run("device_del", json!({ "id": id }))?;
    }
    qmp.wait_for_deleted(vec!["disk0", "nic0", "cpu1"])?;
    qmp.run("blockdev-del", json!({ "node-name": "d0" }))?;
    qmp.run("netdev_del", json!({ "id": "n0" }))?;
    Ok(())
}

/// What passes the adapter is written down; forwards come and go; other networks, too.
fn look_at_networks(qmp: &mut Qmp, folder: &TempFolder) -> Result<()> {
    let file = folder.path("dump");
    let dump = json!({ "qom-type": "filter-dump", "id": "f0", "netdev": "n0", "file": file });
    qmp.run("object-add", dump.clone())?;
    let again = qmp.ask("object-add", dump)?;
    ensure!(again["error"].is_object(), "twice: {again}");
    let filter = qmp.run("query-rx-filter", json!({ "name": "nic0" }))?;
    let mac = filter[0]["main-mac"].as_str().unwrap_or_default();
    ensure!(mac.starts_with("52:54:00:"), "{filter}");
    let mut person = |line: &str| {
        let line = json!({ "command-line": line });
        let said = qmp.run("human-monitor-command", line)?;
        Ok::<_, anyhow::Error>(said.as_str().unwrap_or_default().to_string())
    };
    let shown = person("info network")?;
    ensure!(shown.contains("  - f0: type=filter-dump,"), "{shown}");
    let port = folder.port()?;
    let rule = format!("tcp:127.0.0.1:{port}");
    person(&format!("hostfwd_add n0 {rule}-:22"))?;
    let table = person("info usernet")?;
    let row = table.lines().find(|l| l.contains("TCP[HOST_FORWARD]"));
    let words: Vec<&str> = row.unwrap_or_default().split_whitespace().collect();
    let port = port.to_string();
    let wanted = ["127.0.0.1", &port, "10.0.2.15", "22", "0", "0"];
    ensure!(words.get(2..) == Some(&wanted[..]), "{table}");
    let said = person(&format!("hostfwd_remove n0 {rule}"))?;
    ensure!(said.contains(" removed"), "{said}");
    let end = |name: &str| json!({ "type": "unix", "path": folder.path(name) });
    let dgram =
        json!({ "type": "dgram", "id": "n1", "local": end("here"), "remote": end("there") });
    qmp.run("netdev_add", dgram)?;
    let port = json!({ "type": "hubport", "id": "p1", "hubid": 1, "netdev": "n1" });
    qmp.run("netdev_add", port)?;
    let used = qmp.ask("netdev_del", json!({ "id": "n1" }))?;
    ensure!(used["error"].is_object(), "a network in use went: {used}");
    for id in ["p1", "n1"] {
        qmp.run("netdev_del", json!({ "id": id }))?;
    }
    qmp.run("object-del", json!({ "id": "f0" }))?;
    Ok(())
}

/// Others send nonsense or vanish; `qmp` is served all the same.
fn misbehave(qmp: &mut Qmp, folder: &TempFolder) -> Result<()> {
    let flood = Qmp::connect(folder)?;
    let flooding = std::thread::spawn(move || {
        let piece = vec![b'['; 1 << 20];
        (0..BRACKETS / piece.len()).try_for_each(|_| flood.send(&piece))
    });
    for _ in 0..20 {
        let gone = Qmp::connect(folder)?;
        gone.send(b"{\"execute\": \"query-sta")?;
        qmp.run("query-status", json!({}))?;
    }
    flooding
        .join()
        .map_err(|_| anyhow::anyhow!("the flood's thread panicked"))??;
    qmp.send(b"{\"execute\": \"\xff{\"execute\": \"query-name\", \"id\": 1}")?;
    let name = loop {
        let message = qmp.message()?;
        if message["id"] == 1 {
            break message;
        }
    };
    ensure!(name["return"]["name"] == "test", "{name}");
    for (request, class) in [
        ("[]", "GenericError"),
        ("{\"execute\": 5}", "GenericError"),
        ("{\"execute\": \"stpo\"}", "CommandNotFound"),
        (
            "{\"execute\": \"stop\", \"arguments\": {\"a\": 1}}",
            "GenericError",
        ),
        (
            "{\"execute\": \"device_del\", \"arguments\": {\"id\": \"x\"}}",
            "DeviceNotFound",
        ),
        (
            "{\"execute\": \"balloon\", \"arguments\": {\"value\": -1}}",
            "GenericError",
        ),
        ("{\"execute\": \"\u{e9}\u{301}\\ud800\"}", "GenericError"),
    ] {
        qmp.send(request.as_bytes())?;
        let answer = qmp.message()?;
        ensure!(answer["error"]["class"] == class, "{request}: {answer}");
    }
    Ok(())
}

fn stop_and_go_on(qmp: &mut Qmp) -> Result<()> {
    qmp.run("stop", json!({}))?;
    let status = qmp.run("query-status", json!({}))?;
    ensure!(status["status"] == "paused", "{status}");
    let line = json!({ "command-line": "info registers" });
    let registers = qmp.run("human-monitor-command", line)?;
    let again = json!({ "command-line": "info registers" });
    let later = qmp.run("human-monitor-command", again)?;
    ensure!(registers == later, "a vCPU that is stopped runs");
    ensure!(
        registers.as_str().is_some_and(|r| r.contains("RIP=")),
        "{registers}"
    );
    qmp.run("cont", json!({}))?;
    Ok(())
}

/// What W-16 shows, over a socket.
fn by_hand(folder: &TempFolder) -> Result<()> {
    let mut stream = UnixStream::connect(folder.path("hmp"))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(b"info pci\rx /2i $rip\r")?;
    let mut reader = BufReader::new(stream);
    let mut seen = String::new();
    while !seen.contains("8086:1237") {
        ensure!(reader.read_line(&mut seen)? > 0, "the monitor ended");
    }
    ensure!(seen.contains("type 'help' for more information"), "{seen}");
    ensure!(seen.contains("Bus  0, device   0, function 0:"), "{seen}");
    Ok(())
}

/// Ctrl-A C, a completion, and back.
fn on_the_terminal(session: &mut Session) -> Result<()> {
    session.send("\x01c")?;
    session.expect("(qemu) ", PATIENCE)?;
    session.send("info sta\tus\r")?;
    session.expect("VM status: running", PATIENCE)?;
    session.expect("(qemu) ", PATIENCE)?;
    session.send("\x01c")?;
    session.send("kill $!\r")?;
    session.expect(PROMPT, PATIENCE).map(drop)
}
