//! The boot tests of the boards: a disk is found, mounted and read there.

use super::{Devices, PROMPT};

/// Loads the modules.
pub(super) const LOAD: &str =
    "cd /modules; for m in $(cat order); do insmod $m.ko; done; cd; echo in $?\r";
/// A file system is made, filled, and after another mount still there.
pub(super) const FILL: &str = "mke2fs /dev/vda >/dev/null && mount /dev/vda /tmp && cp /bin/busybox /tmp/b; umount /tmp; echo filled $?\r";
pub(super) const COMPARE: &str =
    "mount -o ro /dev/vda /tmp && cmp /tmp/b /bin/busybox && echo the same\r";

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

/// A disk behind a root port, entropy behind a bridge behind a bridge, without
/// MSI: every access passes through windows, the interrupts through pins.
pub(super) const BRIDGES_OPTIONS: &[&str] = &[
    "-M",
    "q35",
    "-device",
    "pcie-root-port,id=rp0,chassis=1,addr=3.0,multifunction=on",
    "-device",
    "pcie-root-port,id=rp1,chassis=2,addr=3.1",
    "-device",
    "pci-bridge,id=outer,chassis_nr=1,addr=6",
    "-device",
    "pci-bridge,id=inner,chassis_nr=2,bus=outer,addr=5",
    "-drive",
    "file={folder}/target.img,if=none,id=disk,format=raw",
    "-device",
    "virtio-blk-pci,drive=disk,bus=rp0",
    "-device",
    "virtio-rng-pci,bus=inner,addr=2",
    "-append",
    "console=ttyS0 panic=-1 quiet TERM=vt100 TRAPEZE_ROWS=24 TRAPEZE_COLUMNS=80 pci=nomsi",
];

pub(super) const BRIDGES_STEPS: &[(&str, &str)] = &[
    (PROMPT, LOAD),
    ("\nin 0", ""),
    (PROMPT, "cd /sys/bus/pci/devices; ls -d *; cd\r"),
    ("0000:01:00.0", ""),
    ("0000:04:02.0", ""),
    (PROMPT, "cat /sys/bus/pci/devices/0000:0[14]*/device\r"),
    ("\n0x1042", ""),
    ("\n0x1005", ""),
    (PROMPT, FILL),
    ("\nfilled 0", ""),
    (PROMPT, COMPARE),
    ("\nthe same", ""),
    (PROMPT, "head -c 64 /dev/hwrng | wc -c\r"),
    ("\n64", ""),
    // Slot 3, pin A; slot 2 behind slot 5 behind slot 6: PIRQH and PIRQF.
    (PROMPT, "grep virtio /proc/interrupts\r"),
    ("21-fasteoi", ""),
    ("23-fasteoi", ""),
    (PROMPT, "poweroff\r"),
];

pub(super) const MICROVM_OPTIONS: &[&str] = &[
    "-M",
    "microvm",
    "-smp",
    "2",
    "-drive",
    "file={folder}/target.img,if=virtio,format=raw",
    "-device",
    "virtio-rng-device",
];

pub(super) const MICROVM_STEPS: &[(&str, &str)] = &[
    (PROMPT, LOAD),
    ("\nin 0", ""),
    (PROMPT, FILL),
    ("\nfilled 0", ""),
    (PROMPT, COMPARE),
    ("\nthe same", ""),
    (PROMPT, "head -c 64 /dev/hwrng | wc -c\r"),
    ("\n64", ""),
    // From the last place down: `-device` comes first.
    (PROMPT, "grep virtio /proc/interrupts\r"),
    ("23-fasteoi", ""),
    ("22-fasteoi", ""),
    (PROMPT, "dmesg | grep -c 'acpi-ged.*failed'\r"),
    ("\n0", ""),
    (PROMPT, "poweroff\r"),
];

/// More than 4 GiB, of which the guest must find both pieces, use the upper
/// one, and read a disk into it.
pub(super) const LARGE_OPTIONS: &[&str] = &[
    "-m",
    "6G",
    "-drive",
    "file={folder}/target.img,if=virtio,format=raw",
    "-object",
    "memory-backend-memfd,id=ram,size=6G",
    "-machine",
    "memory-backend=ram",
];

pub(super) const LARGE_STEPS: &[(&str, &str)] = &[
    (PROMPT, "dmesg | grep 'e820: .*usable'\r"),
    ("[mem 0x0000000000100000-0x00000000bfffffff] usable", ""),
    ("[mem 0x0000000100000000-0x00000001bfffffff] usable", ""),
    (
        PROMPT,
        "sed -n '/zone *Normal/,$p' /proc/zoneinfo | grep present\r",
    ),
    ("present  786432", ""),
    (PROMPT, LOAD),
    ("\nin 0", ""),
    (PROMPT, FILL),
    ("\nfilled 0", ""),
    (PROMPT, "echo 3 > /proc/sys/vm/drop_caches\r"),
    (PROMPT, COMPARE),
    ("\nthe same", ""),
    (PROMPT, "umount /tmp; mount -t tmpfs none /tmp\r"),
    (
        PROMPT,
        "head -c 67108864 /dev/zero | tr '\\0' x > /tmp/x; md5sum /tmp/x\r",
    ),
    // Of 64 Mi times "x".
    ("\nde506679685541efcb501eac224adc64", ""),
    (PROMPT, "poweroff\r"),
];

/// Two nodes; what the kernel says of them it says under QEMU 10.
pub(super) const NUMA_OPTIONS: &[&str] = &[
    "-m",
    "4G",
    "-smp",
    "4",
    "-object",
    "memory-backend-ram,id=near,size=3584M",
    "-object",
    "memory-backend-memfd,id=far,size=512M",
    "-numa",
    "node,memdev=near,cpus=0-1",
    "-numa",
    "node,memdev=far,cpus=2-3",
    "-numa",
    "dist,src=0,dst=1,val=15",
];

pub(super) const NUMA_STEPS: &[(&str, &str)] = &[
    (PROMPT, "dmesg | grep SRAT\r"),
    ("SRAT: PXM 0 -> APIC 0x01 -> Node 0", ""),
    ("SRAT: PXM 1 -> APIC 0x02 -> Node 1", ""),
    ("Node 0 PXM 0 [mem 0x00000000-0x0009ffff]", ""),
    ("Node 0 PXM 0 [mem 0x00100000-0xbfffffff]", ""),
    ("Node 0 PXM 0 [mem 0x100000000-0x11fffffff]", ""),
    ("Node 1 PXM 1 [mem 0x120000000-0x13fffffff]", ""),
    (PROMPT, "cat /sys/devices/system/node/node*/cpulist\r"),
    ("\n0-1", ""),
    ("\n2-3", ""),
    (PROMPT, "cat /sys/devices/system/node/node*/distance\r"),
    ("\n10 15", ""),
    ("\n15 10", ""),
    // Memory of the far node, which is a file's on the host.
    (
        PROMPT,
        "mount -t tmpfs -o mpol=bind:1 none /tmp; dd if=/dev/zero of=/tmp/z bs=1M count=100; echo filled $?\r",
    ),
    ("\nfilled 0", ""),
    (
        PROMPT,
        "grep Shmem: /sys/devices/system/node/node1/meminfo | tr -s ' '\r",
    ),
    ("Node 1 Shmem: 10", ""),
    (PROMPT, "poweroff\r"),
];

/// A disk that is written to and, after the guest has ended, as it was; a
/// clock that was set.
pub(super) const SNAPSHOT_OPTIONS: &[&str] = &[
    "-snapshot",
    "-hda",
    "{folder}/target.img",
    "-rtc",
    "base=2001-02-03T04:05:06",
    "-pidfile",
    "{folder}/pid",
];

pub(super) const SNAPSHOT_STEPS: &[(&str, &str)] = &[
    (PROMPT, LOAD),
    ("\nin 0", ""),
    (PROMPT, FILL),
    ("\nfilled 0", ""),
    (PROMPT, "echo 3 > /proc/sys/vm/drop_caches\r"),
    (PROMPT, COMPARE),
    ("\nthe same", ""),
    (PROMPT, "cat /sys/class/rtc/rtc0/date\r"),
    ("\n2001-02-03", ""),
    (PROMPT, "poweroff\r"),
];

/// What the machine says of itself, through Linux's own driver of fw_cfg and
/// its reader of SMBIOS tables.
pub(super) const IDENTITY: Devices = Devices {
    modules: &["qemu_fw_cfg"],
    act: |_, _| Ok(()),
};

pub(super) const IDENTITY_OPTIONS: &[&str] = &[
    "-fw_cfg",
    "name=opt/org.example/greeting,string=hello",
    "-uuid",
    "01234567-89ab-cdef-0123-456789abcdef",
    "-smbios",
    "type=1,serial=S-17",
];

pub(super) const IDENTITY_STEPS: &[(&str, &str)] = &[
    (PROMPT, LOAD),
    ("\nin 0", ""),
    (
        PROMPT,
        "cat /sys/firmware/qemu_fw_cfg/by_name/opt/org.example/greeting/raw; echo; echo read $?\r",
    ),
    ("\nhello", ""),
    ("\nread 0", ""),
    (PROMPT, "cat /sys/class/dmi/id/product_uuid\r"),
    ("\n01234567-89ab-cdef-0123-456789abcdef", ""),
    (PROMPT, "cat /sys/class/dmi/id/product_serial\r"),
    ("\nS-17", ""),
    (PROMPT, "poweroff\r"),
];
