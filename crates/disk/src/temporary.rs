//! Overlays that live as long as they are open.

use crate::errno::{Error, Result};
use crate::format::Format;
use crate::host_file::{Access, HostFile, HostFileOptions};
use crate::qcow2::{BackingName, CreateOptions, create};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// An image whose name goes away when this is dropped; who has it open keeps
/// the contents.
pub(crate) struct Named(PathBuf);

impl Named {
    /// Its name.
    pub(crate) fn name(&self) -> String {
        // Such a path would be refused when it is opened.
        format!("file:{}", self.0.display())
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        // A file that stays behind is the temporary folder's.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// `$TMPDIR`, or where large files may be, as QEMU does.
fn folder() -> PathBuf {
    let asked = std::env::var_os("TMPDIR").map(PathBuf::from);
    asked
        .filter(|path| path.is_absolute())
        .unwrap_or_else(|| "/var/tmp".into())
}

/// An empty overlay of `len` bytes on `base`.
pub(crate) fn overlay(base: &Path, format: Format, len: u64) -> Result<Named> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("trapeze-{}-{number}.qcow2", std::process::id());
    let named = Named(folder().join(name));
    let backing = base.to_str().ok_or_else(|| {
        let what = base.display();
        Error::unsupported(format!(
            "'{what}': its name is no text, so nothing can refer to it"
        ))
    })?;
    // Nobody else's file of that name may be used.
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&named.0)
        .map_err(|e| {
            Error::io(
                format!("Could not create '{}'", named.0.display()),
                e.into(),
            )
        })?;
    let file = HostFile::open(
        &named.0,
        &HostFileOptions {
            writable: true,
            direct: false,
            ignore_flush: true,
            access: Access::Create,
            create: true,
        },
    )?;
    create(
        Arc::new(file),
        &CreateOptions {
            size: len,
            backing: Some(BackingName {
                name: backing.to_string(),
                format: Some(format.name().to_string()),
            }),
            ..CreateOptions::default()
        },
    )?;
    Ok(named)
}
