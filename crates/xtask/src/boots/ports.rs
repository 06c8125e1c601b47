//! The boot test of virtio's consoles: a shell on one, and a stream with a
//! name whose bytes pass in both directions, to a host that is slow.

use super::{Devices, PATIENCE, PROMPT};
use crate::expect::Session;
use crate::paths::TempFolder;
use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

pub(super) const DEVICES: Devices = Devices {
    modules: &["virtio_console"],
    act: use_ports,
};

/// A device for consoles, and what is behind it.
macro_rules! options {
    ($($device:literal),*) => {
        &[
            $($device,)*
            "-chardev",
            "socket,id=console,path={folder}/console,server=on,wait=off",
            "-chardev",
            "socket,id=stream,path={folder}/stream,server=on,wait=off",
            "-device",
            "virtconsole,chardev=console",
            "-device",
            "virtserialport,chardev=stream,name=org.trapeze.stream",
        ]
    };
}

pub(super) const OPTIONS: &[&str] = options!["-device", "virtio-serial-pci"];

pub(super) const MICROVM_OPTIONS: &[&str] =
    options!["-M", "microvm", "-device", "virtio-serial-device"];

/// The terminal is the console of a whole Debian. Its initrd has no driver for
/// it: until the real root has loaded that there must be another console, or
/// `/init` has no standard streams and stops; and systemd, which looks for
/// consoles that want a login before, must be told of this one.
pub(super) const DEBIAN_OPTIONS: &[&str] = &[
    "-m",
    "1G",
    "-serial",
    "none",
    "-chardev",
    "stdio,id=terminal",
    "-device",
    "virtio-serial-pci",
    "-device",
    "virtconsole,chardev=terminal",
    "-append",
    "root=/dev/vda console=tty0 console=hvc0 systemd.wants=serial-getty@hvc0.service",
];

pub(super) const STEPS: &[(&str, &str)] = &[
    (PROMPT, super::boards::LOAD),
    ("\nin 0", ""),
    (PROMPT, "cat /sys/class/virtio-ports/*/name\r"),
    ("\norg.trapeze.stream", ""),
    (
        PROMPT,
        "setsid sh -c 'exec sh -i < /dev/hvc0 > /dev/hvc0 2>&1' &\r",
    ),
];

/// Bytes in each direction: more than all buffers hold.
const STREAM: usize = 2 << 20;

fn use_ports(session: &mut Session, folder: &TempFolder) -> Result<()> {
    let mut console = connect(folder, "console")?;
    console.write_all(b"\recho on $(tty) $((6 * 7))\r")?;
    wait_for(&mut console, b"on /dev/hvc0 42")?;

    // The host only reads when the guest has long filled every buffer.
    let mut stream = connect(folder, "stream")?;
    session.expect(PROMPT, PATIENCE)?;
    let send =
        "(yes 0123456 | head -c 2097152 > /dev/vport0p1; echo sent $?) & sleep 1; echo slept $?\r";
    session.send(send)?;
    session.expect("\nslept 0", PATIENCE)?;
    let mut bytes = vec![0; STREAM];
    stream.read_exact(&mut bytes).context("from the guest")?;
    if bytes.chunks(8).any(|line| line != b"0123456\n") {
        bail!("other bytes came than the guest sent");
    }
    // Only one program at a time can have the port open.
    session.expect("sent 0", PATIENCE)?;
    session.send("\r")?;
    session.expect(PROMPT, PATIENCE)?;
    session.send("head -c 2097152 /dev/vport0p1 | md5sum\r")?;
    stream.write_all(&vec![0; STREAM])?;
    // md5 of 2 MiB of zeros, as the host's md5sum computes it.
    session.expect("b2d1236c286a3c0704224fe4105eca49", PATIENCE)?;
    session.expect(PROMPT, PATIENCE)?;
    session.send("poweroff\r")
}

fn connect(folder: &TempFolder, name: &str) -> Result<UnixStream> {
    let stream = UnixStream::connect(folder.path(name))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(stream)
}

fn wait_for(stream: &mut UnixStream, text: &[u8]) -> Result<()> {
    let mut seen: Vec<u8> = Vec::new();
    let mut buffer = [0; 4096];
    while !seen.windows(text.len()).any(|w| w == text) {
        let n = stream.read(&mut buffer).context("from the console")?;
        if n == 0 {
            bail!("the console ended");
        }
        seen.extend(&buffer[..n]);
    }
    Ok(())
}
