//! How the trees are made.

use crate::process::output_of;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian's code name.
const RELEASE: &str = "bookworm";

/// A tree of packages, made into a disk.
pub(super) struct Recipe {
    /// What comes after the release in the name of the folder.
    suffix: &'static str,
    /// Of mmdebstrap.
    variant: &'static str,
    /// What comes on top of the packages of the variant.
    packages: &'static str,
    /// It takes sources besides packages.
    with_sources: bool,
    /// Run in the finished tree, which is `$1`.
    settings: &'static [&'static str],
    /// Prints what is in the tree.
    version: &'static str,
    /// Run beside the tree, which is `root`, before the disk is made of it,
    before: &'static str,
    /// and afterwards.
    after: &'static str,
    size: &'static str,
}

/// What boots; kernel and initrd are kept beside the disk.
pub(super) const SYSTEM: Recipe = Recipe {
    suffix: "",
    variant: "important",
    packages: "linux-image-cloud-amd64,dbus,openssh-server,stress-ng",
    with_sources: false,
    settings: &[
        r#"echo trapeze > "$1/etc/hostname""#,
        r#"echo "/dev/vda / ext4 errors=remount-ro 0 1" > "$1/etc/fstab""#,
        r#"chroot "$1" passwd -d root"#,
    ],
    version: r#". "$1/etc/os-release"; echo "$PRETTY_NAME $(cat "$1/etc/debian_version"), $(ls "$1/boot" | grep -m 1 vmlinuz)""#,
    before: "cp root/boot/vmlinuz-* vmlinuz; cp root/boot/initrd.img-* initrd",
    after: "rm -r root",
    size: "4G",
};

/// A compiler, and the sources of Lua as their authors packed them; the tree
/// is kept beside the disk.
pub(super) const TOOLS: Recipe = Recipe {
    suffix: "-tools",
    variant: "essential",
    packages: "gcc,libc6-dev,make",
    with_sources: true,
    settings: &[
        r#"mkdir "$1/src" "$1/work""#,
        r#"cd "$1/src"; APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get -q source --download-only lua5.4"#,
    ],
    version: r#"chroot "$1" dpkg-query -W -f '${Package} ${Version}, ' gcc-12 make; ls "$1/src" | grep -m 1 orig"#,
    before: "",
    after: "",
    size: "1G",
};

impl Recipe {
    /// The folder with the disk: from the cache, made if it is not there.
    pub(super) fn get(&self, trapeze: &Path) -> Result<PathBuf> {
        let images = guestimg::cache_dir()?.join("images");
        let folder = images.join(format!("debian-{RELEASE}{}", self.suffix));
        if !folder.is_dir() {
            let new = folder.with_extension("new");
            let _ = fs::remove_dir_all(&new);
            fs::create_dir_all(&new).with_context(|| new.display().to_string())?;
            self.make(trapeze, &new)?;
            fs::rename(&new, &folder).with_context(|| folder.display().to_string())?;
        }
        Ok(folder)
    }

    /// Fills an empty folder.
    fn make(&self, trapeze: &Path, folder: &Path) -> Result<()> {
        eprintln!("debian: {RELEASE}, {} (minutes, once)", self.packages);
        self.bootstrap(folder)?;
        eprintln!("debian: the disk");
        let mut command = Command::new("fakeroot");
        command.args(["sh", "-c", &self.make_disk()]);
        output_of(command.current_dir(folder))?;
        let mut convert = Command::new(trapeze);
        convert.args(["img", "convert", "-O", "qcow2", "disk.raw", "disk.qcow2"]);
        output_of(convert.current_dir(folder))?;
        let raw = folder.join("disk.raw");
        fs::remove_file(&raw).with_context(|| raw.display().to_string())
    }

    /// `root.tar` and `version`.
    fn bootstrap(&self, folder: &Path) -> Result<()> {
        let mut command = Command::new("mmdebstrap");
        command
            .args(["--quiet", "--mode=auto"])
            .arg(format!("--variant={}", self.variant))
            .arg(format!("--include={}", self.packages));
        for setting in self.settings {
            command.arg(format!("--customize-hook={setting}"));
        }
        let version = folder.join("version");
        command
            .arg(format!(
                "--customize-hook=({}) > '{}'",
                self.version,
                version.display()
            ))
            .arg(RELEASE)
            .arg(folder.join("root.tar"))
            .args(sources(self.with_sources)?);
        output_of(&mut command)?;
        Ok(())
    }

    /// From `root.tar` to a file system, as whoever owns the files there:
    /// fakeroot lets an ordinary user do that.
    fn make_disk(&self) -> String {
        let Self {
            before,
            after,
            size,
            ..
        } = self;
        format!(
            r#"
            set -e
            mkdir root
            tar -x -p -f root.tar -C root
            rm root.tar
            {before}
            PATH="$PATH:/usr/sbin:/sbin" mke2fs -q -t ext4 -L debian -d root disk.raw {size}
            {after}
            "#
        )
    }
}

/// The host's sources of the release, as lines for `sources.list`, and if
/// wanted those of the packages' sources.
fn sources(with_sources: bool) -> Result<Vec<String>> {
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
    if with_sources {
        let source = |l: &String| l.replacen("deb", "deb-src", 1);
        lines.extend(lines.iter().map(source).collect::<Vec<_>>());
    }
    Ok(lines)
}
