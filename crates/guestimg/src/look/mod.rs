//! What boots on a disk that somebody else made: there is no firmware that
//! would find it, so a machine of ours looks at its file systems.

use crate::cache::write;
use crate::debian::kernel::{Module, archive};
use crate::debian::make_folder;
use crate::{Error, Flavour, Progress, Result, modules};
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// File systems, the disk, the shared folder; what there is of them is used.
const MODULES: [&str; 15] = [
    "crc16",
    "crc32c_generic",
    "ext4",
    "fuse",
    "jbd2",
    "libcrc32c",
    "mbcache",
    "virtio",
    "virtio_blk",
    "virtio_pci",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_ring",
    "virtiofs",
    "xfs",
];
/// What that machine prints.
const SYSTEM: &str = "TRAPEZE-OS ";
const ROOT: &str = "TRAPEZE-ROOT ";
const KERNEL: &str = "TRAPEZE-KERNEL ";
const DONE: &str = "TRAPEZE-DONE";
/// No console that only says this is longer.
const MAX_TEXT: u64 = 1 << 20;

/// A disk, and where what boots it shall be.
pub struct Look<'a> {
    /// `trapeze`, which runs the machine.
    pub program: &'a Path,
    /// A qcow2 image.
    pub disk: &'a Path,
    /// Where `vmlinuz` and, if there is one, `initrd` will be.
    pub folder: &'a Path,
    /// Told of each process that is started and would outlive this one.
    pub started: &'a dyn Fn(&Child),
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// As the system calls itself.
    pub system: String,
    /// The kernel's file.
    pub kernel: String,
    /// The root file system, as the kernel's command line names it.
    pub root: String,
}

impl Look<'_> {
    /// Looks; none if there is no system with a kernel.
    ///
    /// # Errors
    /// There is no kernel for the machine, or it fails.
    pub fn find(&self, progress: &mut Progress) -> Result<Option<Found>> {
        let work = self.folder.join("work");
        let share = work.join("share");
        make_folder(&work)?;
        make_folder(&share)?;
        let image = crate::fetch(Flavour::Cloud, false, progress)?;
        let mut modules = modules::all(&image, &["virtiofs", "xfs"], progress)?;
        modules.retain(|(name, _)| MODULES.contains(&name.as_str()));
        let busybox = fs::read(&image.busybox).map_err(Error::file(&image.busybox))?;
        let modules: Vec<&Module> = modules.iter().collect();
        let initrd = archive(&busybox, include_str!("look.sh"), &modules);
        write(&work.join("initrd"), &initrd.finish())?;
        progress.step("looking for a kernel on the disk");
        let said = self.machine(&image.kernel, &work)?;
        let found = self.take(&said, &share)?;
        fs::remove_dir_all(&work).map_err(Error::file(&work))?;
        progress.finish();
        Ok(found)
    }

    fn machine(&self, kernel: &Path, work: &Path) -> Result<String> {
        let quoted = |path: &Path| path.to_string_lossy().replace(',', ",,");
        let disk = quoted(self.disk);
        let share = quoted(&work.join("share"));
        let mut command = Command::new(self.program);
        command
            .args(["system", "-m", "1G", "-nodefaults", "-no-reboot"])
            .args(["-display", "none", "-serial", "stdio", "-kernel"])
            .arg(kernel)
            .arg("-initrd")
            .arg(work.join("initrd"))
            .args(["-append", "console=ttyS0 quiet panic=-1", "-drive"])
            .arg(format!("file={disk},format=qcow2,if=virtio,readonly=on"))
            .arg("-fsdev")
            .arg(format!("local,id=share,path={share}"))
            .args(["-device", "virtio-fs-pci,fsdev=share,tag=share"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut child = command.spawn().map_err(|source| Error::NoProgram {
            program: "trapeze",
            source,
        })?;
        (self.started)(&child);
        let mut text = Vec::new();
        if let Some(output) = child.stdout.take() {
            let read = output.take(MAX_TEXT).read_to_end(&mut text);
            read.map_err(Error::file(self.program))?;
        }
        // One that says more does not end by itself.
        if text.len() as u64 == MAX_TEXT {
            let _ = child.kill();
        }
        let status = child.wait().map_err(Error::file(self.program))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        if status.success() && text.lines().any(|l| l.trim() == DONE) {
            return Ok(text);
        }
        let last = text.lines().rfind(|l| !l.trim().is_empty());
        Err(Error::Tool {
            what: "looking at the disk in a machine".into(),
            why: last.map_or_else(|| status.to_string(), Into::into),
        })
    }

    /// What the machine found, with the files moved to their places. The disk
    /// is somebody's: a link in the shared folder is not followed.
    fn take(&self, said: &str, share: &Path) -> Result<Option<Found>> {
        let word = |start| {
            let mut lines = said.lines();
            lines.find_map(|l| Some(l.trim().strip_prefix(start)?.to_string()))
        };
        let (Some(kernel), Some(device)) = (word(KERNEL), word(ROOT)) else {
            return Ok(None);
        };
        let mut there = [false; 2];
        for (name, there) in ["vmlinuz", "initrd"].into_iter().zip(&mut there) {
            let path = share.join(name);
            if fs::symlink_metadata(&path).is_ok_and(|m| m.is_file()) {
                let target = self.folder.join(name);
                fs::rename(&path, &target).map_err(Error::file(&path))?;
                *there = true;
            }
        }
        let block = share.join("super");
        let is_file = fs::symlink_metadata(&block).is_ok_and(|m| m.is_file());
        let block = is_file.then(|| fs::read(&block).ok()).flatten();
        // Names of devices may differ, but only an initrd knows UUIDs.
        let by_uuid = block.filter(|_| there[1]).and_then(|b| uuid(&b));
        Ok(there[0].then(|| Found {
            system: word(SYSTEM).unwrap_or_else(|| "unknown".into()),
            kernel,
            root: by_uuid.map_or(device, |uuid| format!("UUID={uuid}")),
        }))
    }
}

/// The UUID of an ext4 or XFS file system that begins with `block` (Linux,
/// Documentation/filesystems/ext4/super.rst; XFS Algorithms & Data Structures,
/// "Superblocks").
fn uuid(block: &[u8]) -> Option<String> {
    let ext4 = block.get(1024 + 0x38..1024 + 0x3a) == Some(&[0x53, 0xef]);
    let at = match ext4 {
        true => 1024 + 0x68,
        false if block.starts_with(b"XFSB") => 32,
        false => return None,
    };
    let digits: Vec<String> = block
        .get(at..at + 16)?
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let groups = [0..4, 4..6, 6..8, 8..10, 10..16];
    Some(groups.map(|g| digits[g].concat()).join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// mke2fs wrote the UUID it was told.
    #[test]
    fn the_uuid_is_where_mke2fs_puts_it() {
        let path = std::env::temp_dir().join(format!("guestimg-uuid-{}", std::process::id()));
        fs::File::create(&path).unwrap().set_len(4 << 20).unwrap();
        let name = "01234567-89ab-cdef-0123-456789abcdef";
        let mut command = Command::new(crate::debian::mke2fs());
        command.args(["-q", "-t", "ext4", "-U", name]).arg(&path);
        assert!(command.status().unwrap().success());
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(uuid(&bytes[..2048]).as_deref(), Some(name));
        assert_eq!(uuid(&[0; 2048]), None);
        assert_eq!(uuid(b"XFSB"), None);
    }
}
