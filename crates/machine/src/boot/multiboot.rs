//! Multiboot kernels (Multiboot Specification 0.6.96): ELF32, or any file
//! whose header has the address fields. Modules come from `-initrd`, as in
//! QEMU: `FILE ARGUMENTS,FILE ARGUMENTS`, a doubled comma is a comma.

use super::bytes::u32_at;
use super::elf::{self, Segment};
use super::start::{EntryMode, Start};
use crate::config::Image;
use crate::layout::{CONVENTIONAL_END, EBDA, Layout, ONE_MIB, PAGE, VGA_END};
use crate::ram::{GuestRam, NotRam};

/// What a kernel finds in EAX (3.2).
pub const BOOT_MAGIC: u32 = 0x2bad_b002;

/// The header (3.1.1): its place, magic, flags and fields.
mod header {
    /// It lies in the first bytes of the file.
    pub const WITHIN: usize = 8192;
    pub const MAGIC: u32 = 0x1bad_b002;
    /// Flags that a loader must know or give up.
    pub const REQUIRED: u32 = 0xffff;
    pub const ALIGN_MODULES: u32 = 1 << 0;
    pub const MEMORY: u32 = 1 << 1;
    pub const VIDEO: u32 = 1 << 2;
    pub const ADDRESSES: u32 = 1 << 16;
}

/// The information (3.3): flags and places.
mod info {
    /// Memory sizes, command line, modules, memory map, loader's name.
    pub const FLAGS: u32 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
    pub const SIZE: usize = 88;
    pub const MEM_LOWER: usize = 4;
    pub const MEM_UPPER: usize = 8;
    pub const CMDLINE: usize = 16;
    pub const MODULE_COUNT: usize = 20;
    pub const MODULES: usize = 24;
    pub const MAP_LEN: usize = 44;
    pub const MAP: usize = 48;
    pub const LOADER: usize = 64;
    /// Bytes of a module's row, and of a map's row without its size field.
    pub const MODULE_ROW: usize = 16;
    pub const MAP_ROW: u32 = 20;
}

const LOADER_NAME: &[u8] = b"trapeze\0";
/// Kernels may use memory from here on; below is the descriptor table.
const LOWEST: u64 = 0x1000;
const MAX_MODULES: usize = 256;
const MAX_TEXT: usize = 64 << 10;

/// Where the header is and what it asks for.
#[derive(Clone, Copy)]
pub struct Header {
    at: usize,
    flags: u32,
}

/// Finds the header: magic, flags and a checksum that makes their sum 0.
pub fn find(file: &[u8]) -> Option<Header> {
    let end = file.len().min(header::WITHIN);
    let matches = |&at: &usize| {
        let word = |n: usize| u32_at(&file[..end], at + 4 * n);
        let (Some(magic), Some(flags), Some(sum)) = (word(0), word(1), word(2)) else {
            return false;
        };
        magic == header::MAGIC && magic.wrapping_add(flags).wrapping_add(sum) == 0
    };
    let at = (0..end).step_by(4).find(matches)?;
    let flags = u32_at(file, at + 4)?;
    Some(Header { at, flags })
}

/// Loads kernel and modules; says how the kernel starts.
pub fn load(
    file: &[u8],
    header: Header,
    name: &str,
    texts: (&str, Option<&Image>),
    layout: &Layout,
    ram: &GuestRam,
) -> Result<Start, String> {
    let known = header::ALIGN_MODULES | header::MEMORY | header::VIDEO;
    let unknown = header.flags & header::REQUIRED & !known;
    if unknown != 0 {
        return Err(format!(
            "asks for Multiboot features {unknown:#x}, which there are not"
        ));
    }
    if header.flags & header::VIDEO != 0 {
        log::warn!("kernel '{name}' asks for a video mode; there is no display");
    }
    let (segments, entry) = match header.flags & header::ADDRESSES {
        0 => elf_segments(file)?,
        _ => address_fields(file, header.at)?,
    };
    let end = place(file, &segments, layout, ram)?;
    if !segments
        .iter()
        .any(|s| entry.wrapping_sub(s.gpa) < s.memory_size)
    {
        return Err(format!(
            "has its entry {entry:#x} outside of what is loaded"
        ));
    }
    let (cmdline, initrd) = texts;
    let mut area = Area {
        at: end.max(ONE_MIB),
        layout,
        ram,
    };
    let modules = load_modules(initrd, &mut area)?;
    // As QEMU: the kernel's file name is its first word.
    let cmdline = format!("{name} {cmdline}");
    let info = write_info(&cmdline, &modules, &mut area)?;
    Ok(Start {
        rip: entry,
        mode: EntryMode::Multiboot,
        info,
    })
}

/// Segments and entry of an ELF32 file.
fn elf_segments(file: &[u8]) -> Result<(Vec<Segment>, u64), String> {
    if !file.starts_with(elf::MAGIC) {
        return Err("has a Multiboot header without address fields, but is no ELF file".into());
    }
    if !elf::is_32(file) {
        return Err("is a Multiboot kernel for x86-64; Multiboot wants a 32-bit ELF file".into());
    }
    let elf = elf::parse(file)?;
    let entry = elf.entry.ok_or("is truncated: its ELF headers end early")?;
    Ok((elf.segments, entry))
}

/// The segment and the entry that a header's address fields describe (3.1.3).
fn address_fields(file: &[u8], at: usize) -> Result<(Vec<Segment>, u64), String> {
    let field = |n: usize| u32_at(file, at + 4 * n).map(u64::from);
    let fields = [3, 4, 5, 6, 7].map(field);
    let [
        Some(header),
        Some(load),
        Some(load_end),
        Some(bss_end),
        Some(entry),
    ] = fields
    else {
        return Err("is truncated: its Multiboot header ends early".into());
    };
    let bad = || "has Multiboot address fields that contradict each other".to_string();
    let before = header.checked_sub(load).ok_or_else(bad)?;
    let offset = (at as u64).checked_sub(before).ok_or_else(bad)?;
    let rest = (file.len() as u64).checked_sub(offset).ok_or_else(bad)?;
    let file_size = match load_end {
        0 => rest,
        end => end.checked_sub(load).ok_or_else(bad)?,
    };
    let memory_size = match bss_end {
        0 => file_size,
        end => end
            .checked_sub(load)
            .filter(|&n| n >= file_size)
            .ok_or_else(bad)?,
    };
    let segment = Segment {
        offset,
        gpa: load,
        virtual_address: load,
        file_size,
        memory_size,
    };
    Ok((vec![segment], entry))
}

/// Copies the segments; the end of the highest.
fn place(
    file: &[u8],
    segments: &[Segment],
    layout: &Layout,
    ram: &GuestRam,
) -> Result<u64, String> {
    elf::place(file, segments, layout, ram, |first, last| {
        let low = first >= LOWEST && last <= CONVENTIONAL_END;
        low || (first >= VGA_END && last <= layout.low_end)
    })
}

/// Memory behind the kernel, given out page by page.
struct Area<'a> {
    at: u64,
    layout: &'a Layout,
    ram: &'a GuestRam,
}

impl Area<'_> {
    /// A page-aligned place for `size` bytes.
    fn take(&mut self, size: usize) -> Option<u64> {
        let gpa = self.at.checked_next_multiple_of(PAGE)?;
        let end = gpa.checked_add(size as u64)?;
        (end <= self.layout.low_end).then(|| {
            self.at = end;
            gpa
        })
    }

    fn put(&mut self, bytes: &[u8]) -> Option<u64> {
        let gpa = self.take(bytes.len())?;
        self.ram.write(gpa, bytes).ok().map(|()| gpa)
    }
}

/// A module in guest memory, and its string.
struct Module {
    gpa: u64,
    end: u64,
    text: String,
}

fn load_modules(initrd: Option<&Image>, area: &mut Area<'_>) -> Result<Vec<Module>, String> {
    let whole = initrd.map(|image| [(image.clone(), image.name())]);
    let images = match (initrd, &whole) {
        (Some(Image::File(file)), Some(whole)) => {
            let words = words_of(file.path().to_str().ok_or("a module's name is not UTF-8")?);
            match &words[..] {
                [word] if *word == whole[0].1 && !word.contains(' ') => &whole[..],
                _ => file.list(|| words.into_iter().map(module).collect()),
            }
        }
        (_, whole) => whole.as_ref().map_or(&[][..], |whole| &whole[..]),
    };
    if images.len() > MAX_MODULES {
        return Err(format!("there can be {MAX_MODULES} modules"));
    }
    let load = |(image, text): &(Image, String)| {
        let refuse = |why: String| format!("module '{}': {why}", image.name());
        let bytes = image.read(area.layout.low_end).map_err(refuse)?;
        let gpa = area.put(&bytes);
        let gpa = gpa.ok_or_else(|| refuse("does not fit into the guest's memory".into()))?;
        let end = gpa + bytes.len() as u64;
        let text = text.clone();
        Ok(Module { gpa, end, text })
    };
    images.iter().map(load).collect()
}

/// The file that a word of `-initrd` begins with, and the word.
fn module(word: String) -> (Image, String) {
    (Image::at(word.split(' ').next().unwrap_or_default()), word)
}

/// The words between single commas.
fn words_of(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let separates = c == ',' && rest.next_if_eq(&',').is_none();
        match (separates, words.last_mut()) {
            (false, Some(word)) => word.push(c),
            _ => words.push(String::new()),
        }
    }
    words
}

/// Writes the information and all it points to; returns its address.
fn write_info(cmdline: &str, modules: &[Module], area: &mut Area<'_>) -> Result<u64, String> {
    let map = area.layout.map();
    let mut map_bytes = Vec::new();
    for entry in &map {
        map_bytes.extend(info::MAP_ROW.to_le_bytes());
        map_bytes.extend(entry.gpa.to_le_bytes());
        map_bytes.extend(entry.size.to_le_bytes());
        map_bytes.extend((entry.kind as u32).to_le_bytes());
    }
    let rows = modules.len() * info::MODULE_ROW;
    let texts = modules.iter().map(|m| m.text.len() + 1).sum::<usize>() + cmdline.len() + 1;
    if texts > MAX_TEXT {
        return Err(format!(
            "command line and modules have {texts} bytes of text, more than {MAX_TEXT}"
        ));
    }
    let size = info::SIZE + map_bytes.len() + rows + texts + LOADER_NAME.len();
    let no_room = || "leaves no room for the boot information".to_string();
    let base = area.take(size).ok_or_else(no_room)?;
    let mut bytes = vec![0; info::SIZE];
    let mut append = |part: &[u8]| {
        let at = base + bytes.len() as u64;
        bytes.extend(part);
        at as u32
    };
    let map_at = append(&map_bytes);
    let loader = append(LOADER_NAME);
    let line = append(&[cmdline.as_bytes(), b"\0"].concat());
    let mut table = Vec::new();
    for module in modules {
        let text = append(&[module.text.as_bytes(), b"\0"].concat());
        for word in [module.gpa as u32, module.end as u32, text, 0] {
            table.extend(word.to_le_bytes());
        }
    }
    let modules_at = append(&table);
    let lower = (EBDA >> 10) as u32;
    let upper = ((area.layout.low_end - ONE_MIB) >> 10) as u32;
    for (at, value) in [
        (0, info::FLAGS),
        (info::MEM_LOWER, lower),
        (info::MEM_UPPER, upper),
        (info::CMDLINE, line),
        (info::MODULE_COUNT, modules.len() as u32),
        (info::MODULES, modules_at),
        (info::MAP_LEN, map_bytes.len() as u32),
        (info::MAP, map_at),
        (info::LOADER, loader),
    ] {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    let written = area.ram.write(base, &bytes);
    written.map(|()| base).map_err(|_: NotRam| no_room())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubled_comma_belongs_to_the_name() {
        assert_eq!(words_of("a x=1,b,,c y"), ["a x=1", "b,c y"]);
        assert_eq!(words_of("a"), ["a"]);
    }

    #[test]
    fn only_a_sound_header_counts() {
        let header = |magic: u32, flags: u32, sum: u32| {
            let words = [magic, flags, sum].map(u32::to_le_bytes);
            [&[0x90; 8][..], words.as_flattened()].concat()
        };
        let magic = header::MAGIC;
        let sound = header(magic, 3, 0u32.wrapping_sub(magic + 3));
        assert_eq!(find(&sound).map(|h| (h.at, h.flags)), Some((8, 3)));
        assert!(find(&header(magic, 3, 1)).is_none());
        assert!(find(&sound[..18]).is_none());
        assert!(find(&[&[0; 8192][..], &sound].concat()).is_none());
        assert!(find(&[&[0; 2][..], &sound].concat()).is_none());
    }
}
