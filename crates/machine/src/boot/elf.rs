//! Just enough ELF for PVH kernels (System V gABI, chapters 4 and 5): program
//! headers and the notes in PT_NOTE segments, 32-bit and 64-bit.

use super::bytes::{u16_at, u32_at, u64_at};
use crate::layout::Layout;
use crate::ram::GuestRam;

/// First bytes of an ELF file.
pub const MAGIC: &[u8] = b"\x7fELF";

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const CLASS_32: u8 = 1;
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;
/// `XEN_ELFNOTE_PHYS32_ENTRY` (Xen public headers, elfnote.h).
const PHYS32_ENTRY: u32 = 18;

/// A segment to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// File offset of its bytes.
    pub offset: u64,
    /// Guest-physical address.
    pub gpa: u64,
    /// Linear address that the kernel gives it.
    pub virtual_address: u64,
    /// Bytes in the file.
    pub file_size: u64,
    /// Bytes in memory.
    pub memory_size: u64,
}

/// What loading needs of a kernel.
#[derive(Clone, Debug)]
pub struct Elf {
    /// PT_LOAD segments with bytes in memory.
    pub segments: Vec<Segment>,
    /// The PVH entry point, if a note names one.
    pub pvh_entry: Option<u64>,
    /// The file's entry point as a guest-physical address.
    pub entry: Option<u64>,
}

/// Parses a file that starts with [`MAGIC`].
pub fn parse(file: &[u8]) -> Result<Elf, String> {
    let class = file.get(4).copied();
    let is_64 = class == Some(CLASS_64);
    let machine = u16_at(file, 18);
    let known = matches!(
        (class, machine),
        (Some(CLASS_32), Some(EM_386)) | (Some(CLASS_64), Some(EM_X86_64))
    );
    if !known || file.get(5) != Some(&LITTLE_ENDIAN) {
        return Err("is an ELF file, but not for x86".into());
    }
    let truncated = || "is truncated: its ELF headers end early".to_string();
    let (table, row, count) = if is_64 {
        (u64_at(file, 32), u16_at(file, 54), u16_at(file, 56))
    } else {
        (
            u32_at(file, 28).map(u64::from),
            u16_at(file, 42),
            u16_at(file, 44),
        )
    };
    let (Some(table), Some(row), Some(count)) = (table, row, count) else {
        return Err(truncated());
    };
    let mut elf = Elf {
        segments: Vec::new(),
        pvh_entry: None,
        entry: None,
    };
    for i in 0..u64::from(count) {
        let at = (i * u64::from(row)).checked_add(table);
        let at = at
            .and_then(|at| usize::try_from(at).ok())
            .ok_or_else(truncated)?;
        let (kind, segment) = program_header(file, at, is_64).ok_or_else(truncated)?;
        match kind {
            PT_LOAD if segment.memory_size > 0 => elf.segments.push(segment),
            PT_NOTE if elf.pvh_entry.is_none() => {
                elf.pvh_entry = find_entry(bytes_of(file, &segment).unwrap_or_default());
            }
            _ => {}
        }
    }
    let entry = match is_64 {
        true => u64_at(file, 24),
        false => u32_at(file, 24).map(u64::from),
    };
    elf.entry = entry.map(|e| elf.physical(e));
    Ok(elf)
}

/// A file that starts with [`MAGIC`] is for 32 bits.
pub fn is_32(file: &[u8]) -> bool {
    file.get(4) == Some(&CLASS_32)
}

impl Elf {
    /// Where the byte at a linear address is loaded; the address itself if no
    /// segment has it.
    fn physical(&self, address: u64) -> u64 {
        let place = |s: &Segment| {
            let offset = address.checked_sub(s.virtual_address)?;
            (offset < s.memory_size).then(|| s.gpa.wrapping_add(offset))
        };
        self.segments.iter().find_map(place).unwrap_or(address)
    }
}

/// A segment's bytes, or `None` if the file ends before them.
pub fn bytes_of<'a>(file: &'a [u8], segment: &Segment) -> Option<&'a [u8]> {
    let start = usize::try_from(segment.offset).ok()?;
    let end = start.checked_add(usize::try_from(segment.file_size).ok()?)?;
    file.get(start..end)
}

/// Copies segments to where they belong; the end of the highest. `allowed` says
/// whether one may lie between two guest-physical addresses.
pub fn place(
    file: &[u8],
    segments: &[Segment],
    layout: &Layout,
    ram: &GuestRam,
    allowed: impl Fn(u64, u64) -> bool,
) -> Result<u64, String> {
    let total = segments.iter().map(|s| s.file_size);
    if total.fold(0, u64::saturating_add) > layout.low_end {
        return Err("has more segments than fit into the guest's memory".into());
    }
    let mut end = 0;
    for segment in segments {
        let bytes = bytes_of(file, segment).ok_or("is truncated: a segment ends early")?;
        let size = segment.memory_size.max(segment.file_size);
        let last = segment.gpa.checked_add(size);
        let last = last.filter(|&last| allowed(segment.gpa, last));
        let last = last.ok_or_else(|| {
            format!(
                "has a segment of {} KiB at {:#x}, outside the guest's {} KiB below 4 GiB",
                size >> 10,
                segment.gpa,
                layout.low_end >> 10
            )
        })?;
        // RAM is zero already: only the file's bytes need copying.
        ram.write(segment.gpa, bytes)
            .map_err(|e| format!("has a segment at {:#x}, which is not RAM", e.gpa))?;
        end = end.max(last);
    }
    Ok(end)
}

fn program_header(file: &[u8], at: usize, is_64: bool) -> Option<(u32, Segment)> {
    let kind = u32_at(file, at)?;
    let field = |long: usize, short: usize| match is_64 {
        true => u64_at(file, at.checked_add(long)?),
        false => u32_at(file, at.checked_add(short)?).map(u64::from),
    };
    let segment = Segment {
        offset: field(8, 4)?,
        gpa: field(24, 12)?,
        virtual_address: field(16, 8)?,
        file_size: field(32, 16)?,
        memory_size: field(40, 20)?,
    };
    Some((kind, segment))
}

/// Walks notes: name size, description size, type, then both padded to 4.
fn find_entry(mut notes: &[u8]) -> Option<u64> {
    loop {
        let name_size = u32_at(notes, 0)? as usize;
        let data_size = u32_at(notes, 4)? as usize;
        let kind = u32_at(notes, 8)?;
        let data_at = 12usize
            .checked_add(name_size)?
            .checked_next_multiple_of(4)?;
        let end = data_at.checked_add(data_size)?;
        if kind == PHYS32_ENTRY && notes.get(12..12 + name_size) == Some(b"Xen\0") {
            return match data_size {
                4 => u32_at(notes, data_at).map(u64::from),
                8 => u64_at(notes, data_at),
                _ => None,
            };
        }
        notes = notes.get(end.checked_next_multiple_of(4)?..)?;
    }
}
