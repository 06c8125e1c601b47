//! A Debian with systemd on a qcow2 disk, for boot tests and benchmarks: made
//! once by mmdebstrap from the host's package sources, without root, and kept
//! in the cache.

use crate::paths;
use crate::process::output_of;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian's code name.
const RELEASE: &str = "bookworm";

/// What comes on top of the packages that every Debian has.
const PACKAGES: &str = "linux-image-cloud-amd64,dbus,openssh-server,stress-ng";

/// Run in the finished tree, which is `$1`.
const SETTINGS: &[&str] = &[
    r#"echo trapeze > "$1/etc/hostname""#,
    r#"echo "/dev/vda / ext4 errors=remount-ro 0 1" > "$1/etc/fstab""#,
    r#"chroot "$1" passwd -d root"#,
];

/// From `root.tar` to a file system, as whoever owns the files there: fakeroot
/// lets an ordinary user do that. Kernel and initrd are kept beside the disk.
const MAKE_DISK: &str = r#"
    set -e
    mkdir root
    tar -x -p -f root.tar -C root
    cp root/boot/vmlinuz-* vmlinuz
    cp root/boot/initrd.img-* initrd
    rm root.tar
    PATH="$PATH:/usr/sbin:/sbin" mke2fs -q -t ext4 -L debian -d root disk.raw 4G
    rm -r root
"#;

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
        let images = guestimg::cache_dir()?.join("images");
        let folder = images.join(format!("debian-{RELEASE}"));
        if !folder.is_dir() {
            let new = folder.with_extension("new");
            let _ = fs::remove_dir_all(&new);
            fs::create_dir_all(&new).with_context(|| new.display().to_string())?;
            make(&trapeze, &new)?;
            fs::rename(&new, &folder).with_context(|| folder.display().to_string())?;
        }
        let version = folder.join("version");
        Ok(Self {
            disk: folder.join("disk.qcow2"),
            kernel: folder.join("vmlinuz"),
            initrd: folder.join("initrd"),
            trapeze,
            version: fs::read_to_string(&version)
                .with_context(|| version.display().to_string())?
                .trim()
                .to_string(),
        })
    }

    /// A new disk at `path` that holds what is different from now on.
    pub(crate) fn overlay(&self, path: &Path) -> Result<()> {
        let mut command = Command::new(&self.trapeze);
        command.args(["img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]);
        output_of(command.arg(&self.disk).arg(path))?;
        Ok(())
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

/// Fills an empty folder.
fn make(trapeze: &Path, folder: &Path) -> Result<()> {
    eprintln!("debian: {RELEASE} and its packages (minutes, once)");
    bootstrap(folder)?;
    eprintln!("debian: the disk");
    let shell = ["fakeroot", "sh", "-c", MAKE_DISK];
    let mut command = Command::new(shell[0]);
    output_of(command.args(&shell[1..]).current_dir(folder))?;
    let mut convert = Command::new(trapeze);
    convert.args(["img", "convert", "-O", "qcow2", "disk.raw", "disk.qcow2"]);
    output_of(convert.current_dir(folder))?;
    let raw = folder.join("disk.raw");
    fs::remove_file(&raw).with_context(|| raw.display().to_string())
}

/// `root.tar` and `version`.
fn bootstrap(folder: &Path) -> Result<()> {
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--quiet", "--mode=auto", "--variant=important"])
        .arg(format!("--include={PACKAGES}"));
    for setting in SETTINGS {
        command.arg(format!("--customize-hook={setting}"));
    }
    let version = folder.join("version");
    command
        .arg(format!(
            r#"--customize-hook=(. "$1/etc/os-release"; echo "$PRETTY_NAME $(cat "$1/etc/debian_version"), $(ls "$1/boot" | grep -m 1 vmlinuz)") > '{}'"#,
            version.display()
        ))
        .arg(RELEASE)
        .arg(folder.join("root.tar"))
        .args(sources()?);
    output_of(&mut command)?;
    Ok(())
}

/// The host's sources of the release, as lines for `sources.list`.
fn sources() -> Result<Vec<String>> {
    let text = output_of(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "deb $(REPO_URI) $(RELEASE) $(COMPONENT)",
        "Created-By: Packages",
    ]))?;
    let is_ours = |line: &&str| {
        let mut words = line.split(' ').skip(2);
        let suite = words.next().unwrap_or_default();
        let updates = suite.strip_prefix(RELEASE);
        updates.is_some_and(|u| matches!(u, "" | "-updates" | "-security"))
            && words.next() == Some("main")
    };
    let mut lines: Vec<String> = text.lines().filter(is_ours).map(str::to_string).collect();
    lines.sort();
    lines.dedup();
    if lines.is_empty() {
        bail!("the host's package sources have no {RELEASE} main");
    }
    Ok(lines)
}
