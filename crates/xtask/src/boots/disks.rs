//! The boot test of PCI and virtio: a disk in slot 0xb, where W-18 has it, is
//! read, and copied to a second one whose bytes the host then compares. The
//! guest numbers them by slot: the first, in slot 0xb, is `/dev/vdb`.

use crate::paths::TempFolder;
use anyhow::{Context, Result, bail};
use guestimg::{Archive, Image, Progress};
use std::fs;
use std::path::{Path, PathBuf};

/// In the order of their dependencies.
const MODULES: [&str; 8] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio-rng",
];

/// Bytes of each disk.
const SIZE: usize = 32 << 20;
const SOURCE: &str = "source.img";
const TARGET: &str = "target.img";

pub(super) const OPTIONS: &[&str] = &[
    "-smp",
    "2",
    "-blockdev",
    "raw,node-name=source,read-only=on,file.driver=file,file.filename={folder}/source.img",
    "-device",
    "virtio-blk-pci,drive=source,addr=0xb,serial=W-18",
    "-device",
    "virtio-rng-pci",
    "-drive",
    "file={folder}/target.img,if=virtio,format=raw",
];

const PROMPT: &str = super::PROMPT;

pub(super) const STEPS: &[(&str, &str)] = &[
    (PROMPT, super::boards::LOAD),
    ("\nin 0", ""),
    // Ids, class, BARs, and W-18's capabilities, as under QEMU 10.
    (
        PROMPT,
        "hexdump -C /sys/bus/pci/devices/0000:00:0b.0/config\r",
    ),
    ("f4 1a 01 10 07 05 10 00  00 00 00 01", ""),
    ("f4 1a 02 00", ""),
    ("09 00 10 01 04 00 00 00  00 00 00 00 00 10 00 00", ""),
    ("09 40 10 03 04 00 00 00  00 10 00 00 00 10 00 00", ""),
    ("09 50 10 04 04 00 00 00  00 20 00 00 00 10 00 00", ""),
    ("09 60 14 02 04 00 00 00  00 30 00 00 00 10 00 00", ""),
    ("04 00 00 00 09 70 14 05", ""),
    (PROMPT, "cat /sys/block/vdb/serial\r"),
    ("\nW-18", ""),
    (PROMPT, "md5sum /dev/vdb\r"),
    // md5 of the offsets 0, 8, 16, ... as 8 little-endian bytes each, as
    // Python's hashlib computes it.
    ("33fdf63576a3853e844daffdf59bbdd1", ""),
    (
        PROMPT,
        "dd if=/dev/vdb of=/dev/vda bs=1M conv=fsync && echo copied\r",
    ),
    ("\ncopied", ""),
    (
        PROMPT,
        "dd if=/dev/vda of=/dev/vdb count=1; echo wrote $?\r",
    ),
    ("\nwrote 1", ""),
    (PROMPT, "head -c 64 /dev/hwrng | wc -c\r"),
    ("\n64", ""),
    (PROMPT, "cat /proc/interrupts\r"),
    ("PCI-MSI", ""),
    ("virtio2-req.1", ""),
    (PROMPT, "poweroff\r"),
];

/// Every 8 bytes hold their own offset.
fn pattern() -> Vec<u8> {
    (0..SIZE as u64)
        .step_by(8)
        .flat_map(u64::to_le_bytes)
        .collect()
}

/// Makes the disks and an initramfs with the modules and `more` of them; its
/// path.
pub(super) fn prepare(
    image: &Image,
    more: &[&'static str],
    folder: &TempFolder,
) -> Result<PathBuf> {
    fs::write(folder.path(SOURCE), pattern())?;
    fs::write(folder.path(TARGET), vec![0; SIZE])?;
    initramfs(image, more, folder)
}

/// An initramfs with the modules and `more` of them; its path.
pub(super) fn initramfs(
    image: &Image,
    more: &[&'static str],
    folder: &TempFolder,
) -> Result<PathBuf> {
    let mut bytes = fs::read(guestimg::initramfs(image)?)?;
    bytes.extend(modules(image, more)?);
    let path = folder.path("initramfs.cpio");
    fs::write(&path, bytes)?;
    Ok(path)
}

/// An archive to append, with virtio's modules in `/modules` and their order in
/// `/modules/order`: the kernel unpacks one after the other.
pub(crate) fn modules(image: &Image, more: &[&'static str]) -> Result<Vec<u8>> {
    let names = [&MODULES[..], more].concat();
    let paths = guestimg::modules(image, &names, &mut Progress::stderr())?;
    let mut archive = Archive::new();
    archive.directory("modules");
    archive.file("modules/order", 0o644, names.join("\n").as_bytes());
    for (name, path) in names.iter().zip(&paths) {
        archive.file(&format!("modules/{name}.ko"), 0o644, &read(path)?);
    }
    Ok(archive.finish())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

/// The copy is the original, and the original is as it was.
pub(super) fn check(folder: &TempFolder) -> Result<()> {
    let expected = pattern();
    for name in [SOURCE, TARGET] {
        if read(&folder.path(name))? != expected {
            bail!("{name} has other bytes after the run");
        }
    }
    Ok(())
}

/// Nothing of what the guest wrote is in the target.
pub(super) fn check_untouched(folder: &TempFolder) -> Result<()> {
    let target = read(&folder.path(TARGET))?;
    match target.len() == SIZE && target.iter().all(|&b| b == 0) {
        true => Ok(()),
        false => bail!("{TARGET} was written to"),
    }
}
