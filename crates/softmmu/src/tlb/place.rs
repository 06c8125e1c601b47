//! Where the arrays of the first level lie in memory.
//!
//! Generated code finds them at fixed distances from its stack pointer, which takes
//! neither an instruction nor a register: each user array has a stack for it in
//! front and the kernel's arrays behind it. These are the same memory in all places,
//! so that a process switch, which selects another user array, selects a stack.
#![allow(unsafe_code, reason = "maps memory")]

use super::KERNEL_BANKS;
use super::first::{ARRAY_SIZE, Array, Entry};
use std::alloc::{Layout, handle_alloc_error};
use std::ptr::{self, NonNull};

/// Bytes of the stack in front of a user array: for calls inside generated code and
/// for signals.
const STACK: usize = 64 << 10;
/// A page in front of the stack that nobody may touch.
const GUARD: usize = 4096;
/// Bytes from one array to the next.
pub const BETWEEN_ARRAYS: usize = (FRONT + ARRAY_SIZE).next_multiple_of(4096);
/// Bytes in front of an array: with them its entries begin at a cache line.
const FRONT: usize = 64 - size_of::<Entry>();
const KERNEL: usize = KERNEL_BANKS * BETWEEN_ARRAYS;
const PLACE: usize = GUARD + STACK + BETWEEN_ARRAYS + KERNEL;

/// A mapping of zeros, gone when this is dropped.
struct Mapping {
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to no thread; there is no access through it but by its
// one owner.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(len: usize, sharing: libc::c_int) -> Self {
        let flags = sharing | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe { libc::mmap(ptr::null_mut(), len, access, flags, -1, 0) };
        let at = NonNull::new(at.cast()).filter(|_| at != libc::MAP_FAILED);
        let at = at.unwrap_or_else(|| out_of_memory());
        Self { at, len }
    }

    /// The address `offset` bytes from its start.
    fn byte(&self, offset: usize) -> NonNull<u8> {
        assert!(offset <= self.len);
        // SAFETY: inside the mapping or at its end.
        unsafe { self.at.add(offset) }
    }

    fn array(&self, offset: usize) -> NonNull<Array> {
        assert!(offset + ARRAY_SIZE <= self.len);
        self.byte(offset).cast()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `new` and used by nobody any more.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}

fn out_of_memory() -> ! {
    handle_alloc_error(Layout::new::<[u8; PLACE]>())
}

/// The memory of the kernel's arrays.
pub(super) struct Kernel(Mapping);

impl Kernel {
    pub(super) fn new() -> Self {
        Self(Mapping::new(KERNEL, libc::MAP_SHARED))
    }

    /// One of the arrays: all zeros, to be used while this is there.
    pub(super) fn array(&self, bank: usize) -> NonNull<Array> {
        self.0.array(FRONT + bank * BETWEEN_ARRAYS)
    }
}

/// The memory of a user array with the kernel's behind it.
pub(super) struct Place(Mapping);

impl Place {
    pub(super) fn new(kernel: &Kernel) -> Self {
        let place = Mapping::new(PLACE, libc::MAP_PRIVATE);
        let behind = place.byte(PLACE - KERNEL).as_ptr().cast();
        let how = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: the guard and what the second mapping replaces are in our own
        // mapping, which nobody knows yet. An old size of 0 on a shared mapping makes
        // a second mapping of the same pages (mremap(2)).
        let made = unsafe {
            libc::mprotect(place.at.as_ptr().cast(), GUARD, libc::PROT_NONE) == 0
                && libc::mremap(kernel.0.at.as_ptr().cast(), 0, KERNEL, how, behind) == behind
        };
        if !made {
            out_of_memory();
        }
        Self(place)
    }

    /// The user array: all zeros, to be used while this is there.
    pub(super) fn array(&self) -> NonNull<Array> {
        self.0.array(GUARD + STACK + FRONT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What lies `offset` bytes from the user array.
    fn byte(place: &Place, offset: isize) -> *mut u8 {
        // SAFETY: the callers stay inside the place.
        unsafe { place.array().cast::<u8>().offset(offset).as_ptr() }
    }

    #[test]
    fn the_kernels_arrays_are_behind_each_user_array() {
        let kernel = Kernel::new();
        let places = [Place::new(&kernel), Place::new(&kernel)];
        for bank in 0..KERNEL_BANKS {
            let own = kernel.array(bank).cast::<u8>().as_ptr();
            let behind = ((bank + 1) * BETWEEN_ARRAYS) as isize;
            // SAFETY: all inside their mappings.
            unsafe {
                *own = bank as u8 + 1;
                assert_eq!(*byte(&places[0], behind), bank as u8 + 1);
                *byte(&places[1], behind) = 9;
                assert_eq!(*own, 9);
            }
        }
    }

    #[test]
    fn user_arrays_and_stacks_are_their_own() {
        let kernel = Kernel::new();
        let places = [Place::new(&kernel), Place::new(&kernel)];
        for offset in [-(STACK as isize), -1, 0, ARRAY_SIZE as isize - 1] {
            // SAFETY: all inside their mappings.
            unsafe {
                *byte(&places[0], offset) = 1;
                assert_eq!(*byte(&places[1], offset), 0);
            }
        }
    }
}
