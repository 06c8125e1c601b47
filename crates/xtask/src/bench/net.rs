//! `cargo xtask bench net`: iperf3 from a guest to the host, over the user-mode network
//! and over a tap device, here, under QEMU TCG, and without a guest over the loopback.
//! Both guests run all the time and idle while the others work. All of it happens in a
//! network namespace of its own.

pub(crate) mod iperf;

use super::contest::{Contender, Plan};
use super::guest::{Guest, Machine};
use crate::paths::{self, installed};
use crate::process::output_of;
use crate::setup::check_qemu;
use anyhow::{Context, Result, bail};
use guestimg::{Flavour, Progress};
use iperf::{JOBS, Job, Server};
use std::process::Command;

const DEFAULT_SECONDS: u32 = 3;
/// Set where the namespace is there already.
const INSIDE: &str = "TRAPEZE_BENCH_NET_INSIDE";

/// What is between guest and host.
#[derive(Clone, Copy)]
enum Network {
    User,
    Tap,
}

impl Network {
    const ALL: [Self; 2] = [Self::User, Self::Tap];

    fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Tap => "tap",
        }
    }

    /// The host's address as the guest of `machine` knows it.
    fn host(self, machine: Machine) -> String {
        match self {
            Self::User => "10.0.2.2".into(),
            Self::Tap => format!("{}.1", prefix(machine)),
        }
    }
}

/// The tap device's network, without the last part of addresses.
fn prefix(machine: Machine) -> &'static str {
    match machine {
        Machine::Trapeze => "10.9.1",
        Machine::Tcg => "10.9.2",
    }
}

/// `cargo xtask bench net [--runs N] [--seconds N] [--only TEXT] [--json FILE]`.
pub(super) fn run(arguments: &[String]) -> Result<bool> {
    let plan = Plan::parse(arguments, DEFAULT_SECONDS)?;
    if std::env::var_os(INSIDE).is_some() {
        return measure(&plan);
    }
    let program = iperf::PROGRAM;
    if !installed(program) {
        bail!("{program} is missing; 'cargo xtask setup' installs it");
    }
    check_qemu()?;
    // What the namespace has no way to.
    guestimg::fetch(Flavour::Cloud, false, &mut Progress::stderr())?;
    paths::trapeze()?;
    let status = Command::new("unshare")
        .args(["--map-root-user", "--net"])
        .arg(std::env::current_exe()?)
        .args(["bench", "net"])
        .args(arguments)
        .env(INSIDE, "1")
        .status()
        .context("unshare")?;
    Ok(status.success())
}

fn measure(plan: &Plan) -> Result<bool> {
    ip("link set lo up")?;
    let pairs = Network::ALL
        .iter()
        .flat_map(|n| JOBS.iter().map(move |j| (*n, j)));
    let jobs = pairs.map(|(n, j)| (format!("{}: {}", n.name(), j.name), (n, j)));
    let jobs: Vec<(String, (Network, &Job))> = plan.chosen(jobs.collect())?;
    let server = Server::start()?;
    let (mut ours, mut tcg) = (start(Machine::Trapeze)?, start(Machine::Tcg)?);
    let seconds = plan.seconds;
    plan.contest(
        jobs,
        |(_, job)| job.unit,
        |contender, &(network, job)| {
            let (guest, machine) = match contender {
                Contender::Trapeze => (&mut ours, Machine::Trapeze),
                Contender::Tcg => (&mut tcg, Machine::Tcg),
                Contender::Native => return server.natively(job, seconds),
            };
            server.with_guest(guest, &network.host(machine), job, seconds)
        },
    )?;
    ours.finish()?;
    tcg.finish()?;
    Ok(true)
}

fn ip(words: &str) -> Result<String> {
    output_of(Command::new("ip").args(words.split(' ')))
}

/// A guest with an adapter on each network, both of them up.
fn start(machine: Machine) -> Result<Guest> {
    let (name, prefix) = (machine.name(), prefix(machine));
    let tap = format!("tap,ifname={name},script=no,downscript=no,model=virtio-net-pci");
    let options = ["-nic", "user,model=virtio-net-pci", "-nic", &tap].map(str::to_string);
    let mut guest = Guest::start(machine, &iperf::KIT, &options)?;
    ip(&format!("addr add {prefix}.1/24 dev {name}"))?;
    ip(&format!("link set {name} up"))?;
    let configure = format!(
        "ip addr add 10.0.2.15/24 dev eth0 && ip link set eth0 up && \
         ip addr add {prefix}.2/24 dev eth1 && ip link set eth1 up && sleep 1"
    );
    let said = guest.say(&format!("sh -c '{configure}'"), 1)?;
    match said.contains("end 0") {
        true => Ok(guest),
        false => bail!("{name}: the guest's network: {said}"),
    }
}
