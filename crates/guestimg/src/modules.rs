//! Modules of a kernel: those in the cache, for guests that need more than what
//! is built in, and how packages have them.

use crate::apt::{Apt, Package};
use crate::cache::{cache_dir, lock, write};
use crate::deb::{self, Wanted};
use crate::{Error, Image, Progress, Result};
use lzma_rust2::XzReader;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What guests of the tests load. To reach one of them a package has to be
/// fetched and unpacked to its end, so one pass takes all that it has.
const USUAL: [&str; 33] = [
    "9p",
    "9pnet",
    "9pnet_virtio",
    "ccp",
    "crc16",
    "crc32c_generic",
    "ext4",
    "failover",
    "fscache",
    "fuse",
    "irqbypass",
    "jbd2",
    "kvm",
    "kvm-amd",
    "libcrc32c",
    "mbcache",
    "net_failover",
    "netfs",
    "overlay",
    "qemu_fw_cfg",
    "virtio",
    "virtio-rng",
    "virtio_balloon",
    "virtio_blk",
    "virtio_console",
    "virtio_mmio",
    "virtio_net",
    "virtio_pci",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_ring",
    "virtiofs",
    "xfs",
];

/// No module is larger; one that says so is damaged.
const MAX_MODULE: u64 = 64 << 20;
/// What a file begins with that xz made (The .xz File Format, 2.1.1.1).
const XZ: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];

/// Whether a file of a package is the module of that name, which some kernels
/// have compressed.
pub(crate) fn is_module(path: &str, name: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or_default();
    let end = file.strip_prefix(name);
    matches!(end, Some(".ko" | ".ko.xz"))
}

/// A module as the kernel loads it.
pub(crate) fn loadable(content: Vec<u8>) -> std::io::Result<Vec<u8>> {
    if !content.starts_with(&XZ) {
        return Ok(content);
    }
    let mut bytes = Vec::new();
    let reader = XzReader::new(&content[..], true);
    reader.take(MAX_MODULE + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MAX_MODULE {
        true => Err(std::io::Error::other("a module too large to be one")),
        false => Ok(bytes),
    }
}

/// The files of the named modules (`kvm`, not `kvm.ko`), from the folder of
/// the image or from the kernel's package, which is fetched again for that.
pub fn modules(image: &Image, names: &[&str], progress: &mut Progress) -> Result<Vec<PathBuf>> {
    let folder = image.folder.join("modules");
    let path = |name: &&str| folder.join(format!("{name}.ko"));
    let paths: Vec<PathBuf> = names.iter().map(path).collect();
    let there = || paths.iter().all(|p| p.is_file());
    if there() {
        return Ok(paths);
    }
    let root = cache_dir()?;
    let _lock = lock(&root.join("lock"))?;
    // Another process may have fetched them while we waited.
    if there() {
        return Ok(paths);
    }
    let package = kernel_package(image, &root, progress)?;
    progress.step(format!("unpacking modules of {}", package.name));
    fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
    unpack(&package.file, names, &folder)?;
    fs::remove_file(&package.file).map_err(Error::file(package.file))?;
    progress.finish();
    Ok(paths)
}

/// All modules of a kernel in the cache that one of `names` is among, as
/// [`modules`] gets them: name and content.
pub(crate) fn all(
    image: &Image,
    names: &[&str],
    progress: &mut Progress,
) -> Result<Vec<(String, Vec<u8>)>> {
    modules(image, names, progress)?;
    let folder = image.folder.join("modules");
    let entries = fs::read_dir(&folder).map_err(Error::file(&folder))?;
    let paths = entries.filter_map(|e| Some(e.ok()?.path()));
    let paths = paths.filter(|p| p.extension().is_some_and(|e| e == "ko"));
    paths
        .map(|path| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let content = fs::read(&path).map_err(Error::file(&path))?;
            Ok((name.into_owned(), content))
        })
        .collect()
}

/// The package that the image's kernel is from.
fn kernel_package(image: &Image, root: &Path, progress: &mut Progress) -> Result<Package> {
    let architecture = image.flavour.architecture();
    let mut apt = Apt::new(root.join("apt").join(architecture), architecture)?;
    let kernel = image.versions.split_whitespace().next().unwrap_or_default();
    match apt.download(kernel, progress) {
        Ok(package) => Ok(package),
        // The lists may be gone or older than the archive.
        Err(_) => {
            apt.update(progress)?;
            apt.download(kernel, progress)
        }
    }
}

/// Puts the named modules, and what there is of the usual ones, into `folder`.
/// A file that is there is whole.
fn unpack(package: &Path, names: &[&str], folder: &Path) -> Result<()> {
    let more = USUAL.into_iter().filter(|usual| !names.contains(usual));
    let all: Vec<&str> = names.iter().copied().chain(more).collect();
    let test = |name| move |path: &str| is_module(path, name);
    let tests: Vec<_> = all.iter().copied().map(test).collect();
    let wanted: Vec<Wanted<'_>> = tests.iter().map(|is| is as Wanted<'_>).collect();
    let found = deb::find(package, &wanted)?;
    for (at, (name, content)) in all.iter().zip(found).enumerate() {
        match content {
            Some(bytes) => {
                let bytes = loadable(bytes).map_err(Error::file(package))?;
                let new = folder.join(format!("{name}.new"));
                let path = folder.join(format!("{name}.ko"));
                write(&new, &bytes)?;
                fs::rename(&new, &path).map_err(Error::file(path))?;
            }
            None if at < names.len() => return Err(deb::absent(package, name)),
            None => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// A package made by dpkg-deb, with two modules and something else.
    fn package(folder: &Path) -> PathBuf {
        let kernel = folder.join("tree/lib/modules/6/kernel");
        fs::create_dir_all(folder.join("tree/DEBIAN")).unwrap();
        fs::create_dir_all(&kernel).unwrap();
        let control =
            "Package: k\nVersion: 1\nArchitecture: all\nMaintainer: m <m@m>\nDescription: d\n";
        fs::write(folder.join("tree/DEBIAN/control"), control).unwrap();
        for (name, content) in [("kvm.ko", "usual"), ("own.ko", "asked for"), ("x.ko", "")] {
            fs::write(kernel.join(name), content).unwrap();
        }
        // As the kernel's makefiles do it (scripts/Makefile.modinst).
        fs::write(kernel.join("xfs.ko"), "packed".repeat(1000)).unwrap();
        let mut xz = Command::new("xz");
        xz.args(["--check=crc32", "--lzma2=dict=1MiB", "-f"]);
        assert!(xz.arg(kernel.join("xfs.ko")).status().unwrap().success());
        let file = folder.join("k.deb");
        let mut build = Command::new("dpkg-deb");
        build.args(["--root-owner-group", "-Znone", "--build"]);
        let output = build.arg(folder.join("tree")).arg(&file).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        file
    }

    #[test]
    fn one_pass_takes_what_is_asked_for_and_what_is_usual() {
        let folder = std::env::temp_dir().join(format!("guestimg-{}", std::process::id()));
        let target = folder.join("modules");
        fs::create_dir_all(&target).unwrap();
        let package = package(&folder);
        unpack(&package, &["own"], &target).unwrap();
        let mut names: Vec<_> = fs::read_dir(&target).unwrap().flatten().collect();
        names.sort_by_key(|e| e.file_name());
        let contents = names.iter().map(|e| fs::read_to_string(e.path()).unwrap());
        let packed = "packed".repeat(1000);
        assert_eq!(
            contents.collect::<Vec<_>>(),
            ["usual", "asked for", &packed]
        );
        let error = unpack(&package, &["none"], &target).unwrap_err();
        assert!(error.to_string().ends_with("holds no none"), "{error}");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_damaged_module_is_an_error() {
        assert!(loadable([&XZ[..], &[0; 40]].concat()).is_err());
        assert!(is_module("./lib/a/kvm.ko.xz", "kvm") && !is_module("./kvm-amd.ko", "kvm"));
    }
}
