//! The jump cache: guest linear address to code, for indirect jumps.

/// One entry; generated code knows the layout.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct JumpEntry {
    /// Two's complement of the linear address, so that adding the address
    /// gives 0 on a hit without touching flags.
    negated: u64,
    /// Code address.
    code: u64,
}

/// A jump cache of one address space and mode.
pub struct JumpCache {
    /// Indexed by the low 16 bits of the linear address.
    entries: Box<[JumpEntry]>,
    /// Indices that were used, by their page number's low bits.
    touched: [Vec<u16>; PAGES],
    miss: u64,
}

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

impl JumpCache {
    /// An empty cache; `miss` is a code address that no translation has.
    pub fn new(miss: u64) -> Self {
        let empty = |index| JumpEntry {
            negated: nothing(index),
            code: miss,
        };
        Self {
            entries: (0..=u16::MAX).map(empty).collect(),
            touched: Default::default(),
            miss,
        }
    }
    /// Address of the first entry.
    pub fn address(&self) -> u64 {
        self.entries.as_ptr() as u64
    }
    /// The code remembered for an address.
    pub fn find(&self, rip: u64) -> Option<u64> {
        let e = self.entries[usize::from(rip as u16)];
        (e.negated == rip.wrapping_neg() && e.code != self.miss).then_some(e.code)
    }
    /// Remembers a translation.
    pub fn insert(&mut self, rip: u64, code: u64) {
        let index = rip as u16;
        let e = &mut self.entries[usize::from(index)];
        if e.code == self.miss {
            self.touched[bucket(index)].push(index);
        }
        *e = JumpEntry {
            negated: rip.wrapping_neg(),
            code,
        };
    }
    /// Forgets one address.
    pub fn remove(&mut self, rip: u64) {
        let index = rip as u16;
        let e = &mut self.entries[usize::from(index)];
        if e.negated == rip.wrapping_neg() {
            e.negated = nothing(index); // stays in `touched`
        }
    }
    /// Forgets the addresses of one page.
    pub fn remove_page(&mut self, la: u64) {
        let page = la & !0xfff;
        for i in &self.touched[bucket(la as u16)] {
            let e = &mut self.entries[usize::from(*i)];
            if e.negated.wrapping_neg() & !0xfff == page {
                e.negated = nothing(*i);
            }
        }
    }
    /// Forgets everything.
    pub fn clear(&mut self) {
        for i in self.touched.iter_mut().flat_map(|t| t.drain(..)) {
            self.entries[usize::from(i)] = JumpEntry {
                negated: nothing(i),
                code: self.miss,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_matches_its_address_only_while_it_is_there() {
        let mut cache = JumpCache::new(7);
        let matches = |cache: &JumpCache, rip: u64| {
            let e = cache.entries[usize::from(rip as u16)];
            e.negated.wrapping_add(rip) == 0
        };
        for rip in [0, 1, 0x1234, 0xffff_8000_0000_ffff, u64::MAX] {
            assert!(!matches(&cache, rip), "{rip:#x} before");
            cache.insert(rip, 99);
            assert!(matches(&cache, rip), "{rip:#x}");
            assert_eq!(cache.find(rip), Some(99));
            cache.remove(rip);
            assert!(!matches(&cache, rip), "{rip:#x} after");
            cache.insert(rip, 98);
            cache.clear();
            assert!(!matches(&cache, rip), "{rip:#x} cleared");
        }
    }
}
