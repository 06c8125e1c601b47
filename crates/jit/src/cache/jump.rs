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

/// Entries, indexed by the low 16 bits of the linear address.
const ENTRIES: usize = 1 << 16;

/// A jump cache of one address space and mode.
pub struct JumpCache {
    entries: Box<[JumpEntry]>,
    touched: Vec<u16>,
    empty: JumpEntry,
}

impl JumpCache {
    /// An empty cache; `miss` is the code address misses go to.
    pub fn new(miss: u64) -> Self {
        // An address matches the negation 1 only if it is !0, and then it is
        // sent to `miss` as well.
        let empty = JumpEntry {
            negated: 1,
            code: miss,
        };
        Self {
            entries: vec![empty; ENTRIES].into(),
            touched: Vec::new(),
            empty,
        }
    }
    /// Address of the first entry.
    pub fn address(&self) -> u64 {
        self.entries.as_ptr() as u64
    }
    /// The code remembered for an address.
    pub fn find(&self, rip: u64) -> Option<u64> {
        let e = self.entries[usize::from(rip as u16)];
        (e.negated == rip.wrapping_neg() && e.code != self.empty.code).then_some(e.code)
    }
    /// Remembers a translation.
    pub fn insert(&mut self, rip: u64, code: u64) {
        let index = rip as u16;
        let e = &mut self.entries[usize::from(index)];
        if e.code == self.empty.code {
            self.touched.push(index);
        }
        *e = JumpEntry {
            negated: rip.wrapping_neg(),
            code,
        };
    }
    /// Forgets one address.
    pub fn remove(&mut self, rip: u64) {
        let e = &mut self.entries[usize::from(rip as u16)];
        if e.negated == rip.wrapping_neg() {
            e.negated = 1; // stays in `touched`
        }
    }
    /// Forgets the addresses of one page.
    pub fn remove_page(&mut self, la: u64) {
        let page = la & !0xfff;
        for i in &self.touched {
            let e = &mut self.entries[usize::from(*i)];
            if e.negated.wrapping_neg() & !0xfff == page {
                e.negated = 1;
            }
        }
    }
    /// Forgets everything.
    pub fn clear(&mut self) {
        for i in self.touched.drain(..) {
            self.entries[usize::from(i)] = self.empty;
        }
    }
}
