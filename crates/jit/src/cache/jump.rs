//! The jump cache: guest linear address to code, for indirect jumps.

use super::table::{Table, Tables};
use super::{Area, Dropped, Key, Map};
use std::sync::LazyLock;
use x86::LONGEST_INSTRUCTION;

/// A jump cache of one address space and mode.
pub struct JumpCache {
    /// Indexed by the low 16 bits of the linear address. All zero at first.
    entries: Table<ENTRIES>,
    /// Indices that were used, by their page number's low bits.
    touched: [Vec<u16>; PAGES],
    /// The linear pages that it has addresses in.
    pages: Map<u64, Page>,
}

/// A linear page.
struct Page {
    /// The guest-physical page it is mapped to.
    gpa: u64,
    /// How many of that page's targets were offered.
    offered: usize,
}

/// Entries of a cache.
const ENTRIES: usize = 1 << 16;
/// Makes jump caches that share large pages.
#[derive(Default)]
pub struct JumpCaches(Tables<ENTRIES>);

/// Pages of addresses that the entries hold side by side.
const PAGES: usize = 16;

/// Where a page's used indices are noted.
fn bucket(index: u16) -> usize {
    usize::from(index >> 12)
}

/// A negation that no address of entry `index` has.
fn nothing(index: u16) -> u64 {
    u64::from(index ^ 1).wrapping_neg()
}

impl JumpCaches {
    /// An empty cache.
    pub fn create(&mut self) -> JumpCache {
        let mut entries = self.0.next();
        // Zero is the negation of no address that any other entry may hold.
        entries[0][0] = nothing(0);
        JumpCache {
            entries,
            touched: Default::default(),
            pages: Map::default(),
        }
    }
}

impl JumpCache {
    /// Address of the first entry of a cache that stays empty.
    pub fn nowhere() -> u64 {
        static EMPTY: LazyLock<JumpCache> = LazyLock::new(|| JumpCaches::default().create());
        EMPTY.address()
    }
    /// Address of the first entry.
    pub fn address(&self) -> u64 {
        self.entries.as_ptr() as u64
    }
    /// The code remembered for an address.
    pub fn find(&self, rip: u64) -> Option<u64> {
        let [negated, code] = self.entries[usize::from(rip as u16)];
        (negated == rip.wrapping_neg()).then_some(code)
    }
    /// Remembers a translation.
    pub fn insert(&mut self, rip: u64, code: u64) {
        let index = rip as u16;
        let e = &mut self.entries[usize::from(index)];
        if e[1] == 0 {
            self.touched[bucket(index)].push(index);
        }
        *e = [rip.wrapping_neg(), code];
    }
    /// Remembers a translation where nothing else is remembered.
    pub fn offer(&mut self, rip: u64, code: u64) {
        if self.entries[usize::from(rip as u16)][1] == 0 {
            self.insert(rip, code);
        }
    }
    /// The number of targets that the page of `rip`, mapped to that at `gpa`,
    /// was offered before; from now on it is `now`.
    pub(super) fn offered(&mut self, rip: u64, gpa: u64, now: usize) -> usize {
        std::mem::replace(&mut self.page(rip, gpa).offered, now)
    }
    /// Notes that the page of `la` is mapped to that at `gpa`. To be called
    /// before an address in it is remembered.
    pub fn note_page(&mut self, la: u64, gpa: u64) {
        self.page(la, gpa);
    }
    fn page(&mut self, la: u64, gpa: u64) -> &mut Page {
        let number = la >> 12;
        if self.pages.get(&number).is_some_and(|p| p.gpa != gpa) {
            self.remove_page(la);
        }
        let new = Page { gpa, offered: 0 };
        self.pages.entry(number).or_insert(new)
    }
    /// Mappings in `area` may have changed: forgets the addresses in those pages
    /// of which `same` (linear, guest-physical address) says that they have.
    pub fn forget_changed(&mut self, area: Area, mut same: impl FnMut(u64, u64) -> bool) {
        let pages = area.of(&mut self.pages);
        let changed: Vec<u64> = pages
            .filter(|(la, page)| !same(*la, page.gpa))
            .map(|(la, _)| la)
            .collect();
        changed.into_iter().for_each(|la| self.remove_page(la));
    }
    /// Forgets a translation, wherever it was remembered.
    pub fn forget(&mut self, dropped: &Dropped) {
        if dropped.key.rip != Key::ANYWHERE {
            return self.remove(dropped.key.rip);
        }
        let offset = (dropped.key.gpa & 0xfff) as u16;
        for page in 0..PAGES as u16 {
            let index = page << 12 | offset;
            let e = &mut self.entries[usize::from(index)];
            if e[1] == dropped.code {
                e[0] = nothing(index); // stays in `touched`
            }
        }
    }
    /// Forgets one address.
    fn remove(&mut self, rip: u64) {
        let index = rip as u16;
        let e = &mut self.entries[usize::from(index)];
        if e[0] == rip.wrapping_neg() {
            e[0] = nothing(index); // stays in `touched`
        }
    }
    /// Forgets the addresses of one page, and of an instruction that runs on
    /// into it.
    fn remove_page(&mut self, la: u64) {
        let page = la & !0xfff;
        self.pages.remove(&(la >> 12));
        for before in 1..LONGEST_INSTRUCTION as u64 {
            self.remove(page.wrapping_sub(before));
        }
        for i in &self.touched[bucket(la as u16)] {
            let e = &mut self.entries[usize::from(*i)];
            if e[0].wrapping_neg() & !0xfff == page {
                e[0] = nothing(*i);
            }
        }
    }
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.pages.clear();
        for i in self.touched.iter_mut().flat_map(|t| t.drain(..)) {
            self.entries[usize::from(i)] = [nothing(i), 0];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_matches_its_address_only_while_it_is_there() {
        let mut cache = JumpCaches::default().create();
        let matches = |cache: &JumpCache, rip: u64| {
            let e = cache.entries[usize::from(rip as u16)];
            e[0].wrapping_add(rip) == 0
        };
        for rip in [0, 1, 0x1234, 0xffff_8000_0000_ffff, u64::MAX] {
            assert!(!matches(&cache, rip), "{rip:#x} before");
            cache.insert(rip, 99);
            assert!(matches(&cache, rip), "{rip:#x}");
            cache.offer(rip, 97);
            cache.offer(rip ^ 1 << 20, 97);
            assert_eq!(cache.find(rip), Some(99));
            cache.remove(rip);
            assert!(!matches(&cache, rip), "{rip:#x} after");
            cache.insert(rip, 98);
            cache.clear();
            cache.offer(rip, 97);
            assert_eq!(cache.find(rip), Some(97));
            cache.clear();
            assert!(!matches(&cache, rip), "{rip:#x} cleared");
        }
    }
}
