//! A machine in QEMU's TCG that has what this host has not: another processor, a
//! real `/dev/kvm`, settings of the kernel's. Its root is this host's, which it
//! can only read (9p); what is written there stays in its memory. So whatever is
//! built and installed here runs there, at the same paths.

use crate::paths::{self, TempFolder, installed};
use crate::process::{Counts, tested};
use crate::setup;
use anyhow::{Context, Result, bail};
use guestimg::{Archive, Flavour, Image, Progress};
use std::path::PathBuf;
use std::process::{Command, Stdio};

const QEMU: &str = "qemu-system-x86_64";

/// What the root needs, in the order of dependencies.
const ROOT_MODULES: [&str; 11] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "9pnet",
    "9pnet_virtio",
    "netfs",
    "fscache",
    "9p",
    "overlay",
];

/// KVM on AMD's processors, which QEMU emulates.
pub(crate) const KVM_MODULES: [&str; 4] = ["irqbypass", "kvm", "ccp", "kvm-amd"];

/// The model of processor that has SVM. Without LA57, which QEMU's nested paging
/// does not do.
pub(crate) const KVM_CPU: &str = "max,+svm,-la57";

/// QEMU's TCG now and then loses the interrupt of a one-shot local APIC timer
/// while a nested guest runs, and with it everything stands still. A periodic tick
/// comes again.
const KERNEL: &str = "console=ttyS0 loglevel=3 panic=-1 nohz=off highres=off";

/// Environment of this process that programs in it find, too.
const KEPT: [&str; 6] = [
    "HOME",
    "PATH",
    "XDG_CACHE_HOME",
    "CARGO_HOME",
    "RUSTUP_HOME",
    paths::BUILT,
];

/// What it has.
pub(crate) struct Outer {
    /// QEMU's model.
    pub(crate) cpu: &'static str,
    /// Modules of the kernel, in the order of their dependencies.
    pub(crate) modules: &'static [&'static str],
    /// More of the kernel's command line.
    pub(crate) kernel: &'static str,
    pub(crate) mebibytes: u32,
    /// After which it is stopped.
    pub(crate) seconds: u32,
}

impl Outer {
    /// Runs `script`, in the workspace's root, by `sh` as root, until it ends: what
    /// it printed, and what the kernel did.
    pub(crate) fn run(&self, script: &str) -> Result<String> {
        let folder = TempFolder::new("outer")?;
        let output = self.command(script, &folder)?.output().context(QEMU)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The same for a runner of tests, whose output is passed on.
    pub(crate) fn follow(&self, script: &str) -> Result<Counts> {
        let folder = TempFolder::new("outer")?;
        tested(&mut self.command(script, &folder)?)
    }

    fn command(&self, script: &str, folder: &TempFolder) -> Result<Command> {
        if !installed(QEMU) {
            bail!("{QEMU} is not installed; 'cargo xtask setup' does it");
        }
        setup::check_qemu()?;
        let mut progress = Progress::stderr();
        let image = guestimg::fetch(Flavour::Amd64, false, &mut progress)?;
        let names: Vec<&str> = ROOT_MODULES.iter().chain(self.modules).copied().collect();
        let modules = guestimg::modules(&image, &names, &mut progress)?;
        let initramfs = folder.path("initramfs.cpio");
        let bytes = pack(&image, &modules, script)?;
        std::fs::write(&initramfs, bytes).context("initramfs")?;
        let mut command = Command::new("timeout");
        command
            .args([&self.seconds.to_string(), QEMU, "-accel", "tcg"])
            .args(["-cpu", self.cpu, "-m", &self.mebibytes.to_string()])
            .args(["-nodefaults", "-display", "none"])
            .args(["-serial", "stdio", "-no-reboot", "-fsdev"])
            .arg("local,id=root,path=/,security_model=none,readonly=on,multidevs=remap")
            .args(["-device", "virtio-9p-pci,fsdev=root,mount_tag=root"])
            .arg("-kernel")
            .arg(&image.kernel)
            .arg("-initrd")
            .arg(&initramfs)
            .args(["-append", &format!("{KERNEL} {}", self.kernel)])
            .stdin(Stdio::null());
        Ok(command)
    }
}

/// What comes before the root is this host's.
const INIT: &str = "#!/bin/busybox sh\n\
    /bin/busybox --install -s /bin\n\
    export PATH=/bin\n\
    mount -t proc proc /proc\n\
    mount -t sysfs sysfs /sys\n\
    mount -t devtmpfs dev /dev\n\
    for m in $(cat /modules/order); do insmod /modules/$m; done\n\
    mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 root /host\n\
    mount -t tmpfs -o size=80% tmpfs /memory\n\
    mkdir /memory/upper /memory/work\n\
    mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work overlay /root\n\
    mount --move /proc /root/proc\n\
    mount --move /sys /root/sys\n\
    mount --move /dev /root/dev\n\
    mkdir -p /root/dev/pts /root/dev/shm\n\
    mount -t devpts devpts /root/dev/pts\n\
    mount -t tmpfs tmpfs /root/dev/shm\n\
    mount -t tmpfs tmpfs /root/run\n\
    ip link set lo up\n\
    cp /script /root/run/script\n\
    chroot /root /bin/sh /run/script\n\
    poweroff -f\n";

/// A root with busybox, the modules and the script.
fn pack(image: &Image, modules: &[PathBuf], script: &str) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for folder in [
        "bin", "dev", "host", "memory", "modules", "proc", "root", "sys",
    ] {
        archive.directory(folder);
    }
    archive.device("dev/console", 0o600, 5, 1);
    let mut order = String::new();
    for file in modules {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("modules/{name}"), 0o644, &read(file)?);
        order += &format!("{name}\n");
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    archive.file("bin/busybox", 0o755, &read(&image.busybox)?);
    archive.file("script", 0o644, (prelude() + script).as_bytes());
    archive.file("init", 0o755, INIT.as_bytes());
    Ok(archive.finish())
}

fn read(path: &PathBuf) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| path.display().to_string())
}

/// Place and environment as here.
fn prelude() -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let kept = KEPT.iter().filter_map(|name| {
        let value = std::env::var(name).ok()?;
        Some(format!("export {name}={}\n", quoted(&value)))
    });
    let root = paths::root().to_string_lossy();
    kept.chain([format!("cd {}\n", quoted(&root))]).collect()
}
