//! The boot test of `trapeze stat` and `trapeze trace`: while a guest works, its
//! counters are read as text, as JSON, as a log, by Prometheus and on a terminal, and
//! its exits are recorded.

use super::{Devices, PATIENCE, PROMPT};
use crate::expect::Session;
use crate::paths::{self, TempFolder};
use crate::process::output_of;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

pub(super) const DEVICES: Devices = Devices {
    modules: &[],
    act: look,
};

pub(super) const OPTIONS: &[&str] = &["-name", "counted"];

pub(super) const STEPS: &[(&str, &str)] = &[];

fn look(session: &mut Session, folder: &TempFolder) -> Result<()> {
    session.expect(PROMPT, PATIENCE)?;
    // Each byte that the guest's serial port sends is an exit.
    session.send("while :; do echo; sleep 0.1; done\r")?;
    let pid = session.pid().to_string();
    let stat = |more: &[&str]| -> Result<Command> {
        let mut command = Command::new(paths::trapeze()?);
        command.args(["stat", "-p", &pid]).args(more);
        Ok(command)
    };
    once(&output_of(&mut stat(&["-1"])?)?)?;
    json(&output_of(&mut stat(&["-1", "--json", "-f", "io_"])?)?)?;
    log(stat(&["-l", "-f", "exits|io_exits"])?)?;
    prometheus(stat(&["--prometheus", "127.0.0.1:0"])?)?;
    live(stat(&[])?)?;
    let seconds = ["--exits", "--seconds", "0.5"];
    exits(&output_of(stat(&seconds)?.arg("--json"))?)?;
    let text = output_of(&mut stat(&seconds)?)?;
    ensure!(text.contains("KVM_EXIT_IO write 0x3f8 "), "{text}");
    trace(&pid, folder)?;
    session.send("\x03")?;
    session.expect(PROMPT, PATIENCE)?;
    session.send("poweroff\r")
}

/// Columns of the line that begins with `name`.
fn columns<'a>(text: &'a str, name: &str) -> Result<Vec<&'a str>> {
    let mut lines = text
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|columns| columns.first() == Some(&name));
    line.with_context(|| format!("no {name} in:\n{text}"))
}

fn once(text: &str) -> Result<()> {
    let exits = columns(text, "io_exits")?;
    let (total, rate): (u64, u64) = (exits[1].parse()?, exits[2].parse()?);
    ensure!(
        rate > 0 && total > rate,
        "io_exits: {total}, {rate} a second"
    );
    Ok(())
}

fn json(text: &str) -> Result<()> {
    let answer: Value = serde_json::from_str(text)?;
    let machine = answer["machines"][0].as_str().unwrap_or_default();
    ensure!(machine.starts_with("counted ("), "machines: {answer}");
    let counters = answer["counters"].as_object().context("no counters")?;
    ensure!(counters.keys().eq(["io_exits"]), "counters: {answer}");
    ensure!(
        answer["counters"]["io_exits"]["rate"].as_f64() > Some(0.0),
        "{answer}"
    );
    Ok(())
}

/// Ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The command and what it prints.
fn start(mut command: Command) -> Result<(Running, impl Iterator<Item = String>)> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().context("its output")?;
    let lines = BufReader::new(output).lines().map_while(Result::ok);
    Ok((Running(child), lines))
}

fn log(command: Command) -> Result<()> {
    let (_running, mut lines) = start(command)?;
    let header = lines.next().context("no header")?;
    let at = header.split_whitespace().position(|n| n == "io_exits");
    let at = at.with_context(|| format!("no io_exits in {header}"))?;
    for _ in 0..2 {
        let line = lines.next().context("no line")?;
        let rate = line.split_whitespace().nth(at).context("a short line")?;
        ensure!(rate.parse::<u64>()? > 0, "no exits in: {line}");
    }
    Ok(())
}

fn prometheus(command: Command) -> Result<()> {
    let (_running, mut lines) = start(command)?;
    let url = lines.next().context("no address")?;
    let address = url
        .trim_start_matches("http://")
        .trim_end_matches("/metrics");
    let mut stream = TcpStream::connect(address).with_context(|| url.clone())?;
    write!(stream, "GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let exits = columns(&text, "trapeze_io_exits_total")?;
    ensure!(exits[1].parse::<u64>()? > 0, "{text}");
    ensure!(columns(&text, "trapeze_machines")?[1] == "1", "{text}");
    Ok(())
}

fn live(mut command: Command) -> Result<()> {
    let mut terminal = Session::start(command.env("TERM", "xterm"))?;
    terminal.expect("trapeze stat - counted", PATIENCE)?;
    terminal.expect("io_exits", PATIENCE)?;
    terminal.send("q")?;
    let code = terminal.finish(PATIENCE)?;
    ensure!(code == Some(0), "exit code {code:?}");
    Ok(())
}

fn exits(text: &str) -> Result<()> {
    let answer: Value = serde_json::from_str(text)?;
    let rows = answer["exits"].as_array().context("no exits")?;
    let serial = rows.iter().find(|r| r["exit"] == "KVM_EXIT_IO write 0x3f8");
    let serial = serial.with_context(|| format!("no bytes were sent: {answer}"))?;
    let columns = serial["histogram"].as_array().context("no histogram")?;
    let sum: u64 = columns.iter().filter_map(|c| c["count"].as_u64()).sum();
    ensure!(sum > 0 && serial["count"] == sum, "{serial}");
    ensure!(serial["longest-ns"].as_u64() >= serial["median-ns"].as_u64());
    Ok(())
}

/// Each exit is a slice behind one in the guest, and nothing overlaps.
fn trace(pid: &str, folder: &TempFolder) -> Result<()> {
    let path = folder.fill_in("{folder}/trace.json")?;
    let mut command = Command::new(paths::trapeze()?);
    command.args(["trace", pid, "--seconds", "0.5", "-o", &path]);
    output_of(&mut command)?;
    let trace: Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
    let events = trace["traceEvents"].as_array().context("no events")?;
    let number = |event: &Value, name: &str| event[name].as_f64().unwrap_or(f64::NAN);
    let slices: Vec<&Value> = events.iter().filter(|e| e["ph"] == "X").collect();
    let serial = |e: &&&Value| e["name"] == "KVM_EXIT_IO write 0x3f8";
    ensure!(
        slices.iter().filter(serial).count() > 2,
        "{} slices",
        slices.len()
    );
    for pair in slices.windows(2) {
        let end = number(pair[0], "ts") + number(pair[0], "dur");
        ensure!(end <= number(pair[1], "ts") + 0.001, "{pair:?} overlap");
    }
    let counts = |e: &&Value| e["ph"] == "C" && e["name"] == "io_exits";
    ensure!(events.iter().any(|e| counts(&e)), "no counter moved");
    Ok(())
}
