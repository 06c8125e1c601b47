//! The boot test of an adapter with several queues: Linux on a tap device, with the
//! host's kernel at the other end, in a network namespace of the test's own.

use crate::bench::guest::{Guest, Kit};
use crate::bench::net::iperf::{JOBS, Job, PROGRAM, Server};
use crate::paths::installed;
use crate::process::output_of;
use anyhow::{Context, Result, bail};
use std::process::Command;

const KIT: Kit = Kit {
    programs: &["ethtool", PROGRAM],
    modules: &["failover", "net_failover", "virtio_net"],
};
/// Set where the namespace is there already.
const INSIDE: &str = "TRAPEZE_BOOT_QUEUES_INSIDE";
const HOST: &str = "10.9.3.1";
const PAIRS: usize = 4;
/// How long each job takes.
const SECONDS: u32 = 2;

/// Interrupts of each pair's two queues, to the guest and from it.
type Interrupts = [[u64; 2]; PAIRS];

pub(super) fn boot(accel: &str) -> Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return inside(accel);
    }
    if let Some(program) = KIT.programs.iter().find(|p| !installed(p)) {
        bail!("{program} is missing; 'cargo xtask setup' installs it");
    }
    // What the namespace has no way to.
    super::fetch(guestimg::Flavour::Cloud)?;
    let output = Command::new("unshare")
        .args(["--map-root-user", "--net"])
        .arg(std::env::current_exe()?)
        .args(["boot", "--accel", accel, "network-queues"])
        .env(INSIDE, "1")
        .output()
        .context("unshare")?;
    match output.status.success() {
        true => Ok(()),
        false => bail!("{}", String::from_utf8_lossy(&output.stdout)),
    }
}

fn ip(words: &str) -> Result<String> {
    output_of(Command::new("ip").args(words.split(' ')))
}

fn inside(accel: &str) -> Result<()> {
    ip("link set lo up")?;
    let server = Server::start()?;
    let tap = format!("tap,id=n,ifname=queues,queues={PAIRS},script=no,downscript=no");
    let options = ["-smp", "4", "-netdev", &tap, "-device"];
    let options = options.into_iter().chain(["virtio-net-pci,netdev=n,mq=on"]);
    let options: Vec<String> = options.map(str::to_string).collect();
    let mut guest = Guest::trapeze(accel, &KIT, &options)?;
    ip(&format!("addr add {HOST}/24 dev queues"))?;
    ip("link set queues up")?;
    for number in ["first", "second"] {
        let used = use_all(&mut guest, &server);
        used.with_context(|| format!("the driver loaded for the {number} time"))?;
        // What a reset leaves behind is as it was.
        guest.say(
            "sh -c 'rmmod virtio_net && insmod /modules/virtio_net.ko'",
            1,
        )?;
    }
    guest.finish()
}

/// All pairs, then two of them, then all again.
fn use_all(guest: &mut Guest, server: &Server) -> Result<()> {
    guest.say(
        "sh -c 'ip addr add 10.9.3.2/24 dev eth0 && ip link set eth0 up && sleep 1'",
        1,
    )?;
    let said = guest.say("ethtool -l eth0", 1)?;
    if said.matches(&format!("Combined:\t{PAIRS}")).count() < 1 {
        bail!("ethtool -l: {said}");
    }
    for pairs in [PAIRS, 2, PAIRS] {
        set_pairs(guest, pairs)?;
        // Interrupts of the pairs that are not used any more may be on their way.
        busy(guest, server, &JOBS[1])?;
        let before = interrupts(guest)?;
        for job in [&JOBS[1], &JOBS[3]] {
            busy(guest, server, job)?;
        }
        let after = interrupts(guest)?;
        compare(&before, &after, pairs)
            .with_context(|| format!("{pairs} pairs; interrupts {before:?}, then {after:?}"))?;
    }
    Ok(())
}

fn set_pairs(guest: &mut Guest, pairs: usize) -> Result<()> {
    guest.say(&format!("ethtool -L eth0 combined {pairs}"), 1)?;
    let queues = guest.say("ls /sys/class/net/eth0/queues", 1)?;
    let there = |queue: String| queues.split_whitespace().any(|word| word == queue);
    let right = |pair: usize| {
        let expected = pair < pairs;
        there(format!("rx-{pair}")) == expected && there(format!("tx-{pair}")) == expected
    };
    match (0..PAIRS).all(right) {
        true => Ok(()),
        false => bail!("{pairs} pairs were set, there are {queues}"),
    }
}

fn busy(guest: &mut Guest, server: &Server, job: &Job) -> Result<()> {
    server.with_guest(guest, HOST, job, SECONDS).map(drop)
}

fn interrupts(guest: &mut Guest) -> Result<Interrupts> {
    let said = guest.say("grep -E virtio.+-.+put /proc/interrupts", 1)?;
    let mut interrupts = Interrupts::default();
    for (pair, counts) in interrupts.iter_mut().enumerate() {
        for (count, queue) in counts.iter_mut().zip(["input", "output"]) {
            let name = format!("-{queue}.{pair}");
            let line = said.lines().find(|line| line.trim_end().ends_with(&name));
            let line = line.with_context(|| format!("no {name} in {said}"))?;
            let numbers = line.split_whitespace().skip(1);
            let numbers = numbers.map_while(|word| word.parse::<u64>().ok());
            *count = numbers.sum();
        }
    }
    Ok(interrupts)
}

/// Several of the pairs in use were busy, and no others.
fn compare(before: &Interrupts, after: &Interrupts, pairs: usize) -> Result<()> {
    let moved = |pair: usize, queue: usize| after[pair][queue] != before[pair][queue];
    for (queue, name) in ["to the guest", "from the guest"].into_iter().enumerate() {
        let busy = (0..PAIRS).filter(|pair| moved(*pair, queue)).count();
        if busy < 2 {
            bail!("{busy} queues {name} were used");
        }
        if (pairs..PAIRS).any(|pair| moved(pair, queue)) {
            bail!("a queue {name} that is off was used");
        }
    }
    Ok(())
}
