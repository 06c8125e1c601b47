//! The boot test of `trapeze stat`: while a guest works, its counters are read as
//! text, as JSON, as a log, by Prometheus and on a terminal.

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

fn look(session: &mut Session, _: &TempFolder) -> Result<()> {
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
