//! Memory that holds generated code, mapped twice: once writable, once
//! executable, never both at one address.
#![allow(unsafe_code, reason = "maps memory and hands out executable addresses")]

mod tmpfs;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

/// A dual-mapped code area. The two views show the same bytes: code is written
/// through [`Arena::rw`] and executed through [`Arena::rx`]. Pages are
/// allocated by the host on first touch, so a large arena costs nothing until
/// it is filled.
///
/// Instruction fetch on x86 snoops stores through another linear address, but
/// only a serializing instruction or a branch taken after the store guarantees
/// the new bytes to this CPU, and cross-modifying code needs more (SDM vol 3,
/// 8.1.3): bytes that any thread may be executing must not be rewritten.
#[derive(Debug)]
pub struct Arena {
    rw: NonNull<u8>,
    rx: NonNull<u8>,
    len: usize,
    /// The host makes large pages of it by itself.
    large: bool,
}

// SAFETY: the arena is two mappings that live as long as it does and belong to
// no thread; concurrent access goes through raw pointers or `&mut self`.
unsafe impl Send for Arena {}
// SAFETY: as above; `&Arena` only hands out addresses.
unsafe impl Sync for Arena {}

/// Size of a large page.
pub const HUGE: usize = 2 << 20;

/// Address space of `len` bytes at a multiple of [`HUGE`], for a mapping to
/// replace. `MAP_FAILED` if the host refuses.
fn aligned_space(len: usize) -> *mut libc::c_void {
    // SAFETY: a new mapping at an address of the kernel's choice.
    let space = unsafe {
        libc::mmap(
            ptr::null_mut(),
            len + HUGE,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if space == libc::MAP_FAILED {
        return space;
    }
    let front = (space as usize).next_multiple_of(HUGE) - space as usize;
    // SAFETY: what is given back is what the space has before and behind the
    // part in question: `front` is less than HUGE.
    unsafe {
        if front > 0 {
            libc::munmap(space, front);
        }
        libc::munmap(space.add(front + len), HUGE - front);
        space.add(front)
    }
}

/// New shared memory of `len` bytes, and whether the host makes large pages of it.
/// `MAP_FAILED` if the host refuses.
fn first_view(len: usize) -> (*mut libc::c_void, bool) {
    if len.is_multiple_of(HUGE)
        && let Ok(file) = tmpfs::file(len)
    {
        let view = map_shared(len, Some(&file));
        if view != libc::MAP_FAILED {
            return (view, true);
        }
    }
    // Shared anonymous memory needs no file system and no memfd, both of which a
    // container may deny.
    (map_shared(len, None), false)
}

fn map_shared(len: usize, file: Option<&File>) -> *mut libc::c_void {
    let at = aligned_space(len);
    if at == libc::MAP_FAILED {
        return at;
    }
    let (anonymous, fd) = match file {
        Some(file) => (0, file.as_raw_fd()),
        None => (libc::MAP_ANONYMOUS, -1),
    };
    // SAFETY: replaces the space, which is ours and unused.
    unsafe {
        let view = libc::mmap(
            at,
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | anonymous | libc::MAP_NORESERVE | libc::MAP_FIXED,
            fd,
            0,
        );
        if view == libc::MAP_FAILED {
            libc::munmap(at, len);
        }
        view
    }
}

/// A second mapping of the `len` bytes of shared memory at `first`.
/// `MAP_FAILED` if the host refuses.
fn second_view(first: *mut libc::c_void, len: usize) -> *mut libc::c_void {
    let at = aligned_space(len);
    if at == libc::MAP_FAILED {
        return at;
    }
    // SAFETY: replaces the space, which is ours and unused. An old size of 0 on
    // a shared mapping makes a second mapping of the same pages (mremap(2)).
    unsafe {
        let how = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let view = libc::mremap(first, 0, len, how, at);
        if view == libc::MAP_FAILED {
            libc::munmap(at, len);
        }
        view
    }
}

impl Arena {
    /// Maps an arena of `len` bytes, rounded up to whole pages.
    ///
    /// # Errors
    /// The host's `mmap`, `mremap` or `mprotect` refused (memory limit, or a
    /// policy that forbids executable shared memory).
    pub fn new(len: usize) -> io::Result<Self> {
        let len = len.max(1).next_multiple_of(4096);
        let (rw, large) = first_view(len);
        if rw == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let rx = second_view(rw, len);
        if rx == libc::MAP_FAILED {
            let e = io::Error::last_os_error();
            // SAFETY: unmaps exactly the mapping made above, not yet shared.
            unsafe { libc::munmap(rw, len) };
            return Err(e);
        }
        let arena = Self {
            rw: NonNull::new(rw.cast()).ok_or(io::ErrorKind::OutOfMemory)?,
            rx: NonNull::new(rx.cast()).ok_or(io::ErrorKind::OutOfMemory)?,
            len,
            large,
        };
        // SAFETY: `rx` is `len` bytes of our own second view.
        if unsafe { libc::mprotect(rx, len, libc::PROT_READ | libc::PROT_EXEC) } != 0 {
            return Err(io::Error::last_os_error()); // drop unmaps both
        }
        Ok(arena)
    }
    /// Asks the host to make one large page of the 2 MiB around `offset`: code that
    /// is spread over megabytes needs many TLB entries otherwise, and each of its
    /// pages a fault in either view. Best done while it is empty. Hosts that cannot
    /// do it leave things as they are.
    pub fn collapse(&self, offset: usize) {
        const MADV_COLLAPSE: libc::c_int = 25; // Linux 6.1
        let start = offset / HUGE * HUGE;
        if start + HUGE > self.len {
            return;
        }
        // SAFETY: inside the executable view; what it holds does not change.
        unsafe { libc::madvise(self.rx.as_ptr().add(start).cast(), HUGE, MADV_COLLAPSE) };
    }
    /// The host makes large pages of it by itself.
    pub fn is_large(&self) -> bool {
        self.large
    }
    /// Addresses in the writable view of the 2 MiB around `offset`.
    pub fn large_page(&self, offset: usize) -> Option<std::ops::Range<u64>> {
        let start = offset / HUGE * HUGE;
        let at = self.rw.as_ptr() as u64 + start as u64;
        (start + HUGE <= self.len).then_some(at..at + HUGE as u64)
    }
    /// Start of the writable view.
    pub fn rw(&self) -> *mut u8 {
        self.rw.as_ptr()
    }
    /// Start of the executable view.
    pub fn rx(&self) -> *const u8 {
        self.rx.as_ptr()
    }
    /// Bytes in each view.
    pub fn len(&self) -> usize {
        self.len
    }
    /// An arena is never empty; here for symmetry with [`Arena::len`].
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Executable addresses, for [`crate::fault::register`].
    pub fn rx_range(&self) -> std::ops::Range<usize> {
        let start = self.rx.as_ptr() as usize;
        start..start + self.len
    }
    /// Copies `code` to `offset`; returns its executable address, or `None`
    /// if it does not fit.
    pub fn write(&mut self, offset: usize, code: &[u8]) -> Option<u64> {
        let end = offset.checked_add(code.len())?;
        if end > self.len {
            return None;
        }
        // SAFETY: `offset..end` was just checked to lie inside the writable
        // view, which nothing else borrows (`&mut self`); `code` is a Rust
        // slice and cannot overlap it.
        unsafe {
            ptr::copy_nonoverlapping(code.as_ptr(), self.rw.as_ptr().add(offset), code.len());
        }
        Some(self.rx.as_ptr() as u64 + offset as u64)
    }
}

impl Arena {
    /// Replaces four bytes of an aligned quadword at once while other threads may
    /// execute them.
    pub fn patch(&mut self, offset: usize, value: u32) {
        let (start, within) = (offset & !7, offset & 7);
        assert!(within <= 4 && start + 8 <= self.len);
        // SAFETY: aligned and inside the writable view (checked above), which
        // is only ever accessed through raw pointers.
        let quadword = unsafe { AtomicU64::from_ptr(self.rw.as_ptr().add(start).cast()) };
        // Nobody else writes: `&mut self`.
        let mut bytes = quadword.load(Ordering::Relaxed).to_le_bytes();
        bytes[within..within + 4].copy_from_slice(&value.to_le_bytes());
        quadword.store(u64::from_le_bytes(bytes), Ordering::Release);
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: both views are `len` bytes, mapped by `new` and unmapped only
        // here; users keep the arena alive while they execute its code.
        unsafe {
            libc::munmap(self.rw.as_ptr().cast(), self.len);
            libc::munmap(self.rx.as_ptr().cast(), self.len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_written_through_one_view_runs_through_the_other() {
        let mut a = Arena::new(1).unwrap();
        assert_eq!(a.len(), 4096);
        // mov eax, 42; ret
        let at = a.write(16, &[0xb8, 42, 0, 0, 0, 0xc3]).unwrap();
        // SAFETY: the bytes above are a complete function of this type.
        let f: extern "sysv64" fn() -> u32 = unsafe { std::mem::transmute(at as usize) };
        assert_eq!(f(), 42);
    }

    #[test]
    fn writes_outside_are_refused() {
        let mut a = Arena::new(4096).unwrap();
        assert!(a.write(4095, &[0, 0]).is_none());
        assert!(a.write(usize::MAX, &[0, 0]).is_none());
        assert!(a.write(4095, &[0]).is_some());
    }
}
