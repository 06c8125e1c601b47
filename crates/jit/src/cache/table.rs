//! Memory of jump caches.
#![allow(unsafe_code, reason = "maps memory")]

use crate::arena::HUGE;
use std::alloc::{Layout, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// One entry; generated code knows the layout: the linear address, and the code
/// address, which only a hit uses and which is 0 in an entry that is not filled.
pub(super) type JumpEntry = [u64; 2];

/// Bytes of the space in which a large page surely lies.
const SPACE: usize = 2 * HUGE;

/// A large page, where the host has them: jumps come to a table's entries from
/// all over the guest's code, so that small pages would miss the host's TLB.
#[derive(Debug)]
struct Slab(NonNull<libc::c_void>);

// SAFETY: the mapping lives as long as the slab and belongs to no thread; who
// holds a table has its part for himself.
unsafe impl Send for Slab {}
// SAFETY: as above.
unsafe impl Sync for Slab {}

impl Slab {
    fn new(advice: i32) -> Self {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let space = unsafe {
            libc::mmap(
                ptr::null_mut(),
                SPACE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        let mapped = NonNull::new(space).filter(|_| space != libc::MAP_FAILED);
        let Some(space) = mapped else {
            handle_alloc_error(Layout::new::<[u8; SPACE]>())
        };
        let slab = Self(space);
        // SAFETY: inside the mapping made above. That the host has no large
        // pages changes nothing but speed.
        unsafe { libc::madvise(slab.page().as_ptr(), HUGE, advice) };
        slab
    }

    /// The large page: zero until it is written.
    fn page(&self) -> NonNull<libc::c_void> {
        let front = (self.0.as_ptr() as usize).wrapping_neg() % HUGE;
        // SAFETY: less than HUGE of the mapping's two.
        unsafe { self.0.byte_add(front) }
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        // SAFETY: the mapping made by `new`; no table of it is left.
        unsafe { libc::munmap(self.0.as_ptr(), SPACE) };
    }
}

/// A part of a slab with `N` entries, all zero at first.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    slab: Arc<Slab>,
    part: usize,
}

impl<const N: usize> Table<N> {
    const BYTES: usize = N * size_of::<JumpEntry>();

    fn start(&self) -> NonNull<[JumpEntry; N]> {
        // SAFETY: parts lie inside the slab's page, see `Tables::next`.
        unsafe { self.slab.page().byte_add(self.part * Self::BYTES).cast() }
    }
}

impl<const N: usize> Deref for Table<N> {
    type Target = [JumpEntry; N];
    fn deref(&self) -> &Self::Target {
        // SAFETY: mapped, aligned and any bytes are integers; nobody else has
        // this part.
        unsafe { self.start().as_ref() }
    }
}

impl<const N: usize> DerefMut for Table<N> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        // SAFETY: as in `deref`.
        unsafe { self.start().as_mut() }
    }
}

/// Gives out tables, several of a slab.
#[derive(Debug)]
pub(super) struct Tables<const N: usize> {
    slab: Option<Arc<Slab>>,
    /// Those of the slab given out.
    used: usize,
    /// MADV_HUGEPAGE or MADV_NOHUGEPAGE.
    advice: i32,
}

impl<const N: usize> Default for Tables<N> {
    fn default() -> Self {
        Self::advised(libc::MADV_HUGEPAGE)
    }
}

impl<const N: usize> Tables<N> {
    /// For tables that stay empty, and so take hardly any memory.
    pub fn sparse() -> Self {
        Self::advised(libc::MADV_NOHUGEPAGE)
    }

    fn advised(advice: i32) -> Self {
        Self {
            slab: None,
            used: 0,
            advice,
        }
    }

    /// An empty table.
    pub fn next(&mut self) -> Table<N> {
        const { assert!(HUGE.is_multiple_of(Table::<N>::BYTES)) };
        if self.used == HUGE / Table::<N>::BYTES {
            *self = Self::advised(self.advice);
        }
        let slab = || Arc::new(Slab::new(self.advice));
        let slab = self.slab.get_or_insert_with(slab);
        self.used += 1;
        Table {
            slab: slab.clone(),
            part: self.used - 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_empty_and_apart() {
        let mut tables = Tables::<0x1_0000>::default();
        let mut all: Vec<Table<0x1_0000>> = (0..5).map(|_| tables.next()).collect();
        drop(tables);
        for (n, table) in all.iter_mut().enumerate() {
            assert!(table.iter().all(|e| *e == [0, 0]), "{n}");
            table.fill([n as u64; 2]);
        }
        for (n, table) in all.iter().enumerate() {
            assert!(table.iter().all(|e| *e == [n as u64; 2]), "{n}");
        }
    }
}
