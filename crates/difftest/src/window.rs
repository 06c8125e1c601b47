//! The reserved address range, mapped on the host.
#![allow(unsafe_code, reason = "maps and fills a fixed address range")]

use std::io;
use std::ptr;

use crate::layout::{
    CODE, CODE_LEN, DATA, DATA_LEN, DATA_PAGES, PAGE, Perm, RESERVED, RESERVED_LEN,
};

/// The data pages and code pages at their fixed addresses, plus a second,
/// always writable view of both for the test to fill and read them.
#[derive(Debug)]
pub struct Window {
    data: *mut u8,
    code: *mut u8,
}

// SAFETY: the mappings belong to no thread; `Window` is used by `&mut`.
unsafe impl Send for Window {}

fn check(p: *mut libc::c_void) -> io::Result<*mut libc::c_void> {
    if p == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(p)
    }
}

fn map_shared(at: u64, len: usize) -> io::Result<*mut u8> {
    // SAFETY: replaces part of the range that `Window::new` reserved; nothing
    // else lives there. MREMAP with an old size of 0 makes the second view.
    unsafe {
        check(libc::mmap(
            at as *mut _,
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_POPULATE,
            -1,
            0,
        ))?;
        let view = check(libc::mremap(at as *mut _, 0, len, libc::MREMAP_MAYMOVE))?;
        Ok(view.cast())
    }
}

fn protect(at: u64, len: usize, prot: i32) -> io::Result<()> {
    // SAFETY: `at..at+len` is one of our mappings in the reserved range.
    if unsafe { libc::mprotect(at as *mut _, len, prot) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

impl Window {
    /// Reserves the range and maps the pages. Once per process: a second
    /// window fails because the range is taken.
    ///
    /// # Errors
    /// The range is in use or the host refuses.
    pub fn new() -> io::Result<Self> {
        // SAFETY: NOREPLACE makes this fail rather than replace a mapping.
        let got = unsafe {
            check(libc::mmap(
                RESERVED as *mut _,
                RESERVED_LEN as usize,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
                -1,
                0,
            ))?
        };
        if got as u64 != RESERVED {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let data = map_shared(DATA, DATA_LEN)?;
        let code = map_shared(CODE, CODE_LEN)?;
        for (i, perm) in DATA_PAGES.iter().enumerate() {
            let prot = match perm {
                Perm::None => libc::PROT_NONE,
                Perm::Read => libc::PROT_READ,
                Perm::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
            };
            protect(DATA + i as u64 * PAGE, PAGE as usize, prot)?;
        }
        protect(CODE, CODE_LEN, libc::PROT_READ | libc::PROT_EXEC)?;
        let window = Self { data, code };
        // SAFETY: `data` and `code` are the fresh writable views, of these
        // lengths.
        unsafe {
            ptr::write_bytes(window.data, 0, DATA_LEN);
            ptr::write_bytes(window.code, 0xcc, CODE_LEN);
        }
        Ok(window)
    }
    /// Fills the data pages.
    pub fn set_data(&mut self, bytes: &[u8]) {
        let n = bytes.len().min(DATA_LEN);
        // SAFETY: the view is DATA_LEN bytes and no instruction runs meanwhile.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.data, n) };
    }
    /// Reads the data pages.
    pub fn data(&self) -> Vec<u8> {
        let mut out = vec![0; DATA_LEN];
        // SAFETY: as in `set_data`.
        unsafe { ptr::copy_nonoverlapping(self.data, out.as_mut_ptr(), DATA_LEN) };
        out
    }
    /// Places code at `rip`; false if it does not fit.
    pub fn set_code(&mut self, rip: u64, bytes: &[u8]) -> bool {
        let Some(offset) = rip.checked_sub(CODE) else {
            return false;
        };
        if offset + bytes.len() as u64 > CODE_LEN as u64 {
            return false;
        }
        // SAFETY: inside the writable view of CODE_LEN bytes.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), self.code.add(offset as usize), bytes.len());
        }
        true
    }
}
