//! Files of a size, with or without their space.

use crate::device::Preallocation;
use crate::errno::{Errno, Error, IoResult, Result};
use crate::storage::{Storage, StorageExt};

/// Makes a raw image in an empty file.
///
/// # Errors
/// The host's.
pub fn create_raw(file: &dyn Storage, len: u64, how: Preallocation) -> Result<()> {
    let what = match how {
        Preallocation::Off | Preallocation::Metadata => "Could not resize file",
        Preallocation::Falloc => "Could not preallocate data for the new file",
        Preallocation::Full => "Could not write zeros for preallocation",
    };
    preallocate(file, len, how).map_err(|e| Error::io(what, e))
}

/// Makes the file `len` long; what is added gets its space as asked for.
pub(crate) fn preallocate(file: &dyn Storage, len: u64, how: Preallocation) -> IoResult<()> {
    let old = file.length()?;
    match how {
        Preallocation::Off => file.set_len(len),
        Preallocation::Metadata => Err(Errno::ENOTSUP),
        Preallocation::Falloc | Preallocation::Full if len < old => Err(Errno::ENOTSUP),
        Preallocation::Falloc => undo_if_failed(file, old, file.allocate(old, len - old)),
        Preallocation::Full => {
            let filled = fill_with_zeros(file, old, len);
            undo_if_failed(file, old, filled.and_then(|()| file.flush()))
        }
    }
}

fn undo_if_failed(file: &dyn Storage, old: u64, result: IoResult<()>) -> IoResult<()> {
    if result.is_err() {
        // The first error is the one to tell.
        let _ = file.set_len(old);
    }
    result
}

fn fill_with_zeros(file: &dyn Storage, mut at: u64, end: u64) -> IoResult<()> {
    let zeros = vec![0; 1 << 20];
    while at < end {
        let piece = (end - at).min(zeros.len() as u64);
        file.write_at(&zeros[..piece as usize], at)?;
        at += piece;
    }
    Ok(())
}
