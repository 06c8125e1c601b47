//! A file of memory of which the host makes large pages.
//!
//! Whether shared anonymous memory gets any is the host's policy
//! (`transparent_hugepage/shmem_enabled`), by default "never". A tmpfs has a policy
//! of its own, `huge=`, and one that is mounted nowhere needs nothing but the
//! right to mount: root's, or that of a user namespace of one's own.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `fsconfig(2)`, `fsmount(2)`: `linux/mount.h`.
const FSCONFIG_SET_STRING: libc::c_int = 1;
const FSCONFIG_CMD_CREATE: libc::c_int = 6;
const FSOPEN_CLOEXEC: libc::c_int = 1;
const FSMOUNT_CLOEXEC: libc::c_int = 1;
const MOUNT_ATTR_NOSUID_NODEV: libc::c_int = 2 | 4;

/// A file of `len` bytes without a name.
pub(super) fn file(len: usize) -> io::Result<File> {
    // A tmpfs has half the host's memory at most unless told otherwise.
    let size = CString::new(len.to_string())?;
    let file = File::from(unnamed(&size).or_else(|_| in_namespace(&size))?);
    file.set_len(len as u64)?;
    Ok(file)
}

/// A file on a tmpfs of our own, of `size` bytes. Makes system calls only, which is
/// all that a child of a process with threads may do.
fn unnamed(size: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: strings and numbers as the calls want them (fsopen(2) and the
    // others); what they return is ours.
    unsafe {
        let tmpfs = owned(libc::syscall(
            libc::SYS_fsopen,
            c"tmpfs".as_ptr(),
            FSOPEN_CLOEXEC,
        ))?;
        configure(&tmpfs, FSCONFIG_SET_STRING, Some((c"huge", c"always")))?;
        configure(&tmpfs, FSCONFIG_SET_STRING, Some((c"size", size)))?;
        configure(&tmpfs, FSCONFIG_CMD_CREATE, None)?;
        let mount = owned(libc::syscall(
            libc::SYS_fsmount,
            tmpfs.as_raw_fd(),
            FSMOUNT_CLOEXEC,
            MOUNT_ATTR_NOSUID_NODEV,
        ))?;
        let flags = libc::O_TMPFILE | libc::O_RDWR | libc::O_CLOEXEC;
        let file = libc::openat(mount.as_raw_fd(), c".".as_ptr(), flags, 0o600);
        owned(file.into())
    }
}

fn configure(
    tmpfs: &OwnedFd,
    command: libc::c_int,
    option: Option<(&CStr, &CStr)>,
) -> io::Result<()> {
    let [key, value] = match option {
        Some((key, value)) => [key.as_ptr(), value.as_ptr()],
        None => [std::ptr::null(); 2],
    };
    let tmpfs = tmpfs.as_raw_fd();
    // SAFETY: a descriptor of fsopen(2), and strings that live on.
    match unsafe { libc::syscall(libc::SYS_fsconfig, tmpfs, command, key, value, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The descriptor that a system call made.
fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    match libc::c_int::try_from(result) {
        // SAFETY: new, by the caller's call, and nobody else's.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The same by a child in namespaces of its own, where it may mount. It shares our
/// descriptors, and puts the file in the place of one.
fn in_namespace(size: &CStr) -> io::Result<OwnedFd> {
    let place = OwnedFd::from(File::open("/dev/null")?);
    let ids = Ids::ours();
    let apart = libc::CLONE_FILES | libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::SIGCHLD;
    // SAFETY: without CLONE_VM the child has memory of its own, which it does not
    // even allocate from, and it ends here.
    let child = unsafe { libc::syscall(libc::SYS_clone, apart, 0, 0, 0, 0) };
    match child {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let made = ids.enter().and_then(|()| unnamed(size)).is_ok_and(|file| {
                // SAFETY: descriptors of ours.
                unsafe { libc::dup3(file.as_raw_fd(), place.as_raw_fd(), libc::O_CLOEXEC) >= 0 }
            });
            // SAFETY: ends the child, and runs nothing of ours.
            unsafe { libc::_exit(i32::from(!made)) }
        }
        child => match wait_for(child as libc::pid_t)? {
            0 => Ok(place),
            _ => Err(io::ErrorKind::Unsupported.into()),
        },
    }
}

/// What a new user namespace is told of ids: who is not known there makes no
/// files (user_namespaces(7)).
struct Ids {
    user: String,
    group: String,
}

impl Ids {
    /// Ours, which are root's there.
    fn ours() -> Self {
        // SAFETY: these only tell.
        let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
        Self {
            user: format!("0 {user} 1"),
            group: format!("0 {group} 1"),
        }
    }

    /// Tells them to the namespace of the process. Makes system calls only.
    fn enter(&self) -> io::Result<()> {
        tell(c"/proc/self/setgroups", b"deny")?;
        tell(c"/proc/self/gid_map", self.group.as_bytes())?;
        tell(c"/proc/self/uid_map", self.user.as_bytes())
    }
}

fn tell(path: &CStr, what: &[u8]) -> io::Result<()> {
    // SAFETY: a path, a descriptor of ours, and bytes with their length.
    let written = unsafe {
        let file = owned(libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC).into())?;
        libc::write(file.as_raw_fd(), what.as_ptr().cast(), what.len())
    };
    match usize::try_from(written) {
        Ok(n) if n == what.len() => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What a child ended with.
fn wait_for(child: libc::pid_t) -> io::Result<libc::c_int> {
    let mut status = 0;
    loop {
        // SAFETY: a status to fill.
        if unsafe { libc::waitpid(child, &raw mut status, 0) } == child {
            return Ok(status);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn what_a_host_gives_is_memory() {
        // Each may be refused, by a container for example.
        let size = c"4194304";
        for made in [unnamed(size), in_namespace(size)].into_iter().flatten() {
            let file = File::from(made);
            file.set_len(4 << 20).expect("a tmpfs");
            file.write_all_at(b"code", 3 << 20).expect("a tmpfs");
            let mut found = [0; 5];
            let at = (3 << 20) - 1;
            file.read_exact_at(&mut found, at).expect("a tmpfs");
            assert_eq!(&found, b"\0code");
        }
    }
}
