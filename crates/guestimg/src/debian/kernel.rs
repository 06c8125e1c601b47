//! What boots: the kernel, and an initrd that finds the disk. The same kernel
//! with more modules runs the machine that installs.

use super::packages::{Packages, tar_of};
use super::{files, make_folder};
use crate::cache::write;
use crate::deb::{self, Wanted};
use crate::modules::{is_module, loadable};
use crate::{Archive, Error, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Modules of the disk and of `-fw_cfg`; what a kernel has built in is not among
/// its modules.
const BOOT: [&str; 12] = [
    "crc16",
    "crc32c_generic",
    "mbcache",
    "jbd2",
    "ext4",
    "virtio",
    "virtio_ring",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "qemu_fw_cfg",
];
/// Besides, for the shared folder with the packages.
const INSTALL: [&str; 2] = ["fuse", "virtiofs"];

/// What the installing machine boots.
pub(super) struct Kernel {
    pub(super) vmlinuz: PathBuf,
    pub(super) initrd: PathBuf,
}

/// Puts `vmlinuz` and `initrd` into `folder`, all of the package as
/// `kernel.tar` where the machine finds it, and an initrd for the machine into
/// `work`.
pub(super) fn unpack(packages: &Packages, work: &Path, folder: &Path) -> Result<Kernel> {
    let share = work.join("share");
    make_folder(&share)?;
    let tar = share.join("kernel.tar");
    tar_of(&packages.kernel.file, "--fsys-tarfile", |stream| {
        let mut file = File::create(&tar).map_err(Error::file(&tar))?;
        std::io::copy(stream, &mut file).map_err(Error::file(&tar))?;
        Ok(())
    })?;
    fs::remove_file(&packages.kernel.file).map_err(Error::file(&packages.kernel.file))?;
    let (vmlinuz, modules) = contents(&tar)?;
    let busybox = deb::extract(&packages.busybox.file, "bin/busybox", &|p| {
        p.ends_with("/bin/busybox")
    })?;
    let kernel = Kernel {
        vmlinuz: folder.join("vmlinuz"),
        initrd: work.join("initrd"),
    };
    write(&kernel.vmlinuz, &vmlinuz)?;
    let boot: Vec<_> = modules
        .iter()
        .filter(|(name, _)| BOOT.contains(&name.as_str()))
        .collect();
    let all: Vec<_> = modules.iter().collect();
    let initrd = archive(&busybox, include_str!("initrd.sh"), &boot);
    write(&folder.join("initrd"), &initrd.finish())?;
    let mut installer = archive(&busybox, include_str!("install.sh"), &all);
    files::add(&mut installer);
    write(&kernel.initrd, &installer.finish())?;
    Ok(kernel)
}

pub(crate) type Module = (String, Vec<u8>);

/// The kernel and what there is of the modules.
fn contents(tar: &Path) -> Result<(Vec<u8>, Vec<Module>)> {
    let names = BOOT.into_iter().chain(INSTALL);
    let names: Vec<&'static str> = names.collect();
    let test = |name| move |path: &str| is_module(path, name);
    let tests: Vec<_> = names.iter().copied().map(test).collect();
    let is_kernel = |path: &str| path.starts_with("./boot/vmlinuz-");
    let mut wanted: Vec<Wanted<'_>> = vec![&is_kernel];
    wanted.extend(tests.iter().map(|is| is as Wanted<'_>));
    let file = File::open(tar).map_err(Error::file(tar))?;
    let found = deb::find_in_tar(std::io::BufReader::new(file), &wanted);
    let mut found = found.map_err(Error::file(tar))?.into_iter();
    let kernel = found.next().flatten();
    let kernel = kernel.ok_or_else(|| deb::absent(tar, "boot/vmlinuz"))?;
    let there = names.iter().zip(found);
    let there = there.filter_map(|(name, content)| Some((name.to_string(), content?)));
    let module = |(name, content)| {
        let content = loadable(content).map_err(Error::file(tar))?;
        Ok((name, content))
    };
    let modules = there.map(module).collect::<Result<_>>()?;
    Ok((kernel, modules))
}

/// busybox with links for what it can do, modules in `/modules`, and `init`.
pub(crate) fn archive(busybox: &[u8], init: &str, modules: &[&Module]) -> Archive {
    const APPLETS: [&str; 23] = [
        "ar",
        "cat",
        "chmod",
        "chroot",
        "cp",
        "env",
        "insmod",
        "ln",
        "ls",
        "mkdir",
        "mount",
        "printf",
        "rm",
        "rmdir",
        "sh",
        "sleep",
        "sort",
        "switch_root",
        "sync",
        "tar",
        "umount",
        "xargs",
        "mv",
    ];
    let mut archive = Archive::new();
    for folder in ["bin", "dev", "proc", "sys", "share", "target", "modules"] {
        archive.directory(folder);
    }
    archive.device("dev/console", 0o600, 5, 1);
    archive.device("dev/null", 0o666, 1, 3);
    archive.file("bin/busybox", 0o755, busybox);
    for name in APPLETS {
        archive.symlink(&format!("bin/{name}"), "busybox");
    }
    let mut list = String::new();
    for (name, content) in modules {
        archive.file(&format!("modules/{name}.ko"), 0o644, content);
        list.push_str(name);
        list.push('\n');
    }
    archive.file("modules/list", 0o644, list.as_bytes());
    archive.file("modules.sh", 0o644, include_bytes!("modules.sh"));
    archive.file("init", 0o755, init.as_bytes());
    archive
}
