//! Hard links without a capability: linkat(2) takes a descriptor only from
//! those who have CAP_DAC_READ_SEARCH, and a name below /proc from everybody.
#![allow(unsafe_code, reason = "linkat")]

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// A file the guest has looked up: where it was a moment ago, and what says
/// that it is still the same.
pub(super) struct Known<'a> {
    pub(super) path: &'a Path,
    pub(super) status: libc::stat64,
}

impl Known<'_> {
    /// Opens it, for its name only. Whatever else has come to its place is
    /// ESTALE: the guest reaches nothing this way that it has not already.
    fn open(&self) -> io::Result<File> {
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        let mut options = OpenOptions::new();
        let file = options.read(true).custom_flags(flags).open(self.path)?;
        let now = file.metadata()?;
        match (now.dev(), now.ino()) == (self.status.st_dev, self.status.st_ino) {
            true => Ok(file),
            false => Err(io::Error::from_raw_os_error(libc::ESTALE)),
        }
    }
}

/// Gives `file` another name in `folder`.
pub(super) fn make(file: &Known<'_>, folder: &Known<'_>, name: &CStr) -> io::Result<()> {
    let (file, folder) = (file.open()?, folder.open()?);
    let place = format!("/proc/self/fd/{}\0", file.as_raw_fd());
    // SAFETY: both names end with a zero byte and both files are open.
    let result = unsafe {
        libc::linkat(
            libc::AT_FDCWD,
            place.as_ptr().cast(),
            folder.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_FOLLOW,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
