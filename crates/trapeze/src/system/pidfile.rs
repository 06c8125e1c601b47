//! `-pidfile`: the process's number in a file, locked while it runs.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The file; gone when this is dropped.
pub(super) struct PidFile {
    path: PathBuf,
    _locked: File,
}

impl PidFile {
    /// Writes it, for its owner only, as QEMU 10 does. One that another running
    /// process holds is left alone.
    pub(super) fn new(path: &Path) -> Result<Self, String> {
        let failed = |why: &dyn std::fmt::Display| format!("-pidfile {}: {why}", path.display());
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(path).map_err(|why| failed(&why))?;
        file.try_lock().map_err(|why| match why {
            TryLockError::WouldBlock => failed(&"another process that runs has it"),
            TryLockError::Error(why) => failed(&why),
        })?;
        let written = file
            .set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(|why| failed(&why))?;
        Ok(Self {
            // A daemon leaves its folder.
            path: std::path::absolute(path).map_err(|why| failed(&why))?,
            _locked: file,
        })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
