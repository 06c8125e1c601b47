//! The boot tests of the 64-bit kernels for every machine, of which one is
//! PREEMPT_RT. They have drivers for what no machine here has, and what the
//! cloud kernel has built in for disks and file systems is in modules.

use super::boards::{COMPARE, FILL, LOAD};
use super::{PROMPT, disks};
use crate::paths::TempFolder;
use anyhow::Result;
use guestimg::Image;
use std::path::PathBuf;

/// What ext4 needs, in the order of dependencies. The first one is not asked
/// for by name: jbd2 looks for the algorithm.
const FILE_SYSTEM: &[&str] = &["crc32c_generic", "crc16", "mbcache", "jbd2", "ext4"];

/// A board, two vCPUs, a disk and entropy.
macro_rules! options {
    ($machine:literal) => {
        &[
            "-M",
            $machine,
            "-smp",
            "2",
            "-drive",
            "file={folder}/target.img,if=virtio,format=raw",
            "-device",
            "virtio-rng-pci",
        ]
    };
}

pub(super) const PC_OPTIONS: &[&str] = options!("pc");
pub(super) const Q35_OPTIONS: &[&str] = options!("q35");

/// The kernel says what it is and uses its disk.
macro_rules! steps {
    ($($question:literal => $answer:literal),*) => {
        &[
            $((PROMPT, $question), ($answer, ""),)*
            (PROMPT, "nproc\r"),
            ("\n2\r", ""),
            (PROMPT, LOAD),
            ("\nin 0", ""),
            (PROMPT, FILL),
            ("\nfilled 0", ""),
            (PROMPT, COMPARE),
            ("\nthe same", ""),
            (PROMPT, "head -c 64 /dev/hwrng | wc -c\r"),
            ("\n64", ""),
            (PROMPT, "poweroff\r"),
        ]
    };
}

pub(super) const AMD64_STEPS: &[(&str, &str)] = steps!["uname -v\r" => "PREEMPT_DYNAMIC"];
pub(super) const RT_STEPS: &[(&str, &str)] = steps![
    "uname -r\r" => "-rt-amd64",
    "cat /sys/kernel/realtime\r" => "\n1"
];

/// Makes the disks and an initramfs with the modules; its path.
pub(super) fn prepare(image: &Image, folder: &TempFolder) -> Result<PathBuf> {
    disks::prepare(image, FILE_SYSTEM, folder)
}
