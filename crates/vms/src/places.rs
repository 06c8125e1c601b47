//! Folders of the user's (XDG Base Directory Specification).

use anyhow::{Context, Result, bail};
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

fn folder(variable: &str, below_home: &str) -> Result<PathBuf> {
    let absolute = |name| {
        let path = std::env::var_os(name).map(PathBuf::from);
        path.filter(|p: &PathBuf| p.is_absolute())
    };
    let base = absolute(variable).or_else(|| Some(absolute("HOME")?.join(below_home)));
    match base {
        Some(base) => Ok(base.join("trapeze")),
        None => bail!("no folder to keep things in: set HOME or {variable} to an absolute path"),
    }
}

/// Of machines, and of the key for their ssh.
///
/// # Errors
/// There is none.
pub fn state() -> Result<PathBuf> {
    folder("XDG_STATE_HOME", ".local/state")
}

/// Of images.
///
/// # Errors
/// There is none.
pub fn images() -> Result<PathBuf> {
    Ok(folder("XDG_DATA_HOME", ".local/share")?.join("images"))
}

/// Makes a folder that only its owner reads, and those above it.
///
/// # Errors
/// The host's, with the folder's name.
pub fn make(path: &Path) -> Result<()> {
    let mut builder = DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(path);
    made.with_context(|| path.display().to_string())
}

/// Waits for the lock of that name, until the file is dropped.
///
/// # Errors
/// The host's, with the file's name.
pub fn lock(path: &Path) -> Result<File> {
    let file = lock_file(path)?;
    file.lock().with_context(|| path.display().to_string())?;
    Ok(file)
}

/// The same beside others who ask for this.
///
/// # Errors
/// The host's, with the file's name.
pub fn lock_shared(path: &Path) -> Result<File> {
    let file = lock_file(path)?;
    let locked = file.lock_shared();
    locked.with_context(|| path.display().to_string())?;
    Ok(file)
}

fn lock_file(path: &Path) -> Result<File> {
    let file = File::options().create(true).append(true).open(path);
    file.with_context(|| path.display().to_string())
}

/// Writes a file that is there whole or as it was before.
///
/// # Errors
/// The host's, with the file's name.
pub fn write(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path));
    written.with_context(|| path.display().to_string())
}
