//! The Debian packages the tests use.

use crate::paths::installed;
use anyhow::{Context, Result, bail};
use std::process::Command;

/// (program whose presence shows that it is there, package, what it is for)
const PACKAGES: [(&str, &str, &str); 7] = [
    ("cc", "gcc", "linking"),
    ("c++", "g++", "building the fuzzer"),
    ("dpkg-deb", "dpkg", "unpacking guest packages"),
    ("cpio", "cpio", "judging our archives"),
    (
        "qemu-system-x86_64",
        "qemu-system-x86",
        "comparisons and nested tests",
    ),
    ("unshare", "util-linux", "the sandbox test"),
    ("qemu-img", "qemu-utils", "comparisons"),
];

/// Installs what is missing, as root; else says what to install.
pub(crate) fn run() -> Result<bool> {
    let missing: Vec<_> = PACKAGES.iter().filter(|p| !installed(p.0)).collect();
    if missing.is_empty() {
        println!("setup: everything is there");
        return Ok(true);
    }
    for (program, package, purpose) in &missing {
        println!("setup: {program} is missing; package {package}, for {purpose}");
    }
    let names: Vec<&str> = missing.iter().map(|p| p.1).collect();
    if !is_root() {
        bail!(
            "run as root: apt-get install --no-install-recommends {}",
            names.join(" ")
        );
    }
    apt_get(&["update", "-q"])?;
    // A newer QEMU is a better yardstick, where the backports are configured.
    let backports = backports();
    let newest: Vec<&str> = match &backports {
        Some(suite) => vec!["-t", suite],
        None => Vec::new(),
    };
    let mut words = vec!["install", "-q", "-y", "--no-install-recommends"];
    words.extend(newest);
    words.extend(names);
    apt_get(&words)?;
    Ok(missing.iter().all(|p| installed(p.0)))
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

/// The backports suite, if the sources have one with QEMU.
fn backports() -> Option<String> {
    let output = Command::new("apt-cache")
        .args(["madison", "qemu-system-x86"])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut words = text.split([' ', '/']);
    words
        .find(|w| w.ends_with("-backports"))
        .map(str::to_string)
}
