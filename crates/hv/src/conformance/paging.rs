//! Paging structures of a case (SDM vol 3, chapter 4).

use super::Failure;
use super::guest::{Guest, Mode};
use super::layout::{TABLES, TABLES_END};
use x86::cr4;
use x86::paging::pte;

/// The pool of table pages.
pub struct Tables {
    next: u64,
}

/// How an entry address is found.
struct Format {
    /// Levels, root first.
    levels: u32,
    /// Index bits per level; the entry size is 4 for 10 bits, 8 for 9.
    bits: u32,
}

fn format(mode: Mode) -> Format {
    match mode {
        Mode::Long | Mode::Compat => Format { levels: 4, bits: 9 },
        Mode::Pae => Format { levels: 3, bits: 9 },
        _ => Format {
            levels: 2,
            bits: 10,
        },
    }
}

impl Tables {
    /// Only the root, at [`TABLES`].
    pub fn new() -> Self {
        Self {
            next: TABLES + 0x1000,
        }
    }
}

impl Guest {
    /// Takes a zeroed page for a paging structure.
    pub fn table_page(&mut self) -> u64 {
        let page = self.tables.next;
        assert!(
            page < TABLES_END,
            "a case uses more tables than the pool has"
        );
        self.tables.next += 0x1000;
        self.write(page, &[0; 4096]);
        page
    }

    /// Address of the entry for `gva` in the tree at `root`: `level` 1 is the
    /// PTE, 2 the PDE, and so on. Missing upper entries are created with
    /// everything allowed.
    pub fn entry_in(&mut self, root: u64, gva: u64, level: u32) -> u64 {
        let format = format(self.mode);
        let size = if format.bits == 9 { 8 } else { 4 };
        let mut table = root;
        let mut at = format.levels;
        loop {
            let shift = 12 + format.bits * (at - 1);
            let index = (gva >> shift) & ((1 << format.bits) - 1);
            let entry = table + index * size;
            if at == level {
                return entry;
            }
            let mut value = self.read_uint(entry, size);
            if value & pte::P == 0 {
                let page = self.table_page();
                // PAE's top entries have only P, PWT and PCD (SDM 4.4.1).
                let top = self.mode == Mode::Pae && at == 3;
                let rights = if top {
                    pte::P
                } else {
                    pte::P | pte::RW | pte::US
                };
                value = page | rights;
                self.write_uint(entry, size, value);
            }
            table = value & 0x000f_ffff_ffff_f000;
            at -= 1;
        }
    }

    /// Address of an entry in the case's own tree.
    pub fn entry(&mut self, gva: u64, level: u32) -> u64 {
        self.entry_in(TABLES, gva, level)
    }

    /// Address of the 4 KiB page's entry.
    pub fn pte_at(&mut self, gva: u64) -> u64 {
        self.entry(gva, 1)
    }

    /// Bytes of an entry.
    pub fn entry_size(&self) -> u64 {
        if format(self.mode).bits == 9 { 8 } else { 4 }
    }

    /// Maps one 4 KiB page.
    pub fn map(&mut self, gva: u64, gpa: u64, flags: u64) {
        let at = self.pte_at(gva);
        let size = self.entry_size();
        self.write_uint(at, size, gpa | flags);
    }

    /// The page's entry.
    pub fn pte(&mut self, gva: u64) -> u64 {
        let at = self.pte_at(gva);
        let size = self.entry_size();
        self.read_uint(at, size)
    }

    /// Forgets cached translations after the VMM changed tables, by toggling
    /// CR4.PGE from outside (SDM vol 3, 4.10.4.1).
    pub fn flush_tlb(&mut self) -> Result<(), Failure> {
        self.set_sregs(|s| s.cr4 ^= cr4::PGE)?;
        self.set_sregs(|s| s.cr4 ^= cr4::PGE)
    }
}
