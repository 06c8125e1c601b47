//! Software TLBs.
//!
//! The first level is what translated code checks inline: per privilege a
//! direct-mapped array of [`Entry`]. A lookup XORs the linear address with the
//! tag; the result is the page offset on a hit and at least 4096 on a miss, so
//! one compare covers tag, page crossing and canonical form. An empty entry
//! holds the tag of a page with another index, which no address can match. A page
//! that must give way moves to its other place, where generated code looks before
//! it asks anybody.
//!
//! The second level is keyed by *space*: a number that stands for one PCID
//! since its last flush, so that flushing a PCID is assigning it a new number
//! (law 1 of the design: entries survive only when the guest said so).
#![allow(unsafe_code, reason = "first levels in memory that is mapped here")]

mod first;
mod place;

pub use first::{Entry, L1_ENTRIES, OTHER_SHIFT};
pub use place::BETWEEN_ARRAYS;

use crate::SlotMap;
use crate::walk::{self, Mapping, Need};
use first::First;
use place::{Kernel, Place};
use std::collections::HashSet;
use x86::{CpuState, Exception, cr0, cr4, flags};

const L2_ENTRIES: usize = 8192;
/// Large pages remembered until everything is flushed.
const MAX_LARGE: usize = 1 << 16;
/// Most pages of 4 KiB in a large one that are dropped one by one.
const FEW: u64 = 1024;
/// First-level arrays of kernel accesses.
const KERNEL_BANKS: usize = 2;
/// Address spaces whose user entries are kept in the first level. Linux gives
/// each processor six PCIDs.
const USER_SPACES: usize = 8;

/// Which first-level array an access uses. The three differ in what they may
/// reach, so a privilege change or STAC/CLAC selects instead of flushing. User
/// accesses have an array for each of the last few address spaces, so that a
/// process switch selects, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Bank {
    /// CPL 3.
    User = 0,
    /// CPL 0..=2 with SMAP in force (CR4.SMAP and EFLAGS.AC clear).
    Kernel = 1,
    /// CPL 0..=2 with user pages reachable.
    KernelAc = 2,
}

impl Bank {
    /// The array ordinary data accesses use in this state.
    pub fn of(cpu: &CpuState) -> Self {
        if cpu.cpl() == 3 {
            Self::User
        } else if cpu.cr4 & cr4::SMAP != 0 && cpu.rflags & flags::AC == 0 {
            Self::Kernel
        } else {
            Self::KernelAc
        }
    }
}

/// The first level of user accesses in one address space.
struct UserLevel {
    first: First,
    /// Where its array is.
    _place: Place,
    /// The space, 0 for none.
    space: u32,
    /// When it was selected last.
    used: u64,
}

/// A second-level entry.
#[derive(Clone, Copy, Default)]
struct L2Entry {
    vpn: u64,
    space: u32,
    mapping: Mapping,
}

/// A resolved page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Guest-physical page address.
    pub gpa: u64,
    /// Host page, if the page is RAM.
    pub host: Option<u64>,
    /// A write may go straight to `host`: RAM, not read-only, not a source of
    /// translations.
    pub plain_write: bool,
    /// The mapping is global.
    pub global: bool,
}

/// A page larger than 4 KiB in an address space.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct LargePage {
    space: u32,
    /// log2 of its size.
    shift: u8,
    number: u64,
}

/// Occurrences for the engine's counters.
#[derive(Clone, Copy, Debug, Default)]
pub struct TlbStats {
    /// First-level entries filled.
    pub fills: u64,
    /// Page walks done.
    pub walks: u64,
    /// Flushes of a whole space or of everything.
    pub flushes: u64,
}

/// The TLBs of one vCPU.
#[repr(C)]
pub struct Tlb {
    /// Addresses of the arrays in force by [`Bank`]; translated code reads them. Those
    /// of the kernel are also [`BETWEEN_ARRAYS`] and twice that behind the user's.
    pub arrays: [u64; 1 + KERNEL_BANKS],
    /// The first level of [`Bank::Kernel`] and [`Bank::KernelAc`].
    kernel: [First; KERNEL_BANKS],
    /// Where their arrays are.
    kernel_memory: Kernel,
    users: Vec<UserLevel>,
    user_now: usize,
    clock: u64,
    l2: Box<[L2Entry]>,
    pcid_space: Box<[u32]>,
    global_space: u32,
    current: u32,
    next_space: u32,
    /// Pages of which a fragment may be cached.
    large: HashSet<LargePage>,
    /// Their sizes, a bit for the log2 of each.
    large_sizes: u64,
    phys_bits: u32,
    pdptes: [u64; 4],
    /// For tests: the first level holds one page for each kind of access, and pages
    /// are walked each time.
    pub small: bool,
    /// Counts.
    pub stats: TlbStats,
}

impl Tlb {
    /// Empty TLBs for `phys_bits` of guest-physical address.
    pub fn new(phys_bits: u32) -> Self {
        let kernel_memory = Kernel::new();
        // SAFETY: each array is used once, and its memory is there with it.
        let kernel = [0, 1].map(|bank| unsafe { First::new(kernel_memory.array(bank)) });
        let mut tlb = Self {
            arrays: [0; _],
            kernel,
            kernel_memory,
            users: Vec::new(),
            user_now: 0,
            clock: 0,
            l2: vec![L2Entry::default(); L2_ENTRIES].into(),
            pcid_space: vec![0; 4096].into(),
            global_space: 1,
            current: 2,
            next_space: 3,
            large: HashSet::new(),
            large_sizes: 0,
            phys_bits,
            pdptes: [0; 4],
            small: false,
            stats: TlbStats::default(),
        };
        for (array, first) in tlb.arrays[1..].iter_mut().zip(&tlb.kernel) {
            *array = first.address();
        }
        tlb.flush_all();
        tlb
    }

    /// Number that stands for the current address space since its last flush;
    /// equal numbers mean equal cached translations.
    pub fn space(&self) -> u32 {
        self.current
    }

    /// What walks start from besides control registers.
    pub fn roots(&self) -> walk::Roots<'_> {
        walk::Roots {
            phys_bits: self.phys_bits,
            pdptes: &self.pdptes,
        }
    }

    /// Takes over the PDPTEs that `cr3` points at for PAE paging, whatever
    /// they are.
    pub fn load_pdptes(&mut self, cr3: u64, mem: &SlotMap) {
        self.pdptes = walk::read_pdptes(cr3, mem);
    }

    /// As [`Self::load_pdptes`], but leaves everything as it is and returns
    /// false if one has reserved bits set (SDM vol 3, 4.4.1).
    pub fn load_valid_pdptes(&mut self, cr3: u64, mem: &SlotMap) -> bool {
        let new = walk::read_pdptes(cr3, mem);
        let valid = new.iter().all(|&e| walk::pdpte_valid(e, self.phys_bits));
        if valid {
            self.pdptes = new;
        }
        valid
    }

    /// Number that stands for the global mappings since everything was flushed.
    pub fn global_space(&self) -> u32 {
        self.global_space
    }

    fn new_space(&mut self) -> u32 {
        if self.next_space == u32::MAX {
            self.l2.fill(L2Entry::default());
            self.pcid_space.fill(0);
            self.users.iter_mut().for_each(|u| u.space = 0);
            self.next_space = 3;
        }
        self.next_space += 1;
        self.next_space - 1
    }

    /// Resolves `la` for an access, filling both levels. The error is the
    /// exception to deliver; a `Resolved` without host is device space.
    pub fn resolve(
        &mut self,
        cpu: &CpuState,
        mem: &SlotMap,
        la: u64,
        need: Need,
    ) -> Result<Resolved, Exception> {
        let mapping = self.mapping(cpu, mem, la, need)?;
        let page = mem.page(mapping.gpa);
        let mut plain_write = false;
        if let Some(page) = &page {
            if need.write && !page.slot.readonly {
                mem.written(page);
            }
            plain_write =
                !page.slot.readonly && !page.has_code() && !page.needs_dirty() && mapping.dirty;
        }
        let resolved = Resolved {
            gpa: mapping.gpa,
            host: page.as_ref().map(|p| p.hva),
            plain_write,
            global: mapping.global,
        };
        if !need.exec && page.is_some() {
            self.fill(cpu, la, &mapping, &resolved, need);
        }
        Ok(resolved)
    }

    /// A linear address that the first level maps to host address `host`.
    pub fn linear_of(&self, host: u64) -> Option<u64> {
        let users = self.users.iter().map(|u| &u.first);
        let mut all = self.kernel.iter().chain(users);
        all.find_map(|first| first.linear_of(host))
    }

    /// What the second level knows of `la`; a write must find the dirty bit
    /// set.
    pub fn known(&self, la: u64, write: bool) -> Option<Mapping> {
        let vpn = la >> 12;
        let e = &self.l2[vpn as usize % L2_ENTRIES];
        let space = self.space_of(&e.mapping);
        (e.vpn == vpn && e.space == space && (e.mapping.dirty || !write)).then_some(e.mapping)
    }

    /// The space that a mapping in force belongs to.
    fn space_of(&self, mapping: &Mapping) -> u32 {
        if mapping.global {
            self.global_space
        } else {
            self.current
        }
    }

    fn mapping(
        &mut self,
        cpu: &CpuState,
        mem: &SlotMap,
        la: u64,
        need: Need,
    ) -> Result<Mapping, Exception> {
        let vpn = la >> 12;
        let slot = vpn as usize % L2_ENTRIES;
        let known = self.known(la, need.write);
        if let Some(known) = known.filter(|_| !self.small) {
            if walk::check(cpu, &known, need).is_ok() {
                return Ok(known);
            }
            // A cached denial may be stale: real TLBs walk again too.
            self.l2[slot].space = 0;
        }
        self.stats.walks += 1;
        let m = walk::translate(cpu, mem, la, need, self.roots())?;
        if m.shift > 12 {
            self.note_large(la, &m);
        }
        let space = self.space_of(&m);
        self.l2[slot] = L2Entry {
            vpn,
            space,
            mapping: m,
        };
        Ok(m)
    }

    fn fill(&mut self, cpu: &CpuState, la: u64, m: &Mapping, r: &Resolved, need: Need) {
        let bank = if need.user {
            Bank::User
        } else if need.implicit {
            // As at CPL 0 with SMAP in force, for pages that this lets through.
            if cpu.cr4 & cr4::SMAP == 0 || m.user {
                return;
            }
            Bank::Kernel
        } else {
            Bank::of(cpu)
        };
        if !need.implicit && (bank == Bank::User) != (cpu.cpl() == 3) {
            return;
        }
        let wp = cpu.cr0 & cr0::WP != 0;
        let may_write = m.writable || (bank != Bank::User && !wp);
        let host = r.host.unwrap_or(0);
        let entry = Entry::new(la, may_write && r.plain_write, host, m.gpa, m.global);
        if self.small {
            self.level(bank).clear();
        }
        self.level(bank).insert(la, entry);
        self.stats.fills += 1;
    }

    /// The array an access of `bank` uses now.
    fn level(&mut self, bank: Bank) -> &mut First {
        match bank {
            Bank::User => &mut self.users[self.user_now].first,
            kernel => &mut self.kernel[kernel as usize - 1],
        }
    }

    /// Every array.
    fn levels(&mut self) -> impl Iterator<Item = &mut First> {
        let users = self.users.iter_mut();
        self.kernel.iter_mut().chain(users.map(|u| &mut u.first))
    }

    /// Brings the user entries of the current space into force.
    fn select_user(&mut self) {
        self.clock += 1;
        let known = self.users.iter().position(|u| u.space == self.current);
        let i = known.unwrap_or_else(|| self.replace_user());
        self.user_now = i;
        let user = &mut self.users[i];
        user.used = self.clock;
        self.arrays[Bank::User as usize] = user.first.address();
    }

    /// An empty array for the user entries of the current space.
    fn replace_user(&mut self) -> usize {
        let space = self.current;
        if self.users.len() < USER_SPACES {
            let place = Place::new(&self.kernel_memory);
            self.users.push(UserLevel {
                // SAFETY: used once, and its memory is there with it.
                first: unsafe { First::new(place.array()) },
                _place: place,
                space,
                used: 0,
            });
            return self.users.len() - 1;
        }
        let oldest = self.users.iter().enumerate().min_by_key(|(_, u)| u.used);
        let i = oldest.map_or(0, |(i, _)| i);
        let user = &mut self.users[i];
        user.first.clear();
        user.space = space;
        i
    }

    /// Makes the space of `pcid` current; `keep` false flushes it first.
    pub fn load_space(&mut self, pcid: u16, keep: bool) {
        let slot = usize::from(pcid) % 4096;
        if !keep || self.pcid_space[slot] == 0 {
            self.pcid_space[slot] = self.new_space();
            self.stats.flushes += 1;
        }
        if self.current != self.pcid_space[slot] {
            self.current = self.pcid_space[slot];
            self.kernel.iter_mut().for_each(First::clear_local);
            self.select_user();
        }
    }

    /// Drops every translation, global ones and those of all PCIDs included.
    pub fn flush_all(&mut self) {
        self.pcid_space.fill(0);
        self.global_space = self.new_space();
        self.current = self.new_space();
        self.large.clear();
        self.large_sizes = 0;
        self.stats.flushes += 1;
        self.drop_first_level();
        self.select_user();
    }

    /// Drops the non-global translations of every PCID (INVPCID type 3) and
    /// makes `pcid` current.
    pub fn flush_non_global(&mut self, pcid: u16) {
        self.pcid_space.fill(0);
        self.load_space(pcid, false);
    }

    /// Drops the non-global translations of `pcid` (INVPCID type 1).
    pub fn flush_pcid(&mut self, pcid: u16, current: u16) {
        if pcid == current {
            self.load_space(pcid, false);
        } else {
            self.pcid_space[usize::from(pcid) % 4096] = 0;
        }
    }

    /// INVLPG: drops `la` from the current space and from the global ones. The
    /// result is log2 of the size of the page around it that may have been
    /// mapped.
    pub fn invlpg(&mut self, la: u64) -> u8 {
        let large = self.take_large(la);
        if let Some(shift) = large {
            self.drop_large(la, shift);
        }
        let vpn = la >> 12;
        let e = &mut self.l2[vpn as usize % L2_ENTRIES];
        if e.vpn == vpn && (e.mapping.global || e.space == self.current) {
            e.space = 0;
        }
        let current = self.current;
        self.kernel.iter_mut().for_each(|k| k.drop_page(la, true));
        for user in &mut self.users {
            user.first.drop_page(la, user.space == current);
        }
        large.unwrap_or(12)
    }

    fn note_large(&mut self, la: u64, mapping: &Mapping) {
        if self.large.len() == MAX_LARGE {
            self.flush_all();
        }
        self.large_sizes |= 1 << mapping.shift;
        self.large.insert(LargePage {
            space: self.space_of(mapping),
            shift: mapping.shift,
            number: la >> mapping.shift,
        });
    }

    /// Forgets that fragments may be cached of large pages around `la`, in the current
    /// space and among the global ones; log2 of the size of the largest.
    fn take_large(&mut self, la: u64) -> Option<u8> {
        let sizes = self.large_sizes;
        let shifts = (13..64).filter(|shift| sizes >> shift & 1 != 0);
        let mut largest = None;
        for shift in shifts {
            for space in [self.current, self.global_space] {
                let number = la >> shift;
                let page = LargePage {
                    space,
                    shift,
                    number,
                };
                if self.large.remove(&page) {
                    largest = Some(shift);
                }
            }
        }
        largest
    }

    /// Drops every fragment of the page of `1 << shift` bytes around `la` in the
    /// current space and of a global one.
    fn drop_large(&mut self, la: u64, shift: u8) {
        let pages = 1 << (shift - 12);
        let first = la >> 12 & !(pages - 1);
        if pages > FEW {
            let inside = |e: &&mut L2Entry| e.vpn & !(pages - 1) == first;
            self.l2.iter_mut().filter(inside).for_each(|e| e.space = 0);
            return self.drop_first_level();
        }
        for vpn in first..first + pages {
            let e = &mut self.l2[vpn as usize % L2_ENTRIES];
            if e.vpn == vpn {
                e.space = 0;
            }
        }
        let current = self.current;
        self.kernel
            .iter_mut()
            .for_each(|k| k.drop_pages(first, pages, true));
        for user in &mut self.users {
            let local = user.space == current;
            user.first.drop_pages(first, pages, local);
        }
    }

    /// Drops every first-level entry (permissions changed).
    pub fn drop_first_level(&mut self) {
        self.levels().for_each(First::clear);
    }

    /// Makes the next write to the guest-physical page take the slow path.
    pub fn write_protect(&mut self, gpa: u64) {
        self.levels().for_each(|first| first.write_protect(gpa));
    }

    /// Host address for an access in one page that hits the first level.
    pub fn hit(&self, bank: Bank, la: u64, len: u32, write: bool) -> Option<u64> {
        match bank {
            Bank::User => self.users[self.user_now].first.hit(la, len, write),
            kernel => self.kernel[kernel as usize - 1].hit(la, len, write),
        }
    }
}
