//! Page walks (SDM vol 3, chapter 4) with accessed and dirty updates.

use crate::SlotMap;
use x86::paging::{PAGE_MASK, pf, pte};
use x86::{CpuState, Exception, cr0, cr4, efer, flags};

/// Memory that page tables are in.
pub trait Entries {
    /// Reads an entry of 4 or 8 bytes; `None` where there is no memory.
    fn read_entry(&self, gpa: u64, size: u32) -> Option<u64>;
    /// Replaces an entry; false if it changed meanwhile. Where there is no
    /// memory that keeps the new value, that is no failure.
    fn update_entry(&self, gpa: u64, size: u32, old: u64, new: u64) -> bool;
}

impl Entries for SlotMap {
    fn read_entry(&self, gpa: u64, size: u32) -> Option<u64> {
        Self::read_entry(self, gpa, size)
    }
    fn update_entry(&self, gpa: u64, size: u32, old: u64, new: u64) -> bool {
        Self::update_entry(self, gpa, size, old, new)
    }
}

/// What an access needs, with the privilege already resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Write permission.
    pub write: bool,
    /// Instruction fetch.
    pub exec: bool,
    /// User-mode access (CPL 3 and not an implicit supervisor access).
    pub user: bool,
    /// Implicit supervisor access: SMAP applies whatever EFLAGS.AC.
    pub implicit: bool,
}

/// The result of a walk: the mapping, before permission checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// Guest-physical address of the 4 KiB page.
    pub gpa: u64,
    /// Every level allows writes.
    pub writable: bool,
    /// Every level allows user access.
    pub user: bool,
    /// No level forbids execution.
    pub exec: bool,
    /// Global page (with CR4.PGE).
    pub global: bool,
    /// The leaf's dirty bit is set.
    pub dirty: bool,
    /// log2 of the page size.
    pub shift: u8,
}

/// The inputs of a walk that come from control registers.
#[derive(Clone, Copy, Debug)]
struct Mode {
    pae: bool,
    long: bool,
    pse: bool,
    pge: bool,
    nx: bool,
    phys_bits: u32,
    /// Entry bits that must be 0.
    reserved: u64,
    /// The same in a 4 MiB entry: bit 21 and those of the address bits
    /// 32..=39 that the guest does not have (SDM vol 3, 4.3).
    pse_reserved: u64,
}

impl Mode {
    fn of(cpu: &CpuState, phys_bits: u32) -> Self {
        let nx = cpu.efer & efer::NXE != 0;
        let address = !0u64 << phys_bits & 0x000f_ffff_ffff_ffff;
        Self {
            pae: cpu.cr4 & cr4::PAE != 0,
            long: cpu.efer & efer::LMA != 0,
            pse: cpu.cr4 & cr4::PSE != 0,
            pge: cpu.cr4 & cr4::PGE != 0,
            nx,
            phys_bits,
            reserved: address | if nx { 0 } else { pte::NX },
            pse_reserved: 0x20_0000 | (0x1f_e000u64 << (phys_bits.clamp(32, 40) - 32)) & 0x1f_e000,
        }
    }
    fn entry_size(&self) -> u32 {
        if self.pae || self.long { 8 } else { 4 }
    }
}

/// One visited entry, kept for the accessed/dirty update.
#[derive(Clone, Copy, Default)]
struct Visited {
    gpa: u64,
    value: u64,
}

/// What a walk starts from besides control registers.
#[derive(Clone, Copy, Debug)]
pub struct Roots<'a> {
    /// Guest-physical address width.
    pub phys_bits: u32,
    /// The four PDPTEs as loaded with CR3 (PAE paging only).
    pub pdptes: &'a [u64; 4],
}

/// Reads the PDPTEs that a load of `cr3` takes.
pub fn read_pdptes(cr3: u64, mem: &SlotMap) -> [u64; 4] {
    let table = cr3 & 0xffff_ffe0;
    std::array::from_fn(|i| mem.read_entry(table + 8 * i as u64, 8).unwrap_or(0))
}

/// A PDPTE that may be loaded: not present, or without reserved bits (SDM
/// vol 3, table 4-8).
pub fn pdpte_valid(entry: u64, phys_bits: u32) -> bool {
    entry & pte::P == 0 || entry & (!0 << phys_bits | 0x1e6) == 0
}

/// The outcome of reading the tables: a mapping and the entries on the way.
struct Path {
    mapping: Mapping,
    visited: [Visited; 4],
    depth: usize,
}

const NOT_PRESENT: u32 = 0;
const ADDR_MASK: u64 = 0x000f_ffff_ffff_f000;

/// Translates `la`, checks `need`, updates A and (for writes) D.
///
/// The error is the #PF to deliver. Linear addresses are canonical.
pub fn translate(
    cpu: &CpuState,
    mem: &impl Entries,
    la: u64,
    need: Need,
    roots: Roots<'_>,
) -> Result<Mapping, Exception> {
    if cpu.cr0 & cr0::PG == 0 {
        return Ok(identity(la));
    }
    let fault = |code: u32| Exception::pf(la, code | need_code(cpu, need));
    loop {
        let path = read_path(cpu, mem, la, roots).map_err(fault)?;
        check(cpu, &path.mapping, need).map_err(fault)?;
        if update_ad(cpu, mem, &path, need.write) {
            let dirty = path.mapping.dirty || need.write;
            return Ok(Mapping {
                dirty,
                ..path.mapping
            });
        }
    }
}

/// Translates without access checks or A/D updates, for debuggers.
pub fn peek(cpu: &CpuState, mem: &SlotMap, la: u64, roots: Roots<'_>) -> Option<u64> {
    if cpu.cr0 & cr0::PG == 0 {
        return Some(la & 0xffff_ffff);
    }
    let path = read_path(cpu, mem, la, roots).ok()?;
    Some(path.mapping.gpa | (la & PAGE_MASK))
}

/// What a fetch from `la` would find without changing anything: none if it
/// faults or sets an accessed bit. A processor may have such a mapping in its
/// TLB at any time (SDM vol 3, 4.10.2.3).
pub fn fetch_unchanged(
    cpu: &CpuState,
    mem: &SlotMap,
    la: u64,
    user: bool,
    roots: Roots<'_>,
) -> Option<Mapping> {
    if cpu.cr0 & cr0::PG == 0 {
        return Some(identity(la));
    }
    let path = read_path(cpu, mem, la, roots).ok()?;
    let need = Need {
        write: false,
        exec: true,
        user,
        implicit: false,
    };
    let accessed = path.visited[..path.depth]
        .iter()
        .all(|v| v.value & pte::A != 0);
    (accessed && check(cpu, &path.mapping, need).is_ok()).then_some(path.mapping)
}

fn identity(la: u64) -> Mapping {
    Mapping {
        gpa: la & 0xffff_f000,
        writable: true,
        user: true,
        exec: true,
        global: false,
        dirty: true,
        shift: 12,
    }
}

/// The W, U and I bits of the error code.
fn need_code(cpu: &CpuState, need: Need) -> u32 {
    let fetch_bit =
        cpu.cr4 & cr4::SMEP != 0 || (cpu.efer & efer::NXE != 0 && (cpu.cr4 & cr4::PAE != 0));
    (if need.write { pf::W } else { 0 })
        | (if need.user { pf::U } else { 0 })
        | (if need.exec && fetch_bit { pf::I } else { 0 })
}

/// Permission checks (SDM vol 3, 4.6); the error is the P bit of the code.
pub fn check(cpu: &CpuState, m: &Mapping, need: Need) -> Result<(), u32> {
    let allowed = if need.user {
        m.user && (!need.write || m.writable) && (!need.exec || m.exec)
    } else {
        let wp = cpu.cr0 & cr0::WP != 0;
        let smap = m.user
            && !need.exec
            && cpu.cr4 & cr4::SMAP != 0
            && (need.implicit || cpu.rflags & flags::AC == 0);
        let smep = m.user && need.exec && cpu.cr4 & cr4::SMEP != 0;
        !smap && !smep && (!need.write || m.writable || !wp) && (!need.exec || m.exec)
    };
    if allowed { Ok(()) } else { Err(pf::P) }
}

fn read_path(cpu: &CpuState, mem: &impl Entries, la: u64, roots: Roots<'_>) -> Result<Path, u32> {
    let mode = Mode::of(cpu, roots.phys_bits);
    let mut walk = Walk {
        mem,
        mode,
        la,
        path: Path {
            mapping: Mapping::default(),
            visited: Default::default(),
            depth: 0,
        },
        writable: true,
        user: true,
        exec: true,
    };
    if mode.long {
        walk.run(cpu.cr3 & ADDR_MASK & !mode.reserved, 39, 9)?;
    } else if mode.pae {
        walk.run_pae(roots.pdptes)?;
    } else {
        walk.run(cpu.cr3 & 0xffff_f000, 22, 10)?;
    }
    Ok(walk.path)
}

struct Walk<'a, M> {
    mem: &'a M,
    mode: Mode,
    la: u64,
    path: Path,
    writable: bool,
    user: bool,
    exec: bool,
}

impl<M: Entries> Walk<'_, M> {
    /// PAE starts with four entries that have no permissions and were loaded
    /// with CR3 (SDM vol 3, 4.4.1).
    fn run_pae(&mut self, pdptes: &[u64; 4]) -> Result<(), u32> {
        let entry = pdptes[(self.la >> 30) as usize & 3];
        if entry & pte::P == 0 {
            return Err(NOT_PRESENT);
        }
        // Only the VMM can have loaded it.
        if !pdpte_valid(entry, self.mode.phys_bits) {
            return Err(pf::P | pf::RSVD);
        }
        self.run(entry & ADDR_MASK, 21, 9)
    }

    fn run(&mut self, mut table: u64, mut shift: u32, bits: u32) -> Result<(), u32> {
        let size = self.mode.entry_size();
        loop {
            let index = (self.la >> shift) & ((1 << bits) - 1);
            let gpa = table + index * u64::from(size);
            let entry = self.mem.read_entry(gpa, size).unwrap_or(0);
            if entry & pte::P == 0 {
                return Err(NOT_PRESENT);
            }
            let large = shift > 12 && entry & pte::PS != 0 && self.large_allowed(shift);
            let reserved = match size {
                8 => self.reserved_bits(entry, shift, large),
                _ if large => entry & self.mode.pse_reserved,
                _ => 0,
            };
            if reserved != 0 {
                return Err(pf::P | pf::RSVD);
            }
            self.visit(gpa, entry);
            if large || shift == 12 {
                return self.leaf(entry, shift);
            }
            table = if size == 8 {
                entry & ADDR_MASK
            } else {
                entry & 0xffff_f000
            };
            shift -= bits;
        }
    }

    fn large_allowed(&self, shift: u32) -> bool {
        match shift {
            21 => true,
            22 => self.mode.pse,
            30 => self.mode.long,
            _ => false,
        }
    }

    fn reserved_bits(&self, entry: u64, shift: u32, large: bool) -> u64 {
        let mut mask = self.mode.reserved;
        if !self.mode.long {
            mask |= 0x7ff0_0000_0000_0000; // PAE has no software bits up there
        }
        if large {
            // Bit 12 is PAT in a large leaf; the rest up to `shift` is 0.
            mask |= ((1 << shift) - 1) & !0x1fff;
        } else if shift == 39 {
            mask |= pte::PS;
        }
        entry & mask
    }

    fn visit(&mut self, gpa: u64, value: u64) {
        self.writable &= value & pte::RW != 0;
        self.user &= value & pte::US != 0;
        self.exec &= !(self.mode.nx && value & pte::NX != 0);
        self.path.visited[self.path.depth] = Visited { gpa, value };
        self.path.depth += 1;
    }

    fn leaf(&mut self, entry: u64, shift: u32) -> Result<(), u32> {
        let offset = self.la & ((1u64 << shift) - 1) & !PAGE_MASK;
        let base = if self.mode.entry_size() == 8 {
            entry & ADDR_MASK & !((1 << shift) - 1)
        } else if shift == 22 {
            // PSE-36: bits 13..=20 are address bits 32..=39 (SDM vol 3, 4.3).
            (entry & 0xffc0_0000) | ((entry & 0x1f_e000) << 19)
        } else {
            entry & 0xffff_f000
        };
        self.path.mapping = Mapping {
            gpa: base | offset,
            writable: self.writable,
            user: self.user,
            exec: self.exec,
            global: self.mode.pge && entry & pte::G != 0,
            dirty: entry & pte::D != 0,
            shift: shift as u8,
        };
        Ok(())
    }
}

/// Sets A in every visited entry and D in the leaf of a write. False if an
/// entry changed under us: walk again.
fn update_ad(cpu: &CpuState, mem: &impl Entries, path: &Path, write: bool) -> bool {
    let size = if cpu.cr4 & cr4::PAE != 0 { 8 } else { 4 };
    for (i, v) in path.visited[..path.depth].iter().enumerate() {
        let leaf = i + 1 == path.depth;
        let new = v.value | pte::A | if leaf && write { pte::D } else { 0 };
        let lost = new != v.value && !mem.update_entry(v.gpa, size, v.value, new);
        // The entry may hold the old value again by now: whatever it holds,
        // the walk starts over.
        if lost {
            return false;
        }
    }
    true
}
