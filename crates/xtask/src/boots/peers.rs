//! The boot tests of networks between machines, of which one is QEMU's: it knows the
//! format of what is sent.

use crate::bench::guest::{Guest, Kit, Machine};
use crate::paths::TempFolder;
use crate::process::output_of;
use anyhow::{Result, bail};
use std::path::Path;
use std::process::Command;

const KIT: Kit = Kit {
    programs: &[],
    modules: &["failover", "net_failover", "virtio_net"],
};
/// What is sent by TCP: MiB of zeros, and their MD5 as metal computes it.
const MEBIBYTES: u32 = 16;
const MD5: &str = "2c7ab85a893283e98c931e9511add182";

/// A machine with the address 10.9.0.`number`.
fn start(machine: Machine, accel: &str, number: u8, options: &str) -> Result<Guest> {
    let device = format!("virtio-net-pci,netdev=n,mac=52:54:00:00:09:0{number}");
    let options = options.split(' ').chain(["-device", &device]);
    let options: Vec<String> = options.map(str::to_string).collect();
    let mut guest = match machine {
        Machine::Trapeze => Guest::trapeze(accel, &KIT, &options)?,
        Machine::Tcg => Guest::start(machine, &KIT, &options)?,
    };
    guest.say(
        &format!("sh -c 'ip addr add 10.9.0.{number}/24 dev eth0 && ip link set eth0 up'"),
        1,
    )?;
    Ok(guest)
}

fn ping(guest: &mut Guest, number: u8) -> Result<()> {
    let said = guest.say(&format!("ping -c 5 -s 1400 10.9.0.{number}"), 10)?;
    match said.contains(" 0% packet loss") {
        true => Ok(()),
        false => bail!("10.9.0.{number} does not answer: {said}"),
    }
}

/// Bytes from one to another, which has this number.
fn transfer(from: &mut Guest, to: &mut Guest, number: u8) -> Result<()> {
    to.say(
        "sh -c '(sleep 1000 | nc -l -p 7000 | md5sum > /tmp/sum) > /dev/null 2>&1 & sleep 1'",
        1,
    )?;
    from.say(
        &format!("sh -c 'dd if=/dev/zero bs=1M count={MEBIBYTES} | nc 10.9.0.{number} 7000'"),
        60,
    )?;
    let said = to.say(
        "sh -c 'until grep -q - /tmp/sum; do sleep 1; done; cat /tmp/sum'",
        60,
    )?;
    match said.contains(MD5) {
        true => Ok(()),
        false => bail!("other bytes came than were sent: {said}"),
    }
}

/// Two machines meet at the hub of a third, one over a TCP socket, one by datagrams;
/// what one of them sends and gets is written down.
pub(super) fn hub(accel: &str) -> Result<()> {
    let folder = TempFolder::new("boot-hub")?;
    let (port, at) = (folder.port()?, |name: &str| {
        folder.path(name).display().to_string()
    });
    let (here, there, dump) = (at("here"), at("there"), at("dump.pcap"));
    let dgram = |id: &str, local: &str, remote: &str| {
        format!(
            "-netdev dgram,id={id},local.type=unix,local.path={local},\
             remote.type=unix,remote.path={remote}"
        )
    };
    let switch = format!(
        "-netdev socket,id=s,listen=127.0.0.1:{port} {} -netdev hubport,id=n,hubid=1 \
         -netdev hubport,id=ps,hubid=1,netdev=s -netdev hubport,id=pd,hubid=1,netdev=d \
         -object filter-dump,id=f,netdev=d,file={dump}",
        dgram("d", &here, &there)
    );
    let mut middle = start(Machine::Trapeze, accel, 1, &switch)?;
    let connect = format!("-netdev socket,id=n,connect=127.0.0.1:{port}");
    let mut qemu = start(Machine::Tcg, accel, 2, &connect)?;
    let mut other = start(Machine::Trapeze, accel, 3, &dgram("n", &there, &here))?;
    ping(&mut middle, 2)?;
    ping(&mut middle, 3)?;
    ping(&mut qemu, 1)?;
    ping(&mut qemu, 3)?;
    ping(&mut other, 2)?;
    transfer(&mut qemu, &mut other, 3)?;
    transfer(&mut other, &mut qemu, 2)?;
    transfer(&mut qemu, &mut middle, 1)?;
    [qemu, other, middle]
        .into_iter()
        .try_for_each(Guest::finish)?;
    judge(Path::new(&dump))
}

/// tcpdump sees the echoes both ways, and no frame that is cut off.
fn judge(dump: &Path) -> Result<()> {
    let mut tcpdump = Command::new("tcpdump");
    let said = output_of(tcpdump.args(["-n", "-r"]).arg(dump).arg("icmp"))?;
    for wanted in [
        "10.9.0.2 > 10.9.0.3: ICMP echo request",
        "10.9.0.3 > 10.9.0.2: ICMP echo reply",
        "10.9.0.3 > 10.9.0.2: ICMP echo request",
        "10.9.0.2 > 10.9.0.3: ICMP echo reply",
        "10.9.0.1 > 10.9.0.3: ICMP echo request",
    ] {
        let count = said.matches(wanted).count();
        if count != 5 {
            bail!("tcpdump sees '{wanted}' {count} times instead of 5:\n{said}");
        }
    }
    match said.contains("truncated") {
        false => Ok(()),
        true => bail!("tcpdump misses bytes:\n{said}"),
    }
}

/// Three machines in a group, by both options that there are.
pub(super) fn group(accel: &str) -> Result<()> {
    let folder = TempFolder::new("boot-group")?;
    let port = folder.port()?;
    let old = format!("-netdev socket,id=n,mcast=239.192.7.1:{port},localaddr=127.0.0.1");
    let new = format!(
        "-netdev dgram,id=n,remote.type=inet,remote.host=239.192.7.1,remote.port={port},\
         local.type=inet,local.host=127.0.0.1,local.port={port}"
    );
    let mut first = start(Machine::Trapeze, accel, 1, &old)?;
    let mut qemu = start(Machine::Tcg, accel, 2, &old)?;
    let mut second = start(Machine::Trapeze, accel, 3, &new)?;
    ping(&mut first, 2)?;
    ping(&mut first, 3)?;
    ping(&mut qemu, 1)?;
    ping(&mut qemu, 3)?;
    ping(&mut second, 1)?;
    transfer(&mut first, &mut second, 3)?;
    [qemu, second, first]
        .into_iter()
        .try_for_each(Guest::finish)
}
