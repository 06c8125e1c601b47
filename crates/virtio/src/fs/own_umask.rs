//! The file mode mask of the device's threads.
#![allow(unsafe_code, reason = "unshare and umask")]

use std::cell::Cell;
use std::io;
use std::sync::Once;

thread_local! {
    /// This thread has a mask of its own; `None`: nobody tried yet.
    static OWN: Cell<Option<bool>> = const { Cell::new(None) };
}

/// Gives this thread a mask of its own, which masks nothing: the guest's
/// kernel has applied its own. The process's stays as it is. False where the
/// host forbids it, as Docker's filter of system calls does: the process's
/// mask then holds for the guest's files, too.
pub(super) fn ensure() -> bool {
    if let Some(own) = OWN.get() {
        return own;
    }
    // SAFETY: CLONE_FS separates this thread's mask, root and working folder
    // from those of the others; it touches no memory.
    let own = unsafe { libc::unshare(libc::CLONE_FS) } == 0;
    match own {
        // SAFETY: changes the mask, which is this thread's only.
        true => drop(unsafe { libc::umask(0) }),
        false => tell_once(&io::Error::last_os_error()),
    }
    OWN.set(Some(own));
    own
}

fn tell_once(error: &io::Error) {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        log::info!(target: "machine", "virtio-fs: unshare: {error}; this user's umask holds");
    });
}

/// Makes a call that clears the mask. Where that is the process's, it is put
/// back.
pub(super) fn kept<T>(call: impl FnOnce() -> T) -> T {
    if ensure() {
        return call();
    }
    // Until it is back, other threads make files for nobody else.
    // SAFETY: changes a number of the process.
    let before = unsafe { libc::umask(0o077) };
    let result = call();
    // SAFETY: as above.
    unsafe { libc::umask(before) };
    result
}
