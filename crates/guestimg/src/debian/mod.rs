//! A Debian on a disk, made by an ordinary user: the host fetches packages and
//! makes an empty file system, a machine of ours installs them as root.

mod builder;
mod files;
pub(crate) mod kernel;
mod packages;

use crate::apt::Apt;
use crate::cache::{cache_dir, lock};
use crate::{Error, Progress, Result};
use packages::Packages;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What is installed besides what every Debian has to have. `usr-is-merged`
/// stands for what would move files of an old system into /usr.
const ESSENTIAL: [&str; 2] = ["?essential", "usr-is-merged"];
const MORE: [&str; 14] = [
    "apt",
    "dbus",
    "debian-archive-keyring",
    "iproute2",
    "iputils-ping",
    "kmod",
    "less",
    "nano-tiny",
    "netbase",
    "openssh-server",
    "procps",
    "systemd",
    "systemd-sysv",
    "udev",
];

/// Where it is made, and by whom.
pub struct Workshop<'a> {
    /// `trapeze`, which runs the machine.
    pub program: &'a Path,
    /// An empty folder, where `disk.qcow2`, `vmlinuz` and `initrd` will be.
    pub folder: &'a Path,
    /// Of the disk, in bytes.
    pub disk_bytes: u64,
    /// Told of each process that is started and would outlive this one.
    pub started: &'a dyn Fn(&Child),
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// As the system calls itself.
    pub system: String,
    /// Name and version of the kernel's package.
    pub kernel: String,
    /// How many packages are installed.
    pub packages: usize,
}

impl Workshop<'_> {
    /// Makes it.
    ///
    /// # Errors
    /// Whatever is missing on the host, or what the machine complained about.
    pub fn debian(&self, progress: &mut Progress) -> Result<Made> {
        let work = self.folder.join("work");
        make_folder(&work)?;
        let packages = self.packages(&work, progress)?;
        progress.step("unpacking the kernel");
        let kernel = kernel::unpack(&packages, &work, self.folder)?;
        progress.step(format!("repacking {} packages", packages.names().count()));
        packages.repack(&work, progress)?;
        let raw = work.join("disk.raw");
        self.file_system(&raw)?;
        progress.step("installing in a machine");
        let system = builder::install(self, &kernel, packages.names().count(), progress)?;
        progress.step("packing the disk");
        self.pack(&raw)?;
        fs::remove_dir_all(&work).map_err(Error::file(&work))?;
        progress.finish();
        Ok(Made {
            system,
            kernel: format!("{} {}", packages.kernel.name, packages.kernel.version),
            packages: packages.names().count(),
        })
    }

    fn packages(&self, work: &Path, progress: &mut Progress) -> Result<Packages> {
        let cache = cache_dir()?;
        fs::create_dir_all(&cache).map_err(Error::file(&cache))?;
        let _lock = lock(&cache.join("lock"))?;
        let mut apt = Apt::new(cache.join("apt/amd64"), "amd64")?;
        apt.update(progress)?;
        Packages::fetch(&apt, work, progress)
    }

    /// An empty file system that belongs to root.
    fn file_system(&self, raw: &Path) -> Result<()> {
        let file = fs::File::create(raw).map_err(Error::file(raw))?;
        file.set_len(self.disk_bytes).map_err(Error::file(raw))?;
        let mut command = Command::new(mke2fs());
        // Inode tables in a new file read as zeros: nothing is left for the
        // guest to do after its first mount.
        command.args(["-q", "-t", "ext4", "-L", "root", "-E"]);
        command.arg("root_owner=0:0,lazy_itable_init=0").arg(raw);
        run(command, "mke2fs", "mke2fs")
    }

    fn pack(&self, raw: &Path) -> Result<()> {
        let mut command = Command::new(self.program);
        command.args(["img", "convert", "-f", "raw", "-O", "qcow2"]);
        command.arg(raw).arg(self.folder.join("disk.qcow2"));
        run(command, "trapeze", "trapeze img convert")
    }
}

/// It is where ordinary users do not look for programs.
pub(crate) fn mke2fs() -> PathBuf {
    let folders = ["/usr/sbin", "/sbin"].map(|f| Path::new(f).join("mke2fs"));
    let found = folders.into_iter().find(|p| p.is_file());
    found.unwrap_or_else(|| "mke2fs".into())
}

/// Runs a tool; its last words are the error.
fn run(mut command: Command, program: &'static str, what: &str) -> Result<()> {
    command.stdin(Stdio::null());
    let output = command
        .output()
        .map_err(|source| Error::NoProgram { program, source })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rfind(|l| !l.trim().is_empty());
    Err(Error::Tool {
        what: what.to_string(),
        why: last.unwrap_or("no reason given").to_string(),
    })
}

/// Makes a folder in one that is there: whoever has removed that wants none.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Err(why) if why.kind() != std::io::ErrorKind::AlreadyExists => Err(Error::file(path)(why)),
        _ => Ok(()),
    }
}
