//! Room on the disks that the checks write to.

use crate::paths::target;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Measured, with some to spare: what a whole run leaves in a folder.
struct Need {
    folder: PathBuf,
    gigabytes: u64,
}

/// Says where a whole run will not fit. It is no error: a single step takes less,
/// and much may be there already.
pub(super) fn report() -> Result<()> {
    let needs = [
        Need {
            folder: target()?,
            gigabytes: 5,
        },
        Need {
            folder: std::env::temp_dir(),
            gigabytes: 2,
        },
    ];
    for need in needs {
        let free = free(&need.folder)? / 1_000_000_000;
        if free < need.gigabytes {
            println!(
                "setup: {} has {free} GB of room; all checks from a clean clone need {}",
                need.folder.display(),
                need.gigabytes
            );
        }
    }
    Ok(())
}

/// Bytes that an ordinary user may still write where `folder` is.
fn free(folder: &Path) -> Result<u64> {
    let numbers = rustix::fs::statvfs(folder).with_context(|| folder.display().to_string())?;
    Ok(numbers.f_bavail * numbers.f_frsize)
}
