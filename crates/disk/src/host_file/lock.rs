//! Image locks that exclude, and are excluded by, QEMU's.
//!
//! Each right has two bytes in the file: byte 100 + n is locked by those who
//! use right n, byte 200 + n by those who do not let others use it. All locks
//! are shared ones; who wants a right looks whether its 200 byte is locked,
//! and who denies one whether its 100 byte is. They are open file description
//! locks, so that they belong to the descriptor and not to the process.
#![allow(unsafe_code, reason = "fcntl")]

use crate::errno::{Errno, Error, IoResult, Result};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

const READ: u8 = 1 << 0;
const WRITE: u8 = 1 << 1;
const RESIZE: u8 = 1 << 3;

/// (number, name in messages).
const RIGHTS: [(u8, &str); 4] = [
    (0, "consistent read"),
    (1, "write"),
    (2, "write unchanged"),
    (3, "resize"),
];

/// What we do with a file, and what others may do meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// No lock at all: others may do anything (`force-share`).
    Unlocked,
    /// Look at its metadata: nobody may write, but we need no contents.
    Inspect,
    /// Read: nobody may write.
    Read,
    /// Write: nobody else may.
    Write,
    /// Make a new image in it.
    Create,
    /// Read and write, as others may (`share-rw`).
    ShareWrite,
}

impl Access {
    /// (rights used, rights denied to others).
    fn rights(self) -> (u8, u8) {
        match self {
            Self::Unlocked => (0, 0),
            Self::Inspect => (0, WRITE | RESIZE),
            Self::Read => (READ, WRITE | RESIZE),
            Self::Write => (READ | WRITE | RESIZE, WRITE | RESIZE),
            Self::Create => (WRITE | RESIZE, RESIZE),
            Self::ShareWrite => (READ | WRITE | RESIZE, 0),
        }
    }
}

/// Takes the locks, or says who has them. File systems without such locks are
/// used without.
pub(super) fn acquire(file: &File, path: &Path, access: Access) -> Result<()> {
    let (used, denied) = access.rights();
    if !supported(file) {
        return Ok(());
    }
    let result = hold(file, used, denied).and_then(|()| look(file, used, denied));
    if let Err((text, errno)) = result {
        // Whatever was held before is given up with it: a file that we cannot
        // have is closed next.
        let _ = hold_exactly(file, 0, 0);
        let hint = format!("Is another process using the image [{}]?", path.display());
        return Err(Error::new(errno, format!("{text}\n{hint}")));
    }
    hold_exactly(file, used, denied).map_err(|e| Error::io("Failed to unlock", e))
}

type Refusal = (String, Errno);

fn hold(file: &File, used: u8, denied: u8) -> Result<(), Refusal> {
    for (n, name) in RIGHTS {
        let failed = |what: String| move |errno| (what, errno);
        if used & (1 << n) != 0 {
            set(file, libc::F_RDLCK, 100 + n)
                .map_err(failed(format!("Failed to lock byte {}", 100 + n)))?;
        }
        if denied & (1 << n) != 0 {
            set(file, libc::F_RDLCK, 200 + n)
                .map_err(failed(format!("Failed to get shared \"{name}\" lock")))?;
        }
    }
    Ok(())
}

fn look(file: &File, used: u8, denied: u8) -> Result<(), Refusal> {
    for (n, name) in RIGHTS {
        if used & (1 << n) != 0 && locked_by_others(file, 200 + n) {
            return Err((
                format!("Failed to get \"{name}\" lock"),
                Errno(libc::EAGAIN),
            ));
        }
    }
    for (n, name) in RIGHTS {
        if denied & (1 << n) != 0 && locked_by_others(file, 100 + n) {
            let text = format!("Failed to get shared \"{name}\" lock");
            return Err((text, Errno(libc::EAGAIN)));
        }
    }
    Ok(())
}

/// Gives up what is not asked for.
fn hold_exactly(file: &File, used: u8, denied: u8) -> IoResult<()> {
    for (n, _) in RIGHTS {
        for (base, mask) in [(100, used), (200, denied)] {
            if mask & (1 << n) == 0 {
                set(file, libc::F_UNLCK, base + n)?;
            }
        }
    }
    Ok(())
}

fn flock(kind: i32, start: u8, len: i64) -> libc::flock64 {
    libc::flock64 {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: start.into(),
        l_len: len,
        l_pid: 0,
    }
}

fn set(file: &File, kind: i32, byte: u8) -> IoResult<()> {
    let lock = flock(kind, byte, 1);
    // SAFETY: an open descriptor and an initialized flock64.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } {
        0 => Ok(()),
        _ => Err(Errno::last()),
    }
}

/// The lock that hinders an exclusive one of this range.
fn conflict(file: &File, byte: u8, len: i64) -> IoResult<Option<i32>> {
    let mut lock = flock(libc::F_WRLCK, byte, len);
    // SAFETY: an open descriptor and a flock64 that the kernel may change.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } {
        0 => Ok((i32::from(lock.l_type) != libc::F_UNLCK).then_some(lock.l_type.into())),
        _ => Err(Errno::last()),
    }
}

fn locked_by_others(file: &File, byte: u8) -> bool {
    !matches!(conflict(file, byte, 1), Ok(None))
}

fn supported(file: &File) -> bool {
    conflict(file, 0, 0).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn who_excludes_whom() {
        let dir = TempDir::new();
        let path = dir.path("image");
        std::fs::write(&path, b"x").expect("writable");
        let open = || {
            let mut options = std::fs::OpenOptions::new();
            options.read(true).write(true);
            options.open(&path).expect("it is there")
        };
        let both = |a: Access, b: Access| {
            let (first, second) = (open(), open());
            acquire(&first, &path, a).expect("alone");
            acquire(&second, &path, b).map_err(|e| e.to_string())
        };
        let refused = |right: &str| {
            let hint = format!("Is another process using the image [{}]?", path.display());
            Err(format!("Failed to get {right} lock\n{hint}"))
        };
        use Access::{Create, Inspect, Read, ShareWrite, Unlocked, Write};
        // What qemu-img says in the same situations.
        assert_eq!(both(Write, Inspect), refused("shared \"write\""));
        assert_eq!(both(Write, Read), refused("shared \"write\""));
        assert_eq!(both(Write, Write), refused("\"write\""));
        assert_eq!(both(Write, Create), refused("\"write\""));
        assert_eq!(both(Read, Write), refused("\"write\""));
        assert_eq!(both(Read, Read), Ok(()));
        assert_eq!(both(Write, Unlocked), Ok(()));
        assert_eq!(both(ShareWrite, Read), refused("shared \"write\""));
    }

    #[test]
    fn locks_go_with_the_descriptor() {
        let dir = TempDir::new();
        let path = dir.path("image");
        std::fs::write(&path, b"x").expect("writable");
        let open = || std::fs::File::open(&path).expect("it is there");
        let (first, second) = (open(), open());
        // Shared locks need only read rights.
        acquire(&first, &path, Access::Write).expect("alone");
        assert!(acquire(&second, &path, Access::Write).is_err());
        drop(first);
        acquire(&second, &path, Access::Write).expect("alone again");
    }
}
