//! Descriptors that whoever started the machine opened.
#![allow(unsafe_code, reason = "descriptors by their numbers")]

use rustix::io::{FdFlags, fcntl_setfd};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

/// Takes one over; one line, if there is none. What this process has opened itself,
/// a disk for example, is closed on exec, and what it inherited cannot be: so a wrong
/// number takes nothing away from anybody.
pub(crate) fn adopt(fd: i32) -> Result<OwnedFd, String> {
    // SAFETY: F_GETFD only looks.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    if fd <= 2 || flags < 0 {
        return Err(format!("fd={fd}: it is not open"));
    }
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(format!("fd={fd}: it was not open when the machine started"));
    }
    // SAFETY: it is open, nobody in this process has opened it, and who names it
    // gives it away.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    mark(&owned, FdFlags::CLOEXEC)?;
    Ok(owned)
}

/// For somebody else to take over by its number.
pub(crate) fn give_back(fd: OwnedFd) -> Result<i32, String> {
    mark(&fd, FdFlags::empty())?;
    Ok(fd.into_raw_fd())
}

fn mark(fd: &OwnedFd, flags: FdFlags) -> Result<(), String> {
    fcntl_setfd(fd, flags).map_err(|why| format!("a descriptor's flags: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsRawFd;

    #[test]
    fn only_what_is_inherited_is_taken_and_only_once() {
        let ours = File::open("/dev/null").unwrap();
        let why = adopt(ours.as_raw_fd()).unwrap_err();
        assert!(why.contains("not open when the machine started"), "{why}");
        assert!(ours.metadata().is_ok(), "it is still there");
        let number = give_back(ours.into()).unwrap();
        let _taken = adopt(number).unwrap();
        assert!(adopt(number).is_err());
        assert!(adopt(1).is_err(), "standard output");
    }
}
