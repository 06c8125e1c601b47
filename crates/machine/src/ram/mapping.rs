//! The host mapping: one range of addresses, in which the backends lie one
//! after the other.

use crate::memory::{Merge, Part};
use crate::outcome::{Error, Result};
use std::io::Error as IoError;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

/// Size of a large page.
const LARGE: u64 = 2 << 20;

/// A part that is mapped.
struct Mapped {
    /// Where the next one begins.
    end: usize,
    /// Its pages are a file's.
    shared: bool,
    /// It is nobody else's, of ordinary pages.
    anonymous: bool,
}

/// The host mapping.
pub(super) struct Mapping {
    /// First byte of guest RAM.
    pub(super) base: NonNull<u8>,
    /// Bytes of guest RAM.
    pub(super) len: usize,
    parts: Vec<Mapped>,
    /// What was reserved, to be given back.
    reserved: (NonNull<u8>, usize),
}

// SAFETY: the mapping belongs to this value until it is dropped, and all
// access goes through raw-pointer copies; races with the guest concern bytes
// only, which have no invalid values.
unsafe impl Send for Mapping {}
// SAFETY: as above; no method hands out references into the mapping.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the parts, `bytes` in all.
    pub(super) fn new(parts: &[Part], bytes: u64) -> Result<Self> {
        let refuse = |why: String| Error::Ram { bytes, why };
        // What is aligned in the guest is aligned in the host: large pages of both
        // coincide, which the page tables of a backend with hardware need.
        let largest = parts.iter().map(|p| p.page).fold(LARGE, u64::max) as usize;
        let len = usize::try_from(bytes).ok();
        let sizes = len.and_then(|len| Some((len, len.checked_add(largest)?)));
        let (len, room) = sizes.ok_or_else(|| refuse("too large for this host".into()))?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's
        // choice touches no existing memory.
        let reserved =
            unsafe { libc::mmap(std::ptr::null_mut(), room, libc::PROT_NONE, flags, -1, 0) };
        let reserved = match NonNull::new(reserved.cast::<u8>()) {
            Some(reserved) if reserved.as_ptr().cast() != libc::MAP_FAILED => reserved,
            _ => {
                let source = IoError::last_os_error();
                return Err(refuse(format!("the host cannot reserve it ({source})")));
            }
        };
        // Huge pages want aligned addresses.
        let padding = reserved.as_ptr().align_offset(largest);
        // SAFETY: the padding is below `largest`, so this lies in the room.
        let base = unsafe { reserved.add(padding) };
        let mut mapping = Self {
            base,
            len,
            parts: Vec::new(),
            reserved: (reserved, room),
        };
        let mut at = 0;
        for part in parts {
            let size = part.backend.size as usize;
            assert!(at + size <= len, "backends are as large as the RAM");
            // SAFETY: the sum of all sizes is inside the room.
            map_part(part, unsafe { base.add(at) })?;
            at += size;
            mapping.parts.push(Mapped {
                end: at,
                shared: part.backend.share,
                anonymous: part.is_anonymous(),
            });
        }
        Ok(mapping)
    }

    /// All of these bytes are nobody else's.
    pub(super) fn is_anonymous(&self, bytes: Range<u64>) -> bool {
        let mut start = 0;
        self.parts.iter().all(|part| {
            let inside = bytes.start < part.end as u64 && start < bytes.end;
            start = part.end as u64;
            part.anonymous || !inside
        })
    }

    /// Gives whole pages back to the host. They read as zero afterwards, those
    /// of a private file as the file does.
    pub(super) fn discard(&self, offset: usize, len: usize) -> std::io::Result<()> {
        let end = offset.checked_add(len).filter(|&end| end <= self.len);
        let end = end.ok_or_else(|| IoError::other("not in RAM"))?;
        let mut first = offset;
        for part in &self.parts {
            let last = end.min(part.end);
            if first >= last {
                continue;
            }
            // What is shared has its pages in a file, from where they must go.
            let advice = match part.shared {
                true => libc::MADV_REMOVE,
                false => libc::MADV_DONTNEED,
            };
            // SAFETY: the range lies inside the mapping. Its pages are
            // replaced at the same addresses; races with the guest concern
            // bytes only, as all accesses to guest RAM do.
            let done = unsafe {
                let at = self.base.as_ptr().add(first);
                libc::madvise(at.cast(), last - first, advice)
            };
            if done != 0 {
                return Err(IoError::last_os_error());
            }
            first = last;
        }
        Ok(())
    }
}

/// Maps a part at `at`, which lies in a reservation of this module.
fn map_part(part: &Part, at: NonNull<u8>) -> Result<()> {
    let backend = &part.backend;
    let (at, size) = (at.as_ptr().cast(), backend.size as usize);
    let mut flags = libc::MAP_FIXED;
    flags |= match backend.share {
        true => libc::MAP_SHARED,
        false => libc::MAP_PRIVATE,
    };
    // Of huge pages there are few: better to hear now that there are not
    // enough than to die of it later.
    if !backend.reserve && !part.is_huge() {
        flags |= libc::MAP_NORESERVE;
    }
    let fd = match &part.file {
        Some(file) => file.as_raw_fd(),
        None => {
            flags |= libc::MAP_ANONYMOUS;
            -1
        }
    };
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let offset = part.file_offset() as libc::off_t;
    // SAFETY: the range belongs to the caller's reservation, in which nothing
    // else lies; replacing its pages touches nobody's memory.
    let mapped = unsafe { libc::mmap(at, size, protection, flags, fd, offset) };
    if mapped == libc::MAP_FAILED {
        let why = IoError::last_os_error();
        return Err(backend.refuse(match part.is_huge() {
            true => format!(
                "the host has too few free huge pages of {} KiB ({why}); \
                 /proc/meminfo counts them, sysctl vm.nr_hugepages sets their number",
                part.page >> 10
            ),
            false => format!("the host cannot map it ({why})"),
        }));
    }
    advise(part, at, size)
}

fn advise(part: &Part, at: *mut libc::c_void, size: usize) -> Result<()> {
    let backend = &part.backend;
    let advise = |advice| {
        // SAFETY: the range was mapped by the caller and is in nobody's use;
        // none of these changes its contents.
        match unsafe { libc::madvise(at, size, advice) } {
            0 => Ok(()),
            _ => Err(IoError::last_os_error()),
        }
    };
    if !backend.dump {
        // A host that cannot leave it out dumps more than was asked for.
        let _ = advise(libc::MADV_DONTDUMP);
    }
    if part.file.is_none() {
        // Large pages spare the host's TLB and most of the faults of first
        // touches: a tenth of the CPU time of a Debian boot. A host without
        // them is slower.
        let _ = advise(libc::MADV_HUGEPAGE);
    }
    if backend.can_merge() && backend.merge != Merge::Off {
        let merged = advise(libc::MADV_MERGEABLE);
        if let (Err(why), Merge::On) = (merged, backend.merge) {
            return Err(backend.refuse(format!(
                "merge=on: the host's kernel does not merge pages ({why})"
            )));
        }
    }
    if backend.prealloc {
        advise(libc::MADV_POPULATE_WRITE).map_err(|why| {
            backend.refuse(match why.raw_os_error() {
                Some(libc::EINVAL) => "prealloc=on: needs Linux 5.14 on the host".into(),
                _ => format!("prealloc=on: the host does not have the memory ({why})"),
            })
        })?;
    }
    Ok(())
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let (base, len) = self.reserved;
        // SAFETY: the reservation was made in `new` and all parts lie in it;
        // devices hold a reference to it, and the machine drops vCPUs and VM,
        // which used it, before its RAM.
        unsafe { libc::munmap(base.as_ptr().cast(), len) };
    }
}
