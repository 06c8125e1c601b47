//! The boot tests of the boards: a disk is found, mounted and read there.

use super::PROMPT;

/// Loads the modules.
pub(super) const LOAD: &str =
    "cd /modules; for m in $(cat order); do insmod $m.ko; done; cd; echo in $?\r";
/// A file system is made, filled, and after another mount still there.
const FILL: &str = "mke2fs /dev/vda >/dev/null && mount /dev/vda /tmp && cp /bin/busybox /tmp/b; umount /tmp; echo filled $?\r";
const COMPARE: &str = "mount -o ro /dev/vda /tmp && cmp /tmp/b /bin/busybox && echo the same\r";

pub(super) const Q35_OPTIONS: &[&str] = &[
    "-M",
    "q35",
    "-smp",
    "2",
    "-drive",
    "file={folder}/target.img,if=virtio,format=raw",
    "-device",
    "virtio-rng-pci,addr=1e.0",
];

pub(super) const Q35_STEPS: &[(&str, &str)] = &[
    (PROMPT, "dmesg | grep MMCONFIG\r"),
    ("PCI: MMCONFIG at [mem 0xb0000000-0xbfffffff] reserved", ""),
    (PROMPT, LOAD),
    ("\nin 0", ""),
    (PROMPT, "cat /sys/bus/pci/devices/*/device\r"),
    ("\n0x29c0", ""),
    ("\n0x1001", ""),
    ("\n0x1005", ""),
    ("\n0x2918", ""),
    (PROMPT, FILL),
    ("\nfilled 0", ""),
    (PROMPT, COMPARE),
    ("\nthe same", ""),
    (PROMPT, "poweroff\r"),
];
