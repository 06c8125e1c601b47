//! The disks: raw and qcow2 on a backing file, in memory and on the host's
//! disk. Each contender has files of its own with the same contents.

use crate::paths;
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A row of disks; its place is its letter in the guest.
pub(super) struct Disk {
    pub(super) name: &'static str,
    pub(super) qcow2: bool,
    /// In memory, not on the host's disk.
    tmpfs: bool,
    pub(super) cache: &'static str,
}

pub(super) const DISKS: [Disk; 4] = [
    disk("raw tmpfs", false, true, "writeback"),
    disk("qcow2 tmpfs", true, true, "writeback"),
    disk("raw disk", false, false, "none"),
    disk("qcow2 disk", true, false, "none"),
];

const fn disk(name: &'static str, qcow2: bool, tmpfs: bool, cache: &'static str) -> Disk {
    Disk {
        name,
        qcow2,
        tmpfs,
        cache,
    }
}

const MIB: u64 = 256;

impl Disk {
    /// Around the host's page cache.
    pub(super) fn direct(&self) -> bool {
        self.cache == "none"
    }

    /// Position in the guest: `/dev/vda` is the first.
    pub(super) fn letter(&self) -> char {
        let at = DISKS.iter().position(|d| d.name == self.name);
        char::from(b'a' + at.unwrap_or_default() as u8)
    }
}

/// Who works on a file.
const CONTENDERS: [&str; 3] = ["trapeze", "tcg", "native"];

/// The files; they go away at the end.
pub(super) struct Images {
    tmpfs: PathBuf,
    disk: PathBuf,
}

impl Images {
    pub(super) fn create() -> Result<Self> {
        let name = format!("trapeze-bench-io-{}", std::process::id());
        let images = Self {
            tmpfs: Path::new("/dev/shm").join(&name),
            disk: paths::target()?.join(&name),
        };
        for folder in [&images.tmpfs, &images.disk] {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
            for contender in CONTENDERS {
                fill(folder, contender)?;
            }
        }
        Ok(images)
    }

    fn folder(&self, disk: &Disk) -> &Path {
        if disk.tmpfs { &self.tmpfs } else { &self.disk }
    }

    /// The image of `disk` for a guest.
    pub(super) fn image(&self, disk: &Disk, contender: &str) -> PathBuf {
        let format = if disk.qcow2 { "qcow2" } else { "raw" };
        self.folder(disk).join(format!("{contender}.{format}"))
    }

    /// A plain file where `disk` is.
    pub(super) fn native(&self, disk: &Disk) -> PathBuf {
        self.folder(disk).join("native.raw")
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        for folder in [&self.tmpfs, &self.disk] {
            // What is left says its name.
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// A raw file without holes, and for guests an overlay on its qcow2 copy.
fn fill(folder: &Path, contender: &str) -> Result<()> {
    let path = |kind: &str| folder.join(format!("{contender}.{kind}"));
    let raw = path("raw");
    let mut file = File::create(&raw).with_context(|| raw.display().to_string())?;
    for mib in 0..MIB {
        let words = (0..1u64 << 17).map(|n| (mib << 17 | n).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        file.write_all(&bytes)?;
    }
    file.sync_all()?;
    if contender == "native" {
        return Ok(());
    }
    qemu_img(&["convert", "-O", "qcow2"], &[&raw, &path("base")])?;
    let base = path("base").display().to_string();
    let overlay = path("qcow2");
    qemu_img(
        &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &base],
        &[&overlay],
    )
}

fn qemu_img(words: &[&str], files: &[&Path]) -> Result<()> {
    let mut command = Command::new("qemu-img");
    let status = command.args(words).args(files).status();
    match status.context("qemu-img")?.success() {
        true => Ok(()),
        false => bail!("qemu-img {} failed", words.join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_follow_the_table() {
        let letters: String = DISKS.iter().map(Disk::letter).collect();
        assert_eq!(letters, "abcd");
    }
}
