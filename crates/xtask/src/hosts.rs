//! Trapeze on other hosts: inside a QEMU guest whose CPU lacks what the
//! translator likes to use, or comes from the other maker, or whose kernel has
//! been told to merge pages and to set huge ones aside.

use crate::paths::{self, installed};
use crate::process::Counts;
use anyhow::{Context, Result, bail};
use guestimg::{Archive, Flavour, Image, Progress};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const QEMU: &str = "qemu-system-x86_64";
/// Seconds after which QEMU is stopped; the longest takes 70 s of CPU time.
const LIMIT: &str = "600";

/// A machine that Trapeze runs on.
struct Host {
    name: &'static str,
    /// QEMU's model.
    cpu: &'static str,
    /// What is run there, by busybox's shell as root.
    script: &'static str,
    /// What that must say.
    answers: &'static [&'static str],
}

const CHECK: &str = "/trapeze guest -m 64 -append check; echo TRAPEZE-EXIT $?";
const CHECKED: &[&str] = &["GUEST-OK", "TRAPEZE-EXIT 0"];

const HOSTS: [Host; 3] = [
    Host {
        name: "Nehalem",
        // The oldest that we support: x86-64-v2 without AVX, BMI2 and FSGSBASE.
        cpu: "Nehalem",
        script: CHECK,
        answers: CHECKED,
    },
    Host {
        name: "EPYC",
        // One of AMD's.
        cpu: "EPYC",
        script: CHECK,
        answers: CHECKED,
    },
    Host {
        // One whose settings are ours to change.
        name: "memory",
        cpu: "max",
        script: include_str!("hosts/memory.sh"),
        answers: &["FAULTS 0"],
    },
];

const INIT: &str = "#!/bin/busybox sh\n\
    /bin/busybox --install -s /bin\n\
    export PATH=/bin\n\
    mount -t proc proc /proc\n\
    mount -t sysfs sysfs /sys\n\
    mount -t devtmpfs dev /dev\n\
    . /script\n\
    poweroff -f\n";

/// `cargo xtask hosts [NAME...]`.
pub(crate) fn run(names: &[String]) -> Result<bool> {
    if let Some(name) = names.iter().find(|n| !HOSTS.iter().any(|h| h.name == **n)) {
        bail!(
            "no host '{name}'; there are {}",
            HOSTS.map(|h| h.name).join(", ")
        );
    }
    let counts = some(|h| names.is_empty() || names.iter().any(|n| n == h.name))?;
    println!("{} passed, {} failed", counts.passed, counts.failed);
    Ok(counts.failed == 0)
}

/// One check for each host.
pub(crate) fn all() -> Result<Counts> {
    some(|_| true)
}

fn some(wanted: impl Fn(&Host) -> bool) -> Result<Counts> {
    if !installed(QEMU) {
        bail!("{QEMU} is not installed; 'cargo xtask setup' does it");
    }
    let image = guestimg::fetch(Flavour::Cloud, false, &mut Progress::stderr())?;
    let initramfs = paths::target()?.join("host-initramfs.cpio");
    let trapeze = paths::trapeze()?;
    let mut counts = Counts::default();
    for host in HOSTS.iter().filter(|h| wanted(h)) {
        let name = host.name;
        std::fs::write(&initramfs, pack(&image, &trapeze, host.script)?).context("initramfs")?;
        let verdict = boot(&image, &initramfs, host);
        match &verdict {
            Ok(()) => println!("host {name:<12} ok"),
            Err(why) => println!("host {name:<12} FAILED: {why:#}"),
        }
        counts.add(Counts::one(verdict.is_ok()));
    }
    Ok(counts)
}

fn boot(image: &Image, initramfs: &Path, host: &Host) -> Result<()> {
    let output = Command::new("timeout")
        .args([LIMIT, QEMU, "-accel", "tcg", "-cpu", host.cpu, "-m", "768"])
        .args([
            "-nodefaults",
            "-display",
            "none",
            "-serial",
            "stdio",
            "-no-reboot",
        ])
        .arg("-kernel")
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", "console=ttyS0 quiet panic=-1"])
        .stdin(Stdio::null())
        .output()
        .context(QEMU)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(missing) = host.answers.iter().find(|a| !text.contains(**a)) else {
        return Ok(());
    };
    let tail: Vec<&str> = text.lines().rev().take(40).collect();
    bail!(
        "it did not say '{missing}'; its last lines, newest first:\n{}",
        tail.join("\n")
    )
}

/// A root with busybox, trapeze and the libraries it is linked with.
fn pack(image: &Image, trapeze: &Path, script: &str) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    let read = |path: &Path| std::fs::read(path).with_context(|| path.display().to_string());
    let libraries = libraries(trapeze)?;
    let mut folders = BTreeSet::from(["bin", "dev", "proc", "sys", "tmp"].map(PathBuf::from));
    for library in &libraries {
        let parents = library.ancestors().skip(1).filter(|p| p.parent().is_some());
        folders.extend(parents.filter_map(|p| Some(p.strip_prefix("/").ok()?.to_path_buf())));
    }
    for folder in folders {
        archive.directory(&folder.to_string_lossy());
    }
    archive.device("dev/console", 0o600, 5, 1);
    archive.file("bin/busybox", 0o755, &read(&image.busybox)?);
    archive.file("trapeze", 0o755, &read(trapeze)?);
    for library in &libraries {
        let path = library.to_string_lossy();
        archive.file(path.trim_start_matches('/'), 0o755, &read(library)?);
    }
    archive.file("script", 0o644, script.as_bytes());
    archive.file("init", 0o755, INIT.as_bytes());
    Ok(archive.finish())
}

/// Paths in the output of ldd(1): `name => path (address)` or `path (address)`.
pub(crate) fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let paths = text.split_whitespace().filter(|w| w.starts_with('/'));
    Ok(paths.map(PathBuf::from).collect())
}
