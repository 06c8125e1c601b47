//! The bootstrap processor's state at a kernel's entry.

use super::multiboot;
use crate::layout::boot;
use crate::ram::{GuestRam, NotRam};
use hv::abi::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use x86::{cr0, cr4, efer, flags};

/// Which state an entry point expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryMode {
    /// Linux 64-bit boot protocol: long mode, identity-mapped.
    Long,
    /// Linux 32-bit boot protocol: flat protected mode, no paging.
    Protected,
    /// PVH: as [`Self::Protected`], start info in EBX.
    Pvh,
    /// Multiboot: as [`Self::Pvh`], with a magic number in EAX.
    Multiboot,
}

/// How the bootstrap processor starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Entry point.
    pub rip: u64,
    /// State it expects.
    pub mode: EntryMode,
    /// Zero page or start info.
    pub info: u64,
}

/// `__BOOT_CS` and `__BOOT_DS` (boot.rst).
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TSS: u16 = 0x20;

mod descriptor {
    /// Flat 4 GiB code, 32-bit.
    pub const CODE_32: u64 = 0x00cf_9b00_0000_ffff;
    /// Flat code, 64-bit.
    pub const CODE_64: u64 = 0x00af_9b00_0000_ffff;
    /// Flat 4 GiB data.
    pub const DATA: u64 = 0x00cf_9300_0000_ffff;
    /// Busy 32/64-bit TSS at 0, limit 0x67.
    pub const TSS: u64 = 0x0000_8b00_0000_0067;
}

/// Entries of the descriptor table; the code descriptor depends on the mode.
const GDT_LEN: usize = 5;

/// Present, writable; with PS in page directories a 2 MiB page.
const PTE: u64 = 0x3;
const PDE_2M: u64 = 0x83;

/// Writes the identity page tables for the first 4 GiB.
pub fn write_tables(ram: &GuestRam) -> Result<(), NotRam> {
    let pdpt = boot::PAGE_TABLES + 0x1000;
    let directories = boot::PAGE_TABLES + 0x2000;
    ram.write(boot::PAGE_TABLES, &(pdpt | PTE).to_le_bytes())?;
    for i in 0..4 {
        let entry = (directories + i * 0x1000) | PTE;
        ram.write(pdpt + i * 8, &entry.to_le_bytes())?;
    }
    let pages: Vec<u8> = (0..2048u64)
        .flat_map(|i| (i << 21 | PDE_2M).to_le_bytes())
        .collect();
    ram.write(directories, &pages)
}

fn code_descriptor(mode: EntryMode) -> u64 {
    match mode {
        EntryMode::Long => descriptor::CODE_64,
        EntryMode::Protected | EntryMode::Pvh | EntryMode::Multiboot => descriptor::CODE_32,
    }
}

/// Writes the descriptor table and sets the vCPU's registers.
pub fn apply(start: &Start, ram: &GuestRam, vcpu: &mut dyn hv::Vcpu) -> crate::Result<()> {
    let code = code_descriptor(start.mode);
    let gdt: [u64; GDT_LEN] = [0, 0, code, descriptor::DATA, descriptor::TSS];
    let bytes = gdt.map(u64::to_le_bytes);
    // The GDT page lies in conventional memory, which every layout has.
    let written = ram.write(boot::GDT, bytes.as_flattened());
    debug_assert!(written.is_ok());

    let mut sregs = vcpu.sregs()?;
    set_segments(&mut sregs, code);
    sregs.cr0 = cr0::PE | cr0::ET;
    sregs.cr4 = 0;
    sregs.efer = 0;
    if start.mode == EntryMode::Long {
        sregs.cr0 |= cr0::PG;
        sregs.cr3 = boot::PAGE_TABLES;
        sregs.cr4 = cr4::PAE;
        sregs.efer = efer::LME | efer::LMA;
    }
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&registers(start))?;
    Ok(())
}

fn registers(start: &Start) -> kvm_regs {
    let mut regs = kvm_regs {
        rip: start.rip,
        rflags: flags::FIXED1,
        rsp: boot::STACK,
        ..Default::default()
    };
    match start.mode {
        EntryMode::Long | EntryMode::Protected => regs.rsi = start.info,
        EntryMode::Pvh => regs.rbx = start.info,
        EntryMode::Multiboot => {
            regs.rax = multiboot::BOOT_MAGIC.into();
            regs.rbx = start.info;
        }
    }
    regs
}

fn set_segments(sregs: &mut kvm_sregs, code: u64) {
    let data = segment(DATA, descriptor::DATA);
    sregs.cs = segment(CODE, code);
    (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
    (sregs.fs, sregs.gs) = (data, data);
    sregs.tr = segment(TSS, descriptor::TSS);
    sregs.ldt = kvm_segment {
        unusable: 1,
        type_: 2,
        ..Default::default()
    };
    sregs.gdt = kvm_dtable {
        base: boot::GDT,
        limit: (GDT_LEN * 8 - 1) as u16,
        ..Default::default()
    };
    sregs.idt = kvm_dtable::default();
}

/// The register that loading `selector` with this descriptor gives.
fn segment(selector: u16, raw: u64) -> kvm_segment {
    let loaded = x86::Segment::from_descriptor(selector, raw);
    let bit = |n: u32| (raw >> n & 1) as u8;
    kvm_segment {
        base: loaded.base,
        limit: loaded.limit,
        selector,
        type_: loaded.type_bits(),
        s: bit(44),
        dpl: loaded.dpl(),
        present: bit(47),
        avl: bit(52),
        l: bit(53),
        db: bit(54),
        g: bit(55),
        ..Default::default()
    }
}
