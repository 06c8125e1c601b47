//! `cargo xtask bench net`: iperf3 from a guest on the user-mode network to the host's
//! loopback, here, under QEMU TCG, and without a guest. Both guests run all the time
//! and idle while the others work.

mod iperf;

use super::contest::{Contender, Plan};
use super::guest::{Guest, Machine};
use crate::paths::installed;
use crate::setup::check_qemu;
use anyhow::{Result, bail};
use iperf::{JOBS, Job, Server};

const DEFAULT_SECONDS: u32 = 3;
/// The host, as guests know it.
const HOST: &str = "10.0.2.2";
const CONFIGURE: &str = "ip addr add 10.0.2.15/24 dev eth0 && ip link set eth0 up && \
                         ip route add default via 10.0.2.2 && ip link set lo up && sleep 1";

/// `cargo xtask bench net [--runs N] [--seconds N] [--only TEXT] [--json FILE]`.
pub(super) fn run(arguments: &[String]) -> Result<bool> {
    let plan = Plan::parse(arguments, DEFAULT_SECONDS)?;
    let program = iperf::PROGRAM;
    if !installed(program) {
        bail!("{program} is missing; 'cargo xtask setup' installs it");
    }
    check_qemu()?;
    let jobs = JOBS.iter().map(|j| (j.name.to_string(), j)).collect();
    let jobs: Vec<(String, &Job)> = plan.chosen(jobs)?;
    let server = Server::start()?;
    let (mut ours, mut tcg) = (start(Machine::Trapeze)?, start(Machine::Tcg)?);
    plan.contest(
        jobs,
        |job| job.unit,
        |contender, job| match contender {
            Contender::Trapeze => server.with_guest(&mut ours, HOST, job, plan.seconds),
            Contender::Tcg => server.with_guest(&mut tcg, HOST, job, plan.seconds),
            Contender::Native => server.natively(job, plan.seconds),
        },
    )?;
    ours.finish()?;
    tcg.finish()?;
    Ok(true)
}

fn start(machine: Machine) -> Result<Guest> {
    let options = ["-nic", "user,model=virtio-net-pci"].map(str::to_string);
    let mut guest = Guest::start(machine, &iperf::KIT, &options)?;
    let said = guest.say(CONFIGURE, 1)?;
    match said.contains("end 0") {
        true => Ok(guest),
        false => bail!("{}: the guest's network: {said}", machine.name()),
    }
}
