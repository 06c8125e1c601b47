//! A file's length, its holes and its space.
#![allow(unsafe_code, reason = "fallocate, lseek, ioctl")]

use crate::errno::{Errno, IoResult};
use crate::storage::Extent;
use std::fs::File;
use std::os::fd::AsRawFd;

fn signed(value: u64) -> IoResult<i64> {
    i64::try_from(value).map_err(|_| Errno(libc::EFBIG))
}

fn seek(file: &File, offset: u64, whence: i32) -> IoResult<u64> {
    let offset = signed(offset)?;
    // SAFETY: an open descriptor. Nothing else uses the file position.
    let at = unsafe { libc::lseek64(file.as_raw_fd(), offset, whence) };
    u64::try_from(at).map_err(|_| Errno::last())
}

/// Length, of block devices too.
pub(super) fn end(file: &File) -> IoResult<u64> {
    seek(file, 0, libc::SEEK_END)
}

/// Bytes per sector of a block device.
pub(super) fn sector_size(file: &File) -> Option<u32> {
    const BLKSSZGET: libc::c_ulong = 0x1268;
    let mut size: libc::c_int = 0;
    // SAFETY: the request writes one int.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), BLKSSZGET, &raw mut size) };
    (result == 0 && size > 0).then_some(size as u32)
}

fn fallocate(file: &File, mode: i32, offset: u64, len: u64) -> IoResult<()> {
    let (offset, len) = (signed(offset)?, signed(len)?);
    loop {
        // SAFETY: an open descriptor.
        if unsafe { libc::fallocate64(file.as_raw_fd(), mode, offset, len) } == 0 {
            return Ok(());
        }
        match Errno::last() {
            Errno(libc::EINTR) => {}
            Errno(libc::EOPNOTSUPP | libc::ENODEV | libc::ENOSYS) => return Err(Errno::ENOTSUP),
            errno => return Err(errno),
        }
    }
}

/// Reserves space; the file grows.
pub(super) fn allocate(file: &File, offset: u64, len: u64) -> IoResult<()> {
    if len == 0 {
        return Ok(());
    }
    fallocate(file, 0, offset, len)
}

/// Zeroes without growing the file. `ENOTSUP` if there is no way but writing.
pub(super) fn zero(file: &File, offset: u64, len: u64, unmap: bool) -> IoResult<()> {
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    const RANGE: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
    if unmap {
        match fallocate(file, PUNCH, offset, len) {
            Err(Errno::ENOTSUP) => {}
            other => return other,
        }
    }
    match fallocate(file, RANGE, offset, len) {
        // Such as tmpfs: a hole, filled again.
        Err(Errno::ENOTSUP) => {
            fallocate(file, PUNCH, offset, len)?;
            allocate(file, offset, len)
        }
        other => other,
    }
}

/// Data or hole at `offset`. Where the kernel cannot say, it is data.
pub(super) fn extent(file: &File, offset: u64, len: u64) -> IoResult<Extent> {
    let bound = |to: u64| to.saturating_sub(offset).min(len);
    match seek(file, offset, libc::SEEK_DATA) {
        // Beyond the last data.
        Err(Errno(libc::ENXIO)) => Ok(Extent { len, data: false }),
        Ok(data) if data > offset => Ok(Extent {
            len: bound(data),
            data: false,
        }),
        Ok(_) => match seek(file, offset, libc::SEEK_HOLE) {
            Ok(hole) if hole > offset => Ok(Extent {
                len: bound(hole),
                data: true,
            }),
            // The file changed meanwhile.
            _ => Ok(Extent { len, data: true }),
        },
        Err(_) => Ok(Extent { len, data: true }),
    }
}
