//! The guest's page tables, as `info tlb` and `info mem` show them.

use crate::command::Failure;
use crate::target::Target;
use std::fmt::Write;
use x86::paging::pte;

/// A guest may point its tables at themselves: no more entries than these are
/// looked at, and no more lines shown.
const MOST_ENTRIES: usize = 1 << 21;
const MOST_LINES: usize = 1 << 15;

/// What is mapped where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leaf {
    gva: u64,
    gpa: u64,
    len: u64,
    /// The entry.
    entry: u64,
    /// Rights of all levels together: `US` and `RW`.
    rights: u64,
}

/// How the tables are built.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// Of the uppermost: 5 to 2.
    levels: u32,
    /// Bytes of an entry, 4 or 8.
    entry: u64,
    root: u64,
}

struct Walk<'a> {
    target: &'a Target,
    shape: Shape,
    left: usize,
}

impl Walk<'_> {
    /// Calls `see` for every leaf in the order of addresses; it says whether it
    /// wants more.
    fn table(
        &mut self,
        level: u32,
        table: u64,
        base: u64,
        rights: u64,
        see: &mut dyn FnMut(Leaf) -> bool,
    ) -> bool {
        let index_bits = if self.shape.entry == 8 { 9 } else { 10 };
        // PAE's uppermost table has four entries.
        let pae_root = self.shape.levels == 3 && level == 3;
        let entries = if pae_root { 4 } else { 1 << index_bits };
        let mut bytes = vec![0; entries * self.shape.entry as usize];
        let machine = &self.target.machine;
        if machine.read_memory(table, &mut bytes).is_err() {
            return true;
        }
        let shift = 12 + index_bits * (level - 1);
        for (index, bytes) in (0..).zip(bytes.chunks_exact(self.shape.entry as usize)) {
            if self.left == 0 {
                return false;
            }
            self.left -= 1;
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            let entry = u64::from_le_bytes(whole);
            if entry & pte::P == 0 {
                continue;
            }
            let gva = sign_extended(base | index << shift, self.shape.levels);
            // Entries of PAE's uppermost table have no rights.
            let rights = if pae_root { rights } else { rights & entry };
            let address = entry & ADDRESS;
            let large = level > 1 && !pae_root && entry & pte::PS != 0;
            let more = match level == 1 || large {
                true => {
                    let len = 1 << shift;
                    see(Leaf {
                        gva,
                        gpa: address & !(len - 1),
                        len,
                        entry,
                        rights,
                    })
                }
                false => self.table(level - 1, address, gva, rights, see),
            };
            if !more {
                return false;
            }
        }
        true
    }
}

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

fn sign_extended(gva: u64, levels: u32) -> u64 {
    match levels {
        4 => ((gva << 16) as i64 >> 16) as u64,
        5 => ((gva << 7) as i64 >> 7) as u64,
        _ => gva,
    }
}

/// The tables in force; `None` without paging.
fn shape(target: &Target, vcpu: u32) -> Result<Option<Shape>, Failure> {
    let sregs = target.machine.on_vcpu(vcpu, |vcpu| vcpu.sregs())??;
    let (paging, pae) = (
        sregs.cr0 & x86::cr0::PG != 0,
        sregs.cr4 & x86::cr4::PAE != 0,
    );
    let long = sregs.efer & x86::efer::LMA != 0;
    let la57 = sregs.cr4 & x86::cr4::LA57 != 0;
    let (levels, entry, mask) = match (paging, pae, long) {
        (false, ..) => return Ok(None),
        (_, false, _) => (2, 4, 0xffff_f000),
        (_, true, false) => (3, 8, 0xffff_ffe0),
        (_, true, true) => (4 + u32::from(la57), 8, ADDRESS),
    };
    let root = sregs.cr3 & mask;
    Ok(Some(Shape {
        levels,
        entry,
        root,
    }))
}

/// Whether all leaves were seen.
fn walk(
    target: &Target,
    vcpu: u32,
    see: &mut dyn FnMut(Leaf) -> bool,
) -> Result<Option<bool>, Failure> {
    let Some(shape) = shape(target, vcpu)? else {
        return Ok(None);
    };
    let left = MOST_ENTRIES;
    let mut walk = Walk {
        target,
        shape,
        left,
    };
    let rights = pte::US | pte::RW;
    Ok(Some(walk.table(shape.levels, shape.root, 0, rights, see)))
}

const CUT: &str = "(there is more)\n";

/// `info tlb`.
pub fn entries(target: &Target, vcpu: u32) -> Result<String, Failure> {
    let (mut text, mut lines) = (String::new(), 0);
    let flags = [
        (pte::NX, 'X'),
        (pte::G, 'G'),
        (pte::PS, 'P'),
        (pte::D, 'D'),
        (pte::A, 'A'),
        (pte::PCD, 'C'),
        (pte::PWT, 'T'),
        (pte::US, 'U'),
        (pte::RW, 'W'),
    ];
    let all = walk(target, vcpu, &mut |leaf| {
        let letter = |(bit, letter)| if leaf.entry & bit != 0 { letter } else { '-' };
        let flags: String = flags.map(letter).iter().collect();
        let _ = writeln!(text, "{:016x}: {:016x} {flags}", leaf.gva, leaf.gpa);
        lines += 1;
        lines < MOST_LINES
    })?;
    Ok(closed(text, all))
}

fn closed(text: String, all: Option<bool>) -> String {
    match all {
        None => "PG disabled\n".into(),
        Some(true) => text,
        Some(false) => text + CUT,
    }
}

/// `info mem`: neighbours with the same rights are one range.
pub fn ranges(target: &Target, vcpu: u32) -> Result<String, Failure> {
    let (mut text, mut lines) = (String::new(), 0);
    let mut range: Option<(u64, u64, u64)> = None;
    let mut end = |range: Option<(u64, u64, u64)>, text: &mut String| {
        if let Some((first, len, rights)) = range {
            let letter = |bit, letter| if rights & bit != 0 { letter } else { '-' };
            let (u, w) = (letter(pte::US, 'u'), letter(pte::RW, 'w'));
            let last = first.wrapping_add(len);
            let _ = writeln!(text, "{first:016x}-{last:016x} {len:016x} {u}r{w}");
            lines += 1;
        }
        lines < MOST_LINES
    };
    let all = walk(target, vcpu, &mut |leaf| {
        if let Some((first, len, rights)) = &mut range
            && first.wrapping_add(*len) == leaf.gva
            && *rights == leaf.rights
        {
            *len += leaf.len;
            return true;
        }
        let old = range.replace((leaf.gva, leaf.len, leaf.rights));
        end(old, &mut text)
    })?;
    end(range, &mut text);
    Ok(closed(text, all))
}
