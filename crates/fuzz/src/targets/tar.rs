//! Archives of guest packages.

/// Looks for a kernel and something else in the archive.
pub(super) fn run(data: &[u8]) {
    let kernel: &dyn Fn(&str) -> bool = &|path| path.starts_with("./boot/vmlinuz");
    let Ok(found) = guestimg::find_in_tar(data, &[kernel, &|path| path.ends_with(".ko")]) else {
        return;
    };
    assert_eq!(found.len(), 2);
    let size: usize = found.iter().flatten().map(Vec::len).sum();
    assert!(size <= data.len());
}
