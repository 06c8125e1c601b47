//! How the trees are made.

use super::entry::Entry;
use crate::process::output_of;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian's code name.
const RELEASE: &str = "bookworm";

/// Arguments of `trapeze` that make the disk an image.
const CONVERT: [&str; 6] = ["img", "convert", "-O", "qcow2", "disk.raw", "disk.qcow2"];

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
    /// Of the disk; none is made without.
    size: Option<&'static str>,
    /// The key of the recipe whose folder is called after the release only:
    /// made before folders had keys; empty for none.
    nameless: &'static str,
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
    size: Some("4G"),
    nameless: "1ffed7c4d43ed887",
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
    size: Some("1G"),
    nameless: "598374d49fc25766",
};

/// Programs that `cargo xtask bench cpu` runs, as a tree and as an initramfs.
pub(super) const PROGRAMS: Recipe = Recipe {
    suffix: "-programs",
    variant: "essential",
    packages: "gcc,libc6-dev,openssl,perl,python3,sqlite3,xz-utils,zstd",
    with_sources: false,
    settings: &[
        r#"rm -rf "$1/usr/share/doc" "$1/usr/share/man" "$1/usr/share/locale" "$1/var/lib/apt" "$1/var/cache""#,
    ],
    version: r#". "$1/etc/os-release"; echo "$PRETTY_NAME $(cat "$1/etc/debian_version")"; chroot "$1" dpkg-query -W -f ', ${Package} ${Version}' gcc-12 python3 openssl sqlite3"#,
    before: "(cd root && find . | LC_ALL=C sort | cpio --quiet -o -H newc) > tree.cpio",
    after: "",
    size: None,
    nameless: "",
};

impl Recipe {
    /// The folder with the disk: from the cache, made if it is not there.
    pub(super) fn get(&self, trapeze: &Path) -> Result<PathBuf> {
        let images = guestimg::cache_dir()?.join("images");
        let entry = Entry {
            images: &images,
            name: format!("debian-{RELEASE}{}", self.suffix),
            recipe: self.text(),
            nameless: self.nameless,
        };
        entry.get(|folder| self.make(trapeze, folder))
    }

    /// All that decides what is made, but for the versions that the package
    /// sources have on the day.
    fn text(&self) -> String {
        let bootstrap = self.bootstrap_options(Path::new("version"));
        let sources = if self.with_sources { "with" } else { "without" };
        let disk = self.unpack();
        let convert = CONVERT.join(" ");
        format!(
            "{RELEASE}\n{}\n{sources} sources\n{disk}\n{convert}\n",
            bootstrap.join("\n")
        )
    }

    /// Fills an empty folder.
    fn make(&self, trapeze: &Path, folder: &Path) -> Result<()> {
        eprintln!("debian: {RELEASE}, {} (minutes, once)", self.packages);
        self.bootstrap(folder)?;
        eprintln!("debian: what is made of it");
        let mut command = Command::new("fakeroot");
        command.args(["sh", "-c", &self.unpack()]);
        output_of(command.current_dir(folder))?;
        if self.size.is_none() {
            return Ok(());
        }
        let mut convert = Command::new(trapeze);
        convert.args(CONVERT);
        output_of(convert.current_dir(folder))?;
        let raw = folder.join("disk.raw");
        fs::remove_file(&raw).with_context(|| raw.display().to_string())
    }

    /// `root.tar` and `version`.
    fn bootstrap(&self, folder: &Path) -> Result<()> {
        let mut command = Command::new("mmdebstrap");
        command
            .args(self.bootstrap_options(&folder.join("version")))
            .arg(RELEASE)
            .arg(folder.join("root.tar"))
            .args(sources(self.with_sources)?);
        output_of(&mut command)?;
        Ok(())
    }

    /// Of mmdebstrap; the tree's version goes into the file `version`.
    fn bootstrap_options(&self, version: &Path) -> Vec<String> {
        let mut options: Vec<String> = ["--quiet", "--mode=auto"].map(str::to_string).to_vec();
        options.push(format!("--variant={}", self.variant));
        options.push(format!("--include={}", self.packages));
        let hook = |script: &str| format!("--customize-hook={script}");
        options.extend(self.settings.iter().copied().map(hook));
        let say = format!("({}) > '{}'", self.version, version.display());
        options.push(hook(&say));
        options
    }

    /// From `root.tar` to a tree and a file system, as whoever owns the files
    /// there: fakeroot lets an ordinary user do that.
    fn unpack(&self) -> String {
        let disk = self.size.map_or(String::new(), |size| {
            format!(
                r#"PATH="$PATH:/usr/sbin:/sbin" mke2fs -q -t ext4 -L debian -d root disk.raw {size}"#
            )
        });
        let Self { before, after, .. } = self;
        format!(
            r#"
            set -e
            mkdir root
            tar -x -p -f root.tar -C root
            rm root.tar
            {before}
            {disk}
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_recipe_is_in_its_text() {
        for recipe in [&SYSTEM, &TOOLS, &PROGRAMS] {
            let text = recipe.text();
            let size = recipe.size.unwrap_or_default();
            let parts = [recipe.variant, recipe.packages, recipe.version, size];
            let more = [recipe.before, recipe.after];
            let mut all = parts.iter().chain(&more).chain(recipe.settings);
            assert!(all.all(|part| text.contains(part)), "{text}");
        }
        assert_ne!(SYSTEM.text(), TOOLS.text());
    }
}
