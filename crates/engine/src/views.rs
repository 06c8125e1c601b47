//! Where one vCPU's memory lies: [`Ctx`] and the arrays of the TLB's first level, so
//! that generated code finds all of them at fixed distances from GS.
//!
//! User accesses have an array for each of the last few address spaces. So there are
//! as many *views*: the same memory once more, with another user array behind it. A
//! process switch gives GS another base, and a check in generated code knows where
//! its array is.
#![allow(unsafe_code, reason = "maps memory")]

use crate::ctx::Ctx;
use libc::{
    MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, MREMAP_FIXED,
    MREMAP_MAYMOVE, PROT_NONE, PROT_READ, PROT_WRITE,
};
use softmmu::tlb::{ARRAY_BYTES, Bank, KERNEL_BANKS, Room, Rooms, USER_SPACES};
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use x86::paging::PAGE_SIZE;

/// Bytes that begin each view and are the same in all: the context and the kernel's
/// arrays.
const SHARED: usize = KERNEL + KERNEL_BANKS * ARRAY_BYTES;
/// Where in it the kernel's arrays begin.
const KERNEL: usize = size_of::<Ctx>().next_multiple_of(PAGE_SIZE as usize);
/// From one view to the next.
const STRIDE: usize = SHARED + ARRAY_BYTES;

/// Where a view has the array of a bank.
pub(crate) const fn array(bank: Bank) -> usize {
    match bank {
        Bank::User => SHARED,
        kernel => KERNEL + (kernel as usize - 1) * ARRAY_BYTES,
    }
}

/// All views of one vCPU's memory, all zero at first.
pub(crate) struct Views(NonNull<libc::c_void>);

// SAFETY: the mapping lives as long as this and belongs to no thread; only addresses
// are handed out.
unsafe impl Send for Views {}
// SAFETY: as above.
unsafe impl Sync for Views {}

impl Views {
    /// Maps them.
    ///
    /// # Errors
    /// The host's `mmap` or `mremap` refused.
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        const RW: i32 = PROT_READ | PROT_WRITE;
        const LAZY: i32 = MAP_ANONYMOUS | MAP_NORESERVE;
        let len = USER_SPACES * STRIDE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let space = unsafe {
            let flags = MAP_PRIVATE | LAZY;
            libc::mmap(std::ptr::null_mut(), len, PROT_NONE, flags, -1, 0)
        };
        let views = Self(mapped(space)?);
        let shared = views.at(0);
        for view in 0..USER_SPACES {
            let at = views.at(view);
            // SAFETY: all of it replaces space that is ours and unused. An old size
            // of 0 on a shared mapping makes a second mapping of the same pages
            // (mremap(2)).
            unsafe {
                mapped(match view {
                    0 => libc::mmap(at, SHARED, RW, MAP_SHARED | LAZY | MAP_FIXED, -1, 0),
                    _ => libc::mremap(shared, 0, SHARED, MREMAP_MAYMOVE | MREMAP_FIXED, at),
                })?;
                let user = at.byte_add(SHARED);
                let flags = MAP_PRIVATE | LAZY | MAP_FIXED;
                mapped(libc::mmap(user, ARRAY_BYTES, RW, flags, -1, 0))?;
            }
        }
        Ok(Arc::new(views))
    }

    /// The context as the first view has it.
    pub(crate) fn ctx(&self) -> *mut Ctx {
        self.0.as_ptr().cast()
    }

    fn at(&self, view: usize) -> *mut libc::c_void {
        assert!(view < USER_SPACES);
        // SAFETY: inside the mapping.
        unsafe { self.0.as_ptr().byte_add(view * STRIDE) }
    }

    /// The arrays. To be called once.
    pub(crate) fn rooms(self: &Arc<Self>) -> Rooms {
        let room = |view, bank| {
            // SAFETY: inside the mapping, aligned, zero, and nobody else's.
            unsafe {
                let at = NonNull::new_unchecked(self.at(view).byte_add(array(bank)));
                Room::new(at.cast(), self.clone())
            }
        };
        Rooms {
            kernel: [Bank::Kernel, Bank::KernelAc].map(|bank| room(0, bank)),
            users: (0..USER_SPACES).map(|view| room(view, Bank::User)).collect(),
        }
    }
}

/// What GS base has to be for the user entries in force.
pub(crate) fn gs_base(ctx: &Ctx) -> u64 {
    (&raw const *ctx as usize + ctx.tlb.user_room() * STRIDE) as u64
}

fn mapped(at: *mut libc::c_void) -> io::Result<NonNull<libc::c_void>> {
    if at == MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(at).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

impl Drop for Views {
    fn drop(&mut self) {
        // SAFETY: the mapping made by `new`.
        unsafe { libc::munmap(self.0.as_ptr(), USER_SPACES * STRIDE) };
    }
}
