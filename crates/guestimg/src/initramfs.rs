//! The guest's root: busybox, links for its applets and `/init`.

use crate::{Archive, Error, Image, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

const INIT: &str = include_str!("init.sh");
const SESSION: &str = include_str!("session.sh");
const FOLDERS: [&str; 9] = [
    "bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr",
];
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n";

/// What the guest does when it is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A shell on the console.
    Shell,
    /// Prints `TRAPEZE-FIRST-PROCESS` and powers off: for measurements.
    Bench,
}

/// The kernel's command line for the initramfs of [`initramfs`]. Words that
/// the kernel does not know become `/init`'s environment (Linux,
/// Documentation/admin-guide/kernel-parameters.rst), so the terminal's type and
/// its size in (rows, columns) travel that way.
pub fn command_line(mode: Mode, term: Option<&str>, size: Option<(u16, u16)>) -> String {
    let mut line = String::from("console=ttyS0 panic=-1");
    match mode {
        Mode::Bench => line.push_str(" TRAPEZE_MODE=bench"),
        Mode::Shell => line.push_str(" quiet"),
    }
    let plain = |t: &&str| {
        !t.is_empty()
            && t.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    };
    if let Some(term) = term.filter(plain) {
        line.push_str(&format!(" TERM={term}"));
    }
    if let Some((rows, columns)) = size.filter(|&(rows, columns)| rows > 0 && columns > 0) {
        line.push_str(&format!(" TRAPEZE_ROWS={rows} TRAPEZE_COLUMNS={columns}"));
    }
    line
}

/// Builds the initramfs for `image` beside it and returns its path. An equal
/// one that is there already is left alone.
pub fn initramfs(image: &Image) -> Result<PathBuf> {
    let busybox = std::fs::read(&image.busybox).map_err(Error::file(&image.busybox))?;
    let bytes = pack(&busybox, &applets(&image.busybox));
    let path = image.folder.join("initramfs.cpio");
    if std::fs::read(&path).is_ok_and(|old| old == bytes) {
        return Ok(path);
    }
    let new = image
        .folder
        .join(format!("initramfs.{}", std::process::id()));
    std::fs::write(&new, bytes).map_err(Error::file(&new))?;
    std::fs::rename(&new, &path).map_err(Error::file(&path))?;
    Ok(path)
}

/// The applets busybox says it has; none if the host cannot run it (a 32-bit
/// one on some hosts), then `/init` makes the links.
fn applets(busybox: &Path) -> Vec<String> {
    let output = Command::new(busybox).arg("--list").output();
    let text = output.map(|o| o.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines()
        .filter(|name| !name.is_empty() && !name.contains('/') && *name != "busybox")
        .map(str::to_string)
        .collect()
}

fn pack(busybox: &[u8], applets: &[String]) -> Vec<u8> {
    let mut archive = Archive::new();
    for folder in FOLDERS {
        archive.directory(folder);
    }
    archive.device("dev/console", 0o600, 5, 1);
    archive.device("dev/null", 0o666, 1, 3);
    archive.file("bin/busybox", 0o755, busybox);
    for name in applets {
        archive.symlink(&format!("bin/{name}"), "busybox");
    }
    if applets.is_empty() {
        for name in ["sh", "mount"] {
            archive.symlink(&format!("bin/{name}"), "busybox");
        }
    }
    archive.symlink("sbin", "bin");
    archive.symlink("usr/bin", "../bin");
    archive.symlink("usr/sbin", "../bin");
    archive.file("etc/passwd", 0o644, PASSWD.as_bytes());
    archive.file("etc/group", 0o644, b"root:x:0:\n");
    archive.file("etc/session", 0o755, SESSION.as_bytes());
    archive.file("init", 0o755, INIT.as_bytes());
    archive.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_carries_the_terminal() {
        assert_eq!(
            command_line(Mode::Shell, Some("xterm-256color"), Some((24, 80))),
            "console=ttyS0 panic=-1 quiet TERM=xterm-256color TRAPEZE_ROWS=24 TRAPEZE_COLUMNS=80"
        );
        // A terminal type that would break the command line is left out.
        assert_eq!(
            command_line(Mode::Bench, Some("a b"), Some((0, 0))),
            "console=ttyS0 panic=-1 TRAPEZE_MODE=bench"
        );
    }

    #[test]
    fn every_applet_is_a_link_and_the_kernel_finds_its_init() {
        let applets = ["ls", "poweroff", "sh"].map(String::from);
        let bytes = pack(b"ELF", &applets);
        let text = String::from_utf8_lossy(&bytes);
        for name in [
            "bin/ls\0",
            "bin/poweroff\0",
            "bin/sh\0",
            "init\0#!/bin/busybox sh",
        ] {
            assert_eq!(
                text.replace("init\0\0", "init\0").matches(name).count(),
                1,
                "{name}"
            );
        }
    }
}
