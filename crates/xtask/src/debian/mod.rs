//! A Debian with systemd on a qcow2 disk, for boot tests and benchmarks, and a
//! tree with a compiler: made once by mmdebstrap from the host's package
//! sources, without root, and kept in the cache for each recipe.

mod entry;
mod recipe;

use self::recipe::{PROGRAMS, SYSTEM, TOOLS};
use crate::paths;
use crate::process::output_of;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The disk and what boots from it.
pub(crate) struct Debian {
    /// An ext4 file system without partitions, in a qcow2 image; not to be
    /// written to.
    disk: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
    /// Makes the overlays.
    trapeze: PathBuf,
    /// Name and version of Debian and of the kernel.
    pub(crate) version: String,
}

impl Debian {
    /// From the cache, made if it is not there.
    pub(crate) fn get() -> Result<Self> {
        let trapeze = paths::trapeze()?;
        let folder = SYSTEM.get(&trapeze)?;
        Ok(Self {
            disk: folder.join("disk.qcow2"),
            kernel: folder.join("vmlinuz"),
            initrd: folder.join("initrd"),
            trapeze,
            version: version(&folder)?,
        })
    }

    /// A new disk at `path` that holds what is different from now on.
    pub(crate) fn overlay(&self, path: &Path) -> Result<()> {
        overlay(&self.trapeze, &self.disk, path)
    }

    /// Options of `trapeze system` and of QEMU that boot from the overlay.
    pub(crate) fn options(&self, overlay: &Path) -> Vec<String> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let drive = format!("file={},format=qcow2,if=virtio", overlay.display());
        [
            "-kernel",
            &text(&self.kernel),
            "-initrd",
            &text(&self.initrd),
            "-drive",
            &drive,
            "-append",
            "root=/dev/vda console=ttyS0",
        ]
        .map(str::to_string)
        .to_vec()
    }
}

/// A tree with gcc and the sources of a program, as a folder and as a disk.
pub(crate) struct Tools {
    /// For the host, which makes it its root.
    pub(crate) tree: PathBuf,
    disk: PathBuf,
    trapeze: PathBuf,
    /// Names and versions of compiler and sources.
    pub(crate) version: String,
}

impl Tools {
    /// From the cache, made if it is not there.
    pub(crate) fn get() -> Result<Self> {
        let trapeze = paths::trapeze()?;
        let folder = TOOLS.get(&trapeze)?;
        Ok(Self {
            tree: folder.join("root"),
            disk: folder.join("disk.qcow2"),
            trapeze,
            version: version(&folder)?,
        })
    }

    /// A new disk at `path` that holds what is different from now on.
    pub(crate) fn overlay(&self, path: &Path) -> Result<()> {
        overlay(&self.trapeze, &self.disk, path)
    }
}

/// A tree with compressors, interpreters, a compiler and the like, as a folder
/// and as an initramfs.
pub(crate) struct Programs {
    /// For the host, which makes it its root.
    pub(crate) tree: PathBuf,
    pub(crate) initramfs: PathBuf,
    /// Names and versions.
    pub(crate) version: String,
}

impl Programs {
    /// From the cache, made if it is not there.
    pub(crate) fn get() -> Result<Self> {
        let folder = PROGRAMS.get(&paths::trapeze()?)?;
        Ok(Self {
            tree: folder.join("root"),
            initramfs: folder.join("tree.cpio"),
            version: version(&folder)?,
        })
    }
}

fn version(folder: &Path) -> Result<String> {
    let path = folder.join("version");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn overlay(trapeze: &Path, disk: &Path, path: &Path) -> Result<()> {
    let mut command = Command::new(trapeze);
    command.args(["img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]);
    output_of(command.arg(disk).arg(path))?;
    Ok(())
}
