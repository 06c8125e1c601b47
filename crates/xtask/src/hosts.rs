//! Trapeze on other hosts: inside a QEMU guest whose CPU lacks what the
//! translator likes to use, or comes from the other maker.

use crate::paths::{self, installed};
use crate::process::Counts;
use anyhow::{Context, Result, bail};
use guestimg::{Archive, Flavour, Image, Progress};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// CPU models of QEMU: the oldest host we support (x86-64-v2 without AVX, BMI2
/// and FSGSBASE), and one of AMD's.
const CPUS: [&str; 2] = ["Nehalem", "EPYC"];
const QEMU: &str = "qemu-system-x86_64";
const INIT: &str = "#!/bin/busybox sh\n\
    busybox mount -t proc proc /proc\n\
    busybox mount -t devtmpfs dev /dev\n\
    /trapeze guest -m 64 -append check\n\
    echo TRAPEZE-EXIT $?\n\
    busybox poweroff -f\n";

/// `cargo xtask hosts`.
pub(crate) fn run() -> Result<bool> {
    let counts = all()?;
    println!("{} passed, {} failed", counts.passed, counts.failed);
    Ok(counts.failed == 0)
}

/// One check for each CPU.
pub(crate) fn all() -> Result<Counts> {
    if !installed(QEMU) {
        bail!("{QEMU} is not installed; 'cargo xtask setup' does it");
    }
    let image = guestimg::fetch(Flavour::Cloud, false, &mut Progress::stderr())?;
    let initramfs = paths::target()?.join("host-initramfs.cpio");
    std::fs::write(&initramfs, pack(&image, &paths::trapeze()?)?).context("initramfs")?;
    let mut counts = Counts::default();
    for cpu in CPUS {
        let verdict = boot(&image, &initramfs, cpu);
        match &verdict {
            Ok(()) => println!("host {cpu:<12} ok"),
            Err(why) => println!("host {cpu:<12} FAILED: {why:#}"),
        }
        counts.add(Counts::one(verdict.is_ok()));
    }
    Ok(counts)
}

fn boot(image: &Image, initramfs: &Path, cpu: &str) -> Result<()> {
    let output = Command::new("timeout")
        .args(["300", QEMU, "-accel", "tcg", "-cpu", cpu, "-m", "768"])
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
    if text.contains("GUEST-OK") && text.contains("TRAPEZE-EXIT 0") {
        return Ok(());
    }
    let tail: Vec<&str> = text.lines().rev().take(15).collect();
    bail!(
        "the guest did not say GUEST-OK; its last lines, newest first:\n{}",
        tail.join("\n")
    )
}

/// A root with busybox, trapeze and the libraries it is linked with.
fn pack(image: &Image, trapeze: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    let read = |path: &Path| std::fs::read(path).with_context(|| path.display().to_string());
    let libraries = libraries(trapeze)?;
    let mut folders = BTreeSet::from(["bin", "dev", "proc", "tmp"].map(PathBuf::from));
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
