//! The boot test of a vhost-user network: Linux talks to a back end of other people's
//! making, which is killed and comes back.

use crate::bench::guest::{Guest, Kit};
use crate::paths::{self, TempFolder};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const KIT: Kit = Kit {
    programs: &["ethtool"],
    modules: &["failover", "net_failover", "virtio_net"],
};

/// A back end. Ends with this.
struct Back(Child);

impl Back {
    /// Starts one that listens at `path`.
    fn start(path: &Path) -> Result<Self> {
        // What one that was killed has left.
        let _ = std::fs::remove_file(path);
        let child = Command::new(program()?)
            .arg(path)
            .arg("2")
            .stdin(Stdio::null())
            .spawn()
            .context("the back end")?;
        let back = Self(child);
        let limit = Instant::now() + Duration::from_secs(10);
        while !path.exists() {
            if Instant::now() > limit {
                bail!("the back end does not listen");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(back)
    }
}

impl Drop for Back {
    fn drop(&mut self) {
        // It is ours, and has nothing to lose.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The back end that the network's tests have, built now if need be.
fn program() -> Result<PathBuf> {
    let build = ["build", "--release", "--quiet", "--package", "net"];
    let example = ["--example", "vhost_user"];
    let status = paths::cargo().args(build).args(example).status();
    if !status.context("cargo build")?.success() {
        bail!("the back end does not build");
    }
    Ok(paths::target()?.join("release/examples/vhost_user"))
}

pub(super) fn boot(accel: &str) -> Result<()> {
    let folder = TempFolder::new("boot-vhost-user")?;
    let socket = folder.path("socket");
    let back = Back::start(&socket)?;
    let chardev = format!("socket,id=c,path={}", socket.display());
    let options = ["-smp", "2", "-chardev", &chardev, "-netdev"];
    let options = options.into_iter().chain([
        "vhost-user,id=n,chardev=c,queues=2",
        "-device",
        "virtio-net-pci,netdev=n,mq=on",
    ]);
    let options: Vec<String> = options.map(str::to_string).collect();
    let mut guest = Guest::trapeze(accel, &KIT, &options)?;
    guest.say(
        "sh -c 'ip addr add 10.7.0.2/16 dev eth0 && ip link set eth0 up && sleep 1'",
        1,
    )?;
    let said = guest.say("ethtool -l eth0", 1)?;
    if said.matches("Combined:\t2").count() != 2 {
        bail!("ethtool -l: {said}");
    }
    reaches(&mut guest)?;
    drop(back);
    carrier(&mut guest, 0)?;
    let said = guest.say("ping -c 2 -W 1 10.7.0.1", 3)?;
    if !said.contains(" 100% packet loss") {
        bail!("an answer though there is nobody: {said}");
    }
    let _back = Back::start(&socket)?;
    carrier(&mut guest, 1)?;
    reaches(&mut guest)?;
    // A driver that is loaded anew.
    guest.say(
        "sh -c 'rmmod virtio_net && insmod /modules/virtio_net.ko && \
         ip addr add 10.7.0.2/16 dev eth0 && ip link set eth0 up && sleep 1'",
        1,
    )?;
    reaches(&mut guest)?;
    guest.finish()
}

/// Many addresses at once, so that both pairs have something to do, and long frames.
fn reaches(guest: &mut Guest) -> Result<()> {
    let said = guest.say(
        "sh -c 'for i in 1 2 3 4 5 6 7 8; do ping -q -c 5 -s 1400 10.7.0.1$i & done; wait'",
        10,
    )?;
    match said.matches(" 0% packet loss").count() {
        8 => Ok(()),
        n => bail!("{n} of 8 addresses answer: {said}"),
    }
}

/// Waits until the guest has heard of the cable.
fn carrier(guest: &mut Guest, value: u8) -> Result<()> {
    let file = "/sys/class/net/eth0/carrier";
    guest.say(
        &format!("sh -c 'until grep -q {value} {file}; do sleep 1; done'"),
        10,
    )?;
    Ok(())
}
