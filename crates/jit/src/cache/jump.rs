//! The jump cache: guest linear address to code, for indirect jumps.

use super::table::{JumpEntry, Table, Tables};
use super::{Area, Dropped, Key, Map};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use x86::LONGEST_INSTRUCTION;

/// A jump cache of one address space and mode. Every address has two entries
/// where it may be, see [`places`].
pub struct JumpCache {
    /// All zero at first.
    entries: Table<ENTRIES>,
    /// Indices that were used.
    touched: Vec<u16>,
    /// The linear pages that it has addresses in.
    pages: Map<u64, Page>,
    /// A page turned out to be mapped otherwise than before.
    remapped: bool,
}

/// A linear page.
struct Page {
    /// The guest-physical page it is mapped to.
    gpa: u64,
    /// How many of that page's targets were offered.
    offered: usize,
    /// Offsets in it of addresses that were remembered.
    known: Vec<u16>,
}

impl Page {
    fn new(gpa: u64) -> Self {
        Self {
            gpa,
            offered: 0,
            known: Vec::new(),
        }
    }

    fn note(&mut self, offset: u16) {
        // Those that others took the place of come again.
        if self.known.len() == self.known.capacity() {
            self.known.sort_unstable();
            self.known.dedup();
        }
        self.known.push(offset);
    }
}

/// Entries of a cache.
const ENTRIES: usize = 1 << 16;
/// Makes jump caches that share large pages.
#[derive(Default)]
pub struct JumpCaches(Tables<ENTRIES>);

/// The entries where an address may be: where generated code looks first, and
/// where the stub looks that jumps go to which found nothing there. Addresses
/// that share the one rarely share the other; those below 64 KiB have one.
fn places(rip: u64) -> [u16; 2] {
    let first = match mixes() {
        true => rip.wrapping_add(rip >> MIX_SHIFT),
        false => rip,
    };
    let other = rip.wrapping_add((rip >> 16) << OTHER_SHIFT);
    [first as u16, other as u16]
}

/// How far an address is shifted right before it is added to itself for the first
/// index: functions begin at multiples of 16, so their addresses alone would share
/// few entries.
pub(crate) const MIX_SHIFT: u8 = 12;

/// Whether generated code can do that in one instruction: the host has BMI2.
pub(crate) fn mixes() -> bool {
    std::arch::is_x86_feature_detected!("bmi2")
}

/// How far the bits above the first index move the second.
pub(crate) const OTHER_SHIFT: u8 = 3;

/// The code of an entry that was emptied, which has been touched.
const EMPTIED: u64 = 1;

/// An address that is not in entry `index`: both places of address 0 are entry 0,
/// and those of address 1 are entry 1.
fn nothing(index: u16) -> u64 {
    u64::from(index == 0)
}

impl JumpCaches {
    /// An empty cache.
    pub fn create(&mut self) -> JumpCache {
        let mut entries = self.0.next();
        // No other entry may hold address 0.
        entries[0][0] = nothing(0);
        JumpCache {
            entries,
            touched: Vec::new(),
            pages: Map::default(),
            remapped: false,
        }
    }
}

impl JumpCache {
    /// Puts one that stays empty in the place of all, so that jumps leave generated
    /// code.
    pub fn lead_nowhere(places: &[AtomicU64]) {
        static EMPTY: LazyLock<JumpCache> = LazyLock::new(|| JumpCaches(Tables::sparse()).create());
        for place in places {
            place.store(EMPTY.address(), Ordering::SeqCst);
        }
    }
    /// Address of the first entry.
    pub fn address(&self) -> u64 {
        self.entries.as_ptr() as u64
    }
    /// The code remembered for an address.
    pub fn find(&self, rip: u64) -> Option<u64> {
        let entries = places(rip).map(|i| self.entries[usize::from(i)]);
        let found = entries.iter().find(|e| e[0] == rip);
        found.map(|e| e[1])
    }
    /// Remembers a translation. What was in the way goes to its other place.
    pub fn insert(&mut self, rip: u64, code: u64) {
        let [first, _] = places(rip);
        let [there, old] = self.entries[usize::from(first)];
        if there != rip && there != nothing(first) && old != 0 {
            let [home, other] = places(there);
            if home == first {
                self.put(other, there, old);
            }
        }
        if there != rip {
            self.know(rip);
        }
        self.put(first, rip, code);
    }
    /// Remembers a translation where nothing else is remembered.
    pub fn offer(&mut self, rip: u64, code: u64) {
        let free = |i: &u16| self.entries[usize::from(*i)][1] <= EMPTIED;
        if let Some(place) = places(rip).into_iter().find(free) {
            self.know(rip);
            self.put(place, rip, code);
        }
    }
    fn put(&mut self, index: u16, rip: u64, code: u64) {
        let e = &mut self.entries[usize::from(index)];
        if e[1] == 0 {
            self.touched.push(index);
        }
        *e = [rip, code];
    }
    /// The address, of a page that was noted, is remembered from now on.
    fn know(&mut self, rip: u64) {
        if let Some(page) = self.pages.get_mut(&(rip >> 12)) {
            page.note((rip & 0xfff) as u16);
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
    /// Whether a page turned out to be mapped otherwise since the last call.
    pub fn take_remapped(&mut self) -> bool {
        std::mem::take(&mut self.remapped)
    }
    fn page(&mut self, la: u64, gpa: u64) -> &mut Page {
        let number = la >> 12;
        if self.pages.get(&number).is_some_and(|p| p.gpa != gpa) {
            self.remove_page(la);
            self.remapped = true;
        }
        self.pages.entry(number).or_insert_with(|| Page::new(gpa))
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
    /// Forgets translations, wherever they were remembered.
    pub fn forget(&mut self, dropped: &[Dropped]) {
        let mut gone: Vec<u64> = Vec::new();
        let (anywhere, fixed): (Vec<&Dropped>, Vec<&Dropped>) =
            dropped.iter().partition(|d| d.key.rip == Key::ANYWHERE);
        gone.extend(fixed.iter().map(|d| d.key.rip));
        if !anywhere.is_empty() {
            for (number, page) in &self.pages {
                let here = anywhere.iter().filter(|d| d.key.page() == page.gpa);
                gone.extend(here.map(|d| number << 12 | d.key.gpa & 0xfff));
            }
        }
        self.remove(gone.into_iter());
    }
    /// Forgets addresses.
    fn remove(&mut self, gone: impl Iterator<Item = u64>) {
        let entries: &mut [JumpEntry; ENTRIES] = &mut self.entries;
        for rip in gone {
            for index in places(rip) {
                let e = &mut entries[usize::from(index)];
                if e[0] == rip {
                    *e = [nothing(index), EMPTIED];
                }
            }
        }
    }
    /// Forgets the addresses of one page, and of an instruction that runs on
    /// into it.
    fn remove_page(&mut self, la: u64) {
        let start = la & !0xfff;
        let page = self.pages.remove(&(la >> 12));
        let known = page.into_iter().flat_map(|p| p.known);
        self.remove(known.map(|offset| start | u64::from(offset)));
        let before = 1..LONGEST_INSTRUCTION as u64;
        self.remove(before.map(|i| start.wrapping_sub(i)));
    }
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.pages.clear();
        for i in self.touched.drain(..) {
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
            let entries = places(rip).map(|i| cache.entries[usize::from(i)]);
            entries.iter().any(|e| e[0] == rip)
        };
        for rip in [0, 1, 0x1234, 0xffff_8000_0000_ffff, u64::MAX] {
            assert!(!matches(&cache, rip), "{rip:#x} before");
            cache.insert(rip, 99);
            assert!(matches(&cache, rip), "{rip:#x}");
            cache.offer(rip, 97);
            assert_eq!(cache.find(rip), Some(99));
            cache.remove([rip].into_iter());
            assert!(!matches(&cache, rip), "{rip:#x} after");
            cache.insert(rip, 98);
            cache.clear();
            cache.offer(rip, 97);
            assert_eq!(cache.find(rip), Some(97));
            cache.clear();
            assert!(!matches(&cache, rip), "{rip:#x} cleared");
        }
    }

    #[test]
    fn what_was_forgotten_leaves_room_for_offers() {
        let mut cache = JumpCaches::default().create();
        for round in 0..3 {
            cache.note_page(A, 0x1000);
            cache.insert(A, 10 + round);
            cache.insert(A + 0x1_0000_0000, 20);
            cache.forget_changed(Area::ALL, |_, _| false);
            assert_eq!(cache.find(A), None);
            cache.offer(A, 30 + round);
            assert_eq!(cache.find(A), Some(30 + round));
            cache.forget_changed(Area::ALL, |_, _| false);
            cache.remove([A].into_iter());
        }
        assert!(cache.touched.len() < 8, "{}", cache.touched.len());
    }

    const A: u64 = 0x5555_5555_4321;
    const B: u64 = A + 0x10_0000;

    #[test]
    fn two_addresses_with_the_same_low_bits_are_both_there() {
        let mut cache = JumpCaches::default().create();
        cache.note_page(A, 0x1000);
        cache.note_page(B, 0x2000);
        for round in 0..3 {
            cache.insert(A, 10 + round);
            cache.insert(B, 20 + round);
            assert_eq!(cache.find(A), Some(10 + round));
            assert_eq!(cache.find(B), Some(20 + round));
        }
        // Both places of one are forgotten, and only of that one.
        cache.forget_changed(Area::ALL, |la, gpa| {
            assert_eq!(gpa, if la == A & !0xfff { 0x1000 } else { 0x2000 });
            la != A & !0xfff
        });
        assert_eq!((cache.find(A), cache.find(B)), (None, Some(22)));
        cache.forget_changed(Area::page(B, 12), |_, _| false);
        assert_eq!(cache.find(B), None);
    }

    #[test]
    fn a_dropped_translation_is_forgotten_wherever_its_page_is_mapped() {
        let mut cache = JumpCaches::default().create();
        for la in [A, B] {
            cache.note_page(la, 0x7000);
            cache.insert(la, 5);
            cache.insert(la + 8, 6);
        }
        cache.forget(&[Dropped {
            key: Key {
                gpa: 0x7000 | A & 0xfff,
                rip: Key::ANYWHERE,
                mode: 0,
                next: Key::ONE_PAGE,
            },
        }]);
        assert_eq!((cache.find(A), cache.find(B)), (None, None));
        assert_eq!((cache.find(A + 8), cache.find(B + 8)), (Some(6), Some(6)));
    }
}
