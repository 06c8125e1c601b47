//! Guest RAM: one private anonymous mapping, handed to the backend in slots.
#![allow(
    unsafe_code,
    reason = "owns the mapping and copies through raw pointers"
)]

use crate::layout::{Layout, RamRange};
use crate::outcome::{Error, Result};
use std::ptr::NonNull;

/// The mapping. Untouched pages cost nothing.
pub struct GuestRam {
    base: NonNull<u8>,
    len: usize,
    ranges: Vec<RamRange>,
}

// SAFETY: the mapping belongs to this value until it is dropped, and all
// access goes through raw-pointer copies; races with the guest concern bytes
// only, which have no invalid values.
unsafe impl Send for GuestRam {}
// SAFETY: as above; no method hands out references into the mapping.
unsafe impl Sync for GuestRam {}

/// Guest memory that is not RAM was addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotRam {
    /// Guest-physical start of the access.
    pub gpa: u64,
}

impl GuestRam {
    /// Reserves the RAM of `layout`, all zero.
    pub fn new(layout: &Layout) -> Result<Self> {
        let bytes = layout.backing_size();
        let refuse = |why: String| Error::Ram { bytes, why };
        let len = usize::try_from(bytes).map_err(|_| refuse("too large for this host".into()))?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's
        // choice touches no existing memory.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            let source = std::io::Error::last_os_error();
            return Err(refuse(format!("the host cannot reserve it ({source})")));
        }
        // SAFETY: the range was mapped above; advice changes no contents.
        unsafe { libc::madvise(base, len, libc::MADV_DONTDUMP) };
        let base = NonNull::new(base.cast()).ok_or_else(|| refuse("mapped at 0".into()))?;
        Ok(Self {
            base,
            len,
            ranges: layout.ranges(),
        })
    }

    /// The slots: guest-physical range and host address of its first byte.
    pub fn slots(&self) -> impl Iterator<Item = (RamRange, u64)> + '_ {
        let base = self.base.as_ptr() as u64;
        self.ranges.iter().map(move |r| (*r, base + r.offset))
    }

    /// Copies `bytes` to guest memory.
    pub fn write(&self, gpa: u64, bytes: &[u8]) -> std::result::Result<(), NotRam> {
        let to = self.host(gpa, bytes.len())?;
        // SAFETY: `host` checked that the destination lies inside the
        // mapping; `bytes` is not inside it, since no references into the
        // mapping exist.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    /// Copies guest memory to `bytes`.
    #[cfg(test)]
    pub fn read(&self, gpa: u64, bytes: &mut [u8]) -> std::result::Result<(), NotRam> {
        let from = self.host(gpa, bytes.len())?;
        // SAFETY: as in `write`, with source and destination exchanged.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// Host address of a range that lies in one piece of RAM.
    fn host(&self, gpa: u64, len: usize) -> std::result::Result<*mut u8, NotRam> {
        let end = gpa.checked_add(len as u64).ok_or(NotRam { gpa })?;
        let range = self
            .ranges
            .iter()
            .find(|r| gpa >= r.gpa && end <= r.gpa + r.size);
        let range = range.ok_or(NotRam { gpa })?;
        let offset = (range.offset + (gpa - range.gpa)) as usize;
        debug_assert!(offset + len <= self.len);
        // SAFETY: ranges lie inside the mapping (`Layout::backing_size`), so
        // the offset stays in bounds of one allocation.
        Ok(unsafe { self.base.as_ptr().add(offset) })
    }
}

impl Drop for GuestRam {
    fn drop(&mut self) {
        // SAFETY: `base` and `len` are the mapping made in `new`; the machine
        // drops vCPUs and VM, which used it, before its RAM.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_only_inside_one_range() {
        let layout = Layout::new(4 << 20, 39).unwrap();
        let ram = GuestRam::new(&layout).unwrap();
        ram.write(0x10_0000, b"hello").unwrap();
        let mut back = [0; 5];
        ram.read(0x10_0000, &mut back).unwrap();
        assert_eq!(&back, b"hello");
        assert_eq!(ram.write(0xa_0000, b"x"), Err(NotRam { gpa: 0xa_0000 }));
        assert!(ram.write(0x9_ffff, b"xy").is_err());
        assert!(ram.write((4 << 20) - 1, b"x").is_ok());
        assert!(ram.write((4 << 20) - 1, b"xy").is_err());
        assert!(ram.write(u64::MAX, b"xy").is_err());
    }
}
