//! Guest memory as a rehearsal sees it: RAM behind the bytes it has written.
#![allow(unsafe_code, reason = "reads host pages of guest RAM")]

use softmmu::SlotMap;
use softmmu::walk::Entries;
use std::cell::RefCell;
use x86::paging::{PAGE_MASK, PAGE_SIZE, pte};

const PAGE: usize = PAGE_SIZE as usize;

/// Bytes of a line: one word of [`Page::written`].
const LINE: usize = 64;

/// The written bytes of one page.
pub struct Page {
    /// Host address of the page in guest RAM.
    pub host: u64,
    bytes: [u8; PAGE],
    /// One bit a byte.
    written: [u64; PAGE / LINE],
    /// Lines with a written byte, one bit each.
    touched: u64,
    /// What the lines of `kept` held before the translation ran.
    before: [u8; PAGE],
    /// Written lines and their neighbours, one bit each.
    kept: u64,
}

impl Page {
    fn has(&self, at: usize) -> bool {
        self.written[at / LINE] & 1 << (at % LINE) != 0
    }

    /// Forgets what was written.
    fn rewind(&mut self) {
        bits(self.touched).for_each(|line| self.written[line] = 0);
        self.touched = 0;
    }

    /// Keeps what the written lines and their neighbours hold.
    fn keep(&mut self) {
        self.kept = self.touched | self.touched << 1 | self.touched >> 1;
        for at in bits(self.kept).map(|line| line * LINE) {
            let line = self.line(at);
            self.before[at..at + LINE].copy_from_slice(&line);
        }
    }

    /// Compares what the kept lines should hold with what they hold: offsets
    /// that differ, expected and actual byte.
    pub fn differences(&self) -> Vec<(usize, u8, u8)> {
        let mut out = Vec::new();
        for line in bits(self.kept) {
            let (at, actual) = (line * LINE, self.line(line * LINE));
            let mut expected = [0; LINE];
            expected.copy_from_slice(&self.before[at..at + LINE]);
            for i in bits(self.written[line]) {
                expected[i] = self.bytes[at + i];
            }
            if expected == actual {
                continue;
            }
            let pairs = expected.into_iter().zip(actual).enumerate();
            let differ = pairs.filter(|(_, (e, a))| e != a);
            out.extend(differ.map(|(i, (e, a))| (at + i, e, a)));
        }
        out
    }

    /// What RAM holds now at an offset.
    fn line(&self, at: usize) -> [u8; LINE] {
        let mut line = [0; LINE];
        // SAFETY: part of a page of a slot, which stays mapped while its vCPU
        // runs.
        unsafe { softmmu::host_read(self.host + at as u64, &mut line) };
        line
    }
}

/// The numbers of the bits set.
fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = (word != 0).then(|| word.trailing_zeros() as usize);
        word &= word.wrapping_sub(1);
        lowest
    })
}

/// Written pages, few enough to be searched one by one.
#[derive(Default)]
pub struct Overlay {
    pages: Vec<Box<Page>>,
    /// Pages no longer used, to be used again.
    spare: Vec<Box<Page>>,
    /// Host addresses of the page-table entries whose accessed or dirty bits
    /// the rehearsal set.
    entries: Vec<u64>,
}

impl Overlay {
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.spare.append(&mut self.pages);
        self.entries.clear();
    }

    /// Keeps what is around the written bytes, before the translation runs.
    pub fn keep_contents(&mut self) {
        self.pages.iter_mut().for_each(|p| p.keep());
    }

    /// Forgets what was written, but not what the pages held before: reads see
    /// that.
    pub fn rewind(&mut self) {
        self.pages.iter_mut().for_each(|p| p.rewind());
    }

    /// The written pages.
    pub fn pages(&self) -> &[Box<Page>] {
        &self.pages
    }

    /// True if the byte at this host address is the lowest of a page-table
    /// entry whose accessed or dirty bit was set.
    pub fn is_entry(&self, host: u64) -> bool {
        self.entries.contains(&host)
    }

    /// Reads a range inside one page.
    pub fn read(&self, host: u64, buf: &mut [u8]) {
        // SAFETY: the caller found the page in a slot; the range stays in it.
        unsafe { softmmu::host_read(host, buf) };
        let page = host & !PAGE_MASK;
        let Some(page) = self.pages.iter().find(|p| p.host == page) else {
            return;
        };
        let start = (host & PAGE_MASK) as usize;
        for (at, byte) in (start..).zip(buf) {
            if page.has(at) {
                *byte = page.bytes[at];
            } else if page.kept & 1 << (at / LINE) != 0 {
                *byte = page.before[at];
            }
        }
    }

    /// Writes a range inside one page.
    pub fn write(&mut self, host: u64, bytes: &[u8]) {
        let start = (host & PAGE_MASK) as usize;
        let page = self.page_mut(host & !PAGE_MASK);
        page.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        for at in start..start + bytes.len() {
            page.written[at / LINE] |= 1 << (at % LINE);
            page.touched |= 1 << (at / LINE);
        }
    }

    fn page_mut(&mut self, host: u64) -> &mut Page {
        if let Some(i) = self.pages.iter().position(|p| p.host == host) {
            return &mut self.pages[i];
        }
        let mut page = self.spare.pop().unwrap_or_else(|| {
            Box::new(Page {
                host,
                bytes: [0; PAGE],
                written: [0; PAGE / LINE],
                touched: 0,
                before: [0; PAGE],
                kept: 0,
            })
        });
        page.host = host;
        page.rewind();
        page.kept = 0;
        self.pages.push(page);
        let last = self.pages.len() - 1;
        &mut self.pages[last]
    }
}

/// The page tables of a rehearsal: its walks set accessed and dirty bits in the
/// overlay.
pub struct Tables<'a> {
    /// Memory slots.
    pub map: &'a SlotMap,
    /// What was written.
    pub overlay: &'a RefCell<&'a mut Overlay>,
}

impl Entries for Tables<'_> {
    fn read_entry(&self, gpa: u64, size: u32) -> Option<u64> {
        let host = self.map.page(gpa)?.hva + (gpa & PAGE_MASK);
        let mut value = [0; 8];
        self.overlay
            .borrow()
            .read(host, &mut value[..size as usize & 15]);
        Some(u64::from_le_bytes(value))
    }
    fn update_entry(&self, gpa: u64, size: u32, _old: u64, new: u64) -> bool {
        let page = self.map.page(gpa).filter(|p| !p.slot.readonly);
        if let Some(page) = page {
            let host = page.hva + (gpa & PAGE_MASK);
            let mut overlay = self.overlay.borrow_mut();
            overlay.write(host, &new.to_le_bytes()[..size as usize & 15]);
            overlay.entries.push(host);
        }
        true
    }
}

/// The bits of an entry's lowest byte that walks set.
pub const AD: u8 = (pte::A | pte::D) as u8;
