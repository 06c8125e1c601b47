//! One array of the first level, whose layout translated code knows.
#![allow(unsafe_code, reason = "an array in memory that somebody else maps")]

use std::hash::{BuildHasher, RandomState};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::LazyLock;
use x86::paging::{PAGE_MASK, PAGE_SIZE};

/// Entries per first-level array.
pub const L1_ENTRIES: usize = 8192;
/// What an address is shifted right by and the index XORed with for the other
/// place of its page. Where the result is 0 there is no other.
pub const OTHER_SHIFT: u8 = 12 + L1_ENTRIES.trailing_zeros() as u8;

/// A first-level entry.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Linear page address if reads hit, else an unmatchable tag.
    pub read: u64,
    /// Linear page address if writes hit, else an unmatchable tag.
    pub write: u64,
    /// Host-virtual address of the page.
    pub host: u64,
    /// Guest-physical page address, [`FILLED`] and [`GLOBAL`]; 0 if empty.
    gpa: u64,
}

/// The entry was filled.
const FILLED: u64 = 1;
/// Its mapping is global.
const GLOBAL: u64 = 2;

impl Entry {
    /// For the page at `la`, of which writes may hit if `write`.
    pub(super) fn new(la: u64, write: bool, host: u64, gpa: u64, global: bool) -> Self {
        let tag = la & !PAGE_MASK;
        Self {
            read: tag,
            write: if write { tag } else { empty_tag(index(la)) },
            host,
            gpa: gpa & !PAGE_MASK | FILLED | if global { GLOBAL } else { 0 },
        }
    }

    /// Matches nothing.
    const fn empty(index: usize) -> Self {
        let tag = empty_tag(index);
        Self {
            read: tag,
            write: tag,
            host: 0,
            gpa: 0,
        }
    }

    fn is_filled(&self) -> bool {
        self.gpa != 0
    }

    fn is_global(&self) -> bool {
        self.gpa & GLOBAL != 0
    }

    fn is_writable(&self) -> bool {
        self.is_filled() && self.write == self.read
    }
}

/// The tag that entry `index` can never match. Both places of pages 0 and 1 are the
/// entries 0 and 1; so other entries can be zeros, and what is not used of an array
/// takes no memory.
const fn empty_tag(index: usize) -> u64 {
    if index == 0 { PAGE_SIZE } else { 0 }
}

fn index(la: u64) -> usize {
    (la >> 12) as usize % L1_ENTRIES
}

/// Where a page goes that gave way at [`index`].
fn other(la: u64) -> usize {
    (la >> 12 ^ la >> OTHER_SHIFT) as usize % L1_ENTRIES
}

/// The entries, by bits 12..=24 of the linear address, see [`OTHER_SHIFT`].
#[repr(C)]
pub(super) struct Array {
    /// A copy of the entry of the page that the stack is in, which generated code
    /// makes and looks at for accesses relative to RSP.
    stack: Entry,
    entries: [Entry; L1_ENTRIES],
}

/// Bytes of an array.
pub(super) const ARRAY_SIZE: usize = size_of::<Array>();

impl Array {
    /// No entry is that of the stack's page.
    fn forget_stack(&mut self) {
        self.stack = Entry {
            read: *NO_STACK,
            write: *NO_STACK,
            host: nothing(),
            gpa: 0,
        };
    }
}

/// A tag that matches no address but those of one page among the 2^52 that are not
/// canonical, of which nobody knows. What is there instead of a fault is a page of
/// zeros.
static NO_STACK: LazyLock<u64> = LazyLock::new(|| {
    let random = RandomState::new().hash_one(0);
    random & !PAGE_MASK & !(1 << 47) | 1 << 63
});

/// Host address of memory that is nobody's.
fn nothing() -> u64 {
    static NOTHING: LazyLock<Box<Page>> = LazyLock::new(|| Box::new(Page([0; _])));
    &raw const **NOTHING as u64
}

/// A host page.
#[repr(align(4096))]
struct Page(#[expect(dead_code, reason = "generated code may read it")] [u8; PAGE_SIZE as usize]);

/// An array that lies in a [`super::place`].
struct Placed {
    at: NonNull<Array>,
}

// SAFETY: whoever made it gave the array to nobody else.
unsafe impl Send for Placed {}

impl Deref for Placed {
    type Target = Array;
    fn deref(&self) -> &Array {
        // SAFETY: `First::new` demands it. Generated code, which reads the array,
        // does so while nobody has a reference to it.
        unsafe { self.at.as_ref() }
    }
}

impl DerefMut for Placed {
    fn deref_mut(&mut self) -> &mut Array {
        // SAFETY: as above.
        unsafe { self.at.as_mut() }
    }
}

/// Indices, each at most once, so that a flush costs what was filled.
struct Filled {
    list: Vec<u16>,
    has: [u64; L1_ENTRIES / 64],
}

impl Filled {
    fn new() -> Self {
        Self {
            list: Vec::with_capacity(L1_ENTRIES),
            has: [0; _],
        }
    }

    fn add(&mut self, index: usize) {
        let (word, bit) = (&mut self.has[index / 64], 1 << (index % 64));
        if *word & bit == 0 {
            *word |= bit;
            self.list.push(index as u16);
        }
    }

    fn drain(&mut self, mut f: impl FnMut(usize)) {
        for index in self.list.drain(..).map(usize::from) {
            self.has[index / 64] &= !(1 << (index % 64));
            f(index);
        }
    }
}

/// How many entries let writes hit, by some bits of the guest-physical page: most
/// pages that get write-protected are not among them.
struct Writable([u16; Self::GROUPS]);

impl Writable {
    const GROUPS: usize = 2048;

    fn of(&mut self, gpa: u64) -> &mut u16 {
        &mut self.0[(gpa >> 12) as usize % Self::GROUPS]
    }
}

/// A first-level array.
pub(super) struct First {
    array: Placed,
    writable: Writable,
    /// Where mappings of one address space are, or were.
    local: Filled,
    /// Where global ones are, or were.
    global: Filled,
}

impl First {
    /// # Safety
    /// The array is all zeros, nobody else's, and there as long as this is used.
    pub(super) unsafe fn new(array: NonNull<Array>) -> Self {
        let mut array = Placed { at: array };
        array.entries[0] = Entry::empty(0);
        array.forget_stack();
        Self {
            array,
            writable: Writable([0; _]),
            local: Filled::new(),
            global: Filled::new(),
        }
    }

    /// Where translated code finds it.
    pub(super) fn address(&self) -> u64 {
        self.array.at.as_ptr() as u64
    }

    /// Host address of an access that lies in one page. Not of one in its other
    /// place: who asks here will insert it anew, where strings and gates look.
    pub(super) fn hit(&self, la: u64, len: u32, write: bool) -> Option<u64> {
        let e = &self.array.entries[index(la)];
        let offset = (if write { e.write } else { e.read }) ^ la;
        (offset <= PAGE_SIZE - u64::from(len)).then(|| e.host + offset)
    }

    /// Makes `new`, which is for the page at `la`, the entry that is looked at
    /// first; the one that was goes to its other place.
    pub(super) fn insert(&mut self, la: u64, new: Entry) {
        let index = index(la);
        let old = self.put(index, new);
        let same = (old.read ^ la) < PAGE_SIZE;
        let other = other(old.read);
        if same || !old.is_filled() || other == index {
            return;
        }
        let write = match old.is_writable() {
            true => old.read,
            false => empty_tag(other),
        };
        self.put(other, Entry { write, ..old });
    }

    fn put(&mut self, index: usize, new: Entry) -> Entry {
        let filled = match new.is_global() {
            true => &mut self.global,
            false => &mut self.local,
        };
        filled.add(index);
        replace(&mut self.array, &mut self.writable, index, new)
    }

    /// Empties it.
    pub(super) fn clear(&mut self) {
        let (array, writable) = (&mut self.array, &mut self.writable);
        let mut drop = |i| _ = replace(array, writable, i, Entry::empty(i));
        self.local.drain(&mut drop);
        self.global.drain(drop);
    }

    /// Drops what is not global.
    pub(super) fn clear_local(&mut self) {
        let (array, writable) = (&mut self.array, &mut self.writable);
        self.local.drain(|i| {
            if !array.entries[i].is_global() {
                replace(array, writable, i, Entry::empty(i));
            }
        });
    }

    /// Drops the page at `la`; unless `local`, only if it is global.
    pub(super) fn drop_page(&mut self, la: u64, local: bool) {
        for i in [index(la), other(la)] {
            let e = &self.array.entries[i];
            if (e.read ^ la) < PAGE_SIZE && (local || e.is_global()) {
                replace(&mut self.array, &mut self.writable, i, Entry::empty(i));
            }
        }
    }

    /// Drops `count` pages from page number `first` on likewise.
    pub(super) fn drop_pages(&mut self, first: u64, count: u64, local: bool) {
        if local || !self.global.list.is_empty() {
            (first..first + count).for_each(|page| self.drop_page(page << 12, local));
        }
    }

    /// Makes writes to the guest-physical page miss.
    pub(super) fn write_protect(&mut self, gpa: u64) {
        if *self.writable.of(gpa) == 0 {
            return;
        }
        for &i in self.local.list.iter().chain(&self.global.list) {
            let i = usize::from(i);
            let e = &mut self.array.entries[i];
            if e.is_writable() && (e.gpa ^ gpa) < PAGE_SIZE {
                e.write = empty_tag(i);
                self.array.forget_stack();
                *self.writable.of(gpa) -= 1;
            }
        }
    }

    /// A linear address that it maps to host address `host`.
    pub(super) fn linear_of(&self, host: u64) -> Option<u64> {
        let page = host & !PAGE_MASK;
        let filled = self.local.list.iter().chain(&self.global.list);
        let entries = filled.map(|&i| &self.array.entries[usize::from(i)]);
        let mut entries = entries.filter(|e| e.is_filled());
        let found = entries.find(|e| e.host == page);
        found.map(|e| e.read | host & PAGE_MASK)
    }
}

/// Makes `new` entry `index`; the one that was there.
fn replace(array: &mut Array, writable: &mut Writable, index: usize, new: Entry) -> Entry {
    array.forget_stack();
    let old = std::mem::replace(&mut array.entries[index], new);
    if old.is_writable() {
        *writable.of(old.gpa) -= 1;
    }
    if new.is_writable() {
        *writable.of(new.gpa) += 1;
    }
    old
}
