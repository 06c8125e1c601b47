//! Guest memory of a case.

use super::layout::RAM_SIZE;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Page-aligned zeroed memory, reached by raw pointer only, as the contract
/// of [`crate::Vm::set_memory`] demands.
pub struct Ram {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: `Ram` owns its allocation; all access is by volatile byte copies.
unsafe impl Send for Ram {}
// SAFETY: as above; a race with the guest is a race on guest data only.
unsafe impl Sync for Ram {}

impl Ram {
    /// [`RAM_SIZE`] bytes.
    pub fn new() -> Self {
        Self::with_size(RAM_SIZE as usize)
    }

    /// `size` bytes, at least one page.
    pub fn with_size(size: usize) -> Self {
        let size = size.max(4096).next_multiple_of(4096);
        // 2 MiB alignment lets a backend use large host pages.
        let align = if size >= 2 << 20 { 2 << 20 } else { 4096 };
        let Ok(layout) = Layout::from_size_align(size, align) else {
            unreachable!("a power-of-two alignment and a size of megabytes");
        };
        // SAFETY: the layout's size is not zero.
        let raw = unsafe { alloc_zeroed(layout) };
        match NonNull::new(raw) {
            Some(base) => Self { base, layout },
            None => handle_alloc_error(layout),
        }
    }

    /// Host-virtual address of the first byte.
    pub fn hva(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.layout.size() as u64
    }

    fn at(&self, offset: u64) -> Option<*mut u8> {
        if offset >= self.size() {
            return None;
        }
        // SAFETY: `offset` is inside the allocation.
        Some(unsafe { self.base.as_ptr().add(offset as usize) })
    }

    /// Copies out; bytes beyond the end read as 0.
    pub fn read(&self, offset: u64, out: &mut [u8]) {
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = self.at(offset + i as u64).map_or(0, |p| {
                // SAFETY: `at` returned a pointer into the allocation.
                unsafe { p.read_volatile() }
            });
        }
    }

    /// Copies in; bytes beyond the end are dropped.
    pub fn write(&self, offset: u64, data: &[u8]) {
        for (i, byte) in data.iter().enumerate() {
            if let Some(p) = self.at(offset + i as u64) {
                // SAFETY: `at` returned a pointer into the allocation.
                unsafe { p.write_volatile(*byte) };
            }
        }
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: allocated in `with_size` with this layout; the VM, declared
        // before the RAM in `Guest`, is gone.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}
