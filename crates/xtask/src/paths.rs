//! Where things are.

use anyhow::{Context, Result, bail};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace's root.
pub(crate) fn root() -> &'static Path {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    crates.and_then(Path::parent).unwrap_or(Path::new("."))
}

/// Cargo's target folder: this program is in `target/<profile>/`.
pub(crate) fn target() -> Result<PathBuf> {
    let program = std::env::current_exe().context("where this program is")?;
    let folder = program.parent().and_then(Path::parent);
    Ok(folder
        .context("no target folder above this program")?
        .to_path_buf())
}

/// The cargo that runs us. What it keeps to build faster after a change is most of
/// the disk that the checks need and of no use to them, so it has to be asked for.
pub(crate) fn cargo() -> Command {
    const INCREMENTAL: &str = "CARGO_INCREMENTAL";
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.current_dir(root());
    if std::env::var_os(INCREMENTAL).is_none() {
        command.env(INCREMENTAL, "0");
    }
    command
}

/// Names a build of trapeze that is to be tested as it is.
pub(crate) const BUILT: &str = "TRAPEZE";

/// The release build of trapeze, built now if need be.
pub(crate) fn trapeze() -> Result<PathBuf> {
    if let Some(built) = std::env::var_os(BUILT) {
        return Ok(built.into());
    }
    let status = cargo()
        .args(["build", "--release", "--quiet", "--package", "trapeze"])
        .status();
    if !status.context("cargo build")?.success() {
        bail!("trapeze does not build");
    }
    Ok(target()?.join("release/trapeze"))
}

/// A folder that goes away with its owner.
pub(crate) struct TempFolder(PathBuf);

impl TempFolder {
    /// In the folder for temporary files, with `name` in its own.
    pub(crate) fn new(name: &str) -> Result<Self> {
        Self::within(&std::env::temp_dir(), name)
    }

    /// The same in memory.
    pub(crate) fn in_memory(name: &str) -> Result<Self> {
        Self::within(Path::new("/dev/shm"), name)
    }

    fn within(place: &Path, name: &str) -> Result<Self> {
        let folder = format!("trapeze-{name}-{}", std::process::id());
        let path = place.join(folder);
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    /// A file in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// `text` with the folder's name for `{folder}` and its port's number for `{port}`.
    pub(crate) fn fill_in(&self, text: &str) -> Result<String> {
        let text = text.replace("{folder}", &self.0.to_string_lossy());
        match text.contains("{port}") {
            true => Ok(text.replace("{port}", &self.port()?.to_string())),
            false => Ok(text),
        }
    }

    /// A TCP port that nobody used when it was first asked for.
    pub(crate) fn port(&self) -> Result<u16> {
        let file = self.path("port");
        if let Ok(text) = std::fs::read_to_string(&file) {
            return text.parse().context("the port's number");
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        std::fs::write(&file, port.to_string())?;
        Ok(port)
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        // What is left in the temporary folder harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// True if `program` is in the PATH, or where ordinary users do not look.
pub(crate) fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path);
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    folders
        .chain(more)
        .any(|folder| folder.join(program).is_file())
}
