//! Where things are.

use anyhow::{Context, Result, bail};
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

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.current_dir(root());
    command
}

/// The release build of trapeze, built now if need be.
pub(crate) fn trapeze() -> Result<PathBuf> {
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

    /// `text` with the folder's name for `{folder}`.
    pub(crate) fn fill_in(&self, text: &str) -> String {
        text.replace("{folder}", &self.0.to_string_lossy())
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        // What is left in the temporary folder harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// True if `program` is in the PATH.
pub(crate) fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
