//! Archives of guest packages.

/// Looks for a kernel in the archive.
pub(super) fn run(data: &[u8]) {
    let found = guestimg::find_in_tar(data, |path| path.starts_with("./boot/vmlinuz"));
    if let Ok(Some(content)) = found {
        assert!(content.len() <= data.len());
    }
}
