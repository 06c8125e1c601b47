//! PVH boot (Xen docs/misc/pvh.pandoc and public headers, start_info.h).

use super::{Entry, LoadedInitrd, LoadedKernel, elf};
use crate::layout::{Layout, ONE_MIB, boot};
use crate::ram::{GuestRam, NotRam};

/// `XEN_HVM_START_MAGIC_VALUE`: "xEn3" with the first 'x' marked.
const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;
/// Bytes of `hvm_start_info` version 1; the module list follows.
const MODULES: u64 = boot::PVH_INFO + 64;
/// Bytes of one module row; the memory map follows.
const MEMORY_MAP: u64 = MODULES + 32;

/// Linux takes up to 2,047 characters on x86.
const CMDLINE_MAX: usize = 2047;

/// Loads an ELF kernel with a PVH entry.
pub fn load(file: &[u8], layout: &Layout, ram: &GuestRam) -> Result<LoadedKernel, String> {
    let elf = elf::parse(file)?;
    let rip = elf
        .pvh_entry
        .ok_or("is an ELF file without a PVH entry note (CONFIG_PVH)")?;
    let allowed = |first: u64, last: u64| first >= ONE_MIB && last <= layout.low_end;
    let end = elf::place(file, &elf.segments, layout, ram, allowed)?;
    if !elf
        .segments
        .iter()
        .any(|s| rip.wrapping_sub(s.gpa) < s.memory_size)
    {
        return Err(format!("has its PVH entry {rip:#x} outside every segment"));
    }
    Ok(LoadedKernel {
        entry: Entry::Pvh { rip },
        end,
        initrd_max: u64::MAX - 1,
        cmdline_max: CMDLINE_MAX,
    })
}

/// Writes the start info, its module list and its memory map.
pub fn write_info(
    layout: &Layout,
    initrd: Option<LoadedInitrd>,
    rsdp: u64,
    ram: &GuestRam,
) -> Result<(), NotRam> {
    let map = layout.map();
    let mut info = Vec::new();
    let modules = u32::from(initrd.is_some());
    for word in [MAGIC, VERSION, 0, modules] {
        info.extend(word.to_le_bytes());
    }
    let module_list = if initrd.is_some() { MODULES } else { 0 };
    for quad in [module_list, boot::CMDLINE, rsdp, MEMORY_MAP] {
        info.extend(quad.to_le_bytes());
    }
    info.extend((map.len() as u32).to_le_bytes());
    ram.write(boot::PVH_INFO, &info)?;
    if let Some(initrd) = initrd {
        let row = [initrd.gpa, initrd.size, 0, 0].map(u64::to_le_bytes);
        ram.write(MODULES, row.as_flattened())?;
    }
    let mut rows = Vec::new();
    for entry in map {
        rows.extend(entry.gpa.to_le_bytes());
        rows.extend(entry.size.to_le_bytes());
        rows.extend((entry.kind as u32).to_le_bytes());
        rows.extend([0; 4]);
    }
    ram.write(MEMORY_MAP, &rows)
}
