//! The Debian packages the tests use.

mod python;
mod qemu;
mod space;

use crate::paths::installed;
use anyhow::{Context, Result, bail};
use std::process::Command;

pub(crate) use python::qmp_clients;
pub(crate) use qemu::check_version as check_qemu;

struct Package {
    /// Program whose presence shows that the package is there.
    program: &'static str,
    name: &'static str,
    purpose: &'static str,
}

const PACKAGES: &[Package] = &[
    package("cc", "gcc", "linking"),
    package("c++", "g++", "building the fuzzer"),
    package("dpkg-deb", "dpkg", "unpacking guest packages"),
    package("cpio", "cpio", "judging our archives"),
    package("unshare", "util-linux", "the sandbox test"),
    package("fio", "fio", "measuring disks"),
    package("iperf3", "iperf3", "measuring networks"),
    package("ethtool", "ethtool", "queues of network adapters"),
    package("tcpdump", "tcpdump", "judging what networks' dumps hold"),
    package("ip", "iproute2", "networks of the tests' own"),
    package("mmdebstrap", "mmdebstrap", "making a Debian disk"),
    package("gdb", "gdb", "debugging guests"),
    package("python3", "python3-venv", "QEMU's clients of QMP"),
    package("telnet", "telnet", "monitors"),
    package("socat", "socat", "monitors"),
    package("fakeroot", "fakeroot", "making a Debian disk"),
    package("ssh", "openssh-client", "machines with names"),
    package("mke2fs", "e2fsprogs", "disks of machines with names"),
    package("xz", "xz-utils", "judging how modules are unpacked"),
    package("groff", "groff-base", "judging the manual's pages"),
    package("bash", "bash", "judging completions"),
    package("zsh", "zsh", "judging completions"),
    package("fish", "fish", "judging completions"),
];

/// As new as the tests need it.
const QEMU: &[Package] = &[
    package(qemu::PROGRAM, qemu::PACKAGE, "comparisons and nested tests"),
    package("qemu-img", "qemu-utils", "comparisons"),
];

const fn package(program: &'static str, name: &'static str, purpose: &'static str) -> Package {
    Package {
        program,
        name,
        purpose,
    }
}

/// Installs what is missing, as root; else says what to install.
pub(crate) fn run() -> Result<bool> {
    space::report()?;
    let absent = |list: &'static [Package]| list.iter().filter(|p| !installed(p.program));
    let plain: Vec<&Package> = absent(PACKAGES).collect();
    let mut qemu: Vec<&Package> = absent(QEMU).collect();
    for p in plain.iter().chain(&qemu) {
        println!(
            "setup: {} is missing; package {}, for {}",
            p.program, p.name, p.purpose
        );
    }
    if qemu.is_empty()
        && let Err(why) = check_qemu()
    {
        println!("setup: {why:#}");
        qemu.extend(QEMU);
    }
    if plain.is_empty() && qemu.is_empty() {
        println!("setup: everything is there");
        return Ok(true);
    }
    if !is_root() {
        let all: Vec<&str> = plain.iter().chain(&qemu).map(|p| p.name).collect();
        bail!(
            "run 'cargo xtask setup' as root, or install, QEMU {} or newer: {}",
            qemu::MAJOR,
            all.join(" ")
        );
    }
    apt_get(&["update", "-q"])?;
    install(&plain, &[])?;
    if !qemu.is_empty() {
        install(&qemu, &qemu::source()?)?;
    }
    check_qemu()?;
    Ok(plain.iter().chain(&qemu).all(|p| installed(p.program)))
}

/// Installs `packages`, with more options for apt-get.
fn install(packages: &[&Package], options: &[String]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let mut words = vec!["install", "-q", "-y", "--no-install-recommends"];
    words.extend(options.iter().map(String::as_str));
    words.extend(packages.iter().map(|p| p.name));
    apt_get(&words)
}

fn apt_get(words: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(words).env("DEBIAN_FRONTEND", "noninteractive");
    if !command.status().context("apt-get")?.success() {
        bail!("apt-get {} failed", words.join(" "));
    }
    Ok(())
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uid = status.lines().find_map(|l| l.strip_prefix("Uid:"));
    uid.and_then(|l| l.split_whitespace().nth(1)) == Some("0")
}
