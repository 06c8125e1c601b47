//! The PVH entry (Xen, docs/misc/pvh.pandoc) and the way to long mode
//! (Intel SDM vol. 3A, 9.8.5).

use core::arch::global_asm;

/// `hvm_start_info`, version 1.
#[repr(C)]
pub struct StartInfo {
    pub magic: u32,
    pub version: u32,
    pub flags: u32,
    pub module_count: u32,
    pub modules: u64,
    pub command_line: u64,
    pub rsdp: u64,
    pub memory_map: u64,
    pub memory_map_entries: u32,
    reserved: u32,
}

/// Entry of the memory map.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MapEntry {
    pub start: u64,
    pub size: u64,
    pub kind: u32,
    reserved: u32,
}

/// `XEN_HVM_START_MAGIC_VALUE`.
pub const MAGIC: u32 = 0x336e_c578;
/// No loader passes a longer map.
const MAX_ENTRIES: u32 = 128;
const MAX_COMMAND_LINE: usize = 4096;

impl StartInfo {
    /// The memory map, empty if the loader gave none.
    pub fn map(&self) -> &[MapEntry] {
        if self.magic != MAGIC || self.version < 1 || self.memory_map == 0 {
            return &[];
        }
        let count = self.memory_map_entries.min(MAX_ENTRIES) as usize;
        // SAFETY: the protocol says that many entries are there, in
        // identity-mapped memory that nobody writes.
        unsafe { core::slice::from_raw_parts(self.memory_map as *const MapEntry, count) }
    }

    /// The command line without its NUL.
    pub fn command_line(&self) -> &[u8] {
        if self.magic != MAGIC || self.command_line == 0 {
            return &[];
        }
        let start = self.command_line as *const u8;
        let mut length = 0;
        // SAFETY: the protocol says a NUL ends the text; every byte up to it
        // is identity-mapped memory that nobody writes.
        unsafe {
            while length < MAX_COMMAND_LINE && *start.add(length) != 0 {
                length += 1;
            }
            core::slice::from_raw_parts(start, length)
        }
    }
}

global_asm!(
    r#"
    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18              // name size, value size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long pvh_start

    .section .boot, "ax"
    .code32
    .globl pvh_start
pvh_start:
    cli
    cld
    movl $stack_top, %esp
    movl %ebx, %esi             // start information, kept for guest_main
    // PML4[0] -> PDPT; PDPT[0..4] -> four page directories of 2 MiB pages.
    movl $pdpt, %eax
    orl $3, %eax
    movl %eax, pml4
    movl $directories, %eax
    orl $3, %eax
    movl $pdpt, %edi
    movl $4, %ecx
1:  movl %eax, (%edi)
    addl $4096, %eax
    addl $8, %edi
    loop 1b
    movl $directories, %edi
    movl $0x83, %eax            // present, writable, large
    movl $2048, %ecx
2:  cmpl $0xc0000000, %eax
    jb 3f
    orl $0x10, %eax             // the last GiB is device space: uncached
3:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 2b
    movl $pml4, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x620, %eax            // PAE, OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl $0xc0000080, %ecx      // EFER
    rdmsr
    orl $0x100, %eax            // LME
    wrmsr
    movl %cr0, %eax
    andl $0xfffffff3, %eax      // no EM, no TS
    orl $0x80010003, %eax       // PG, WP, MP, PE
    movl %eax, %cr0
    lgdt gdt_pointer
    ljmp $8, $long_mode
    .code64
long_mode:
    movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %esi, %edi
    xorl %ebp, %ebp
    call guest_main
    ud2

    .section .rodata
    .balign 8
gdt:
    .quad 0
    .quad 0x00af9b000000ffff    // 64-bit code
    .quad 0x00cf93000000ffff    // data
gdt_pointer:
    .word 23
    .long gdt

    .section .bss
    .balign 4096
pml4:        .skip 4096
pdpt:        .skip 4096
directories: .skip 16384
    .skip 65536
stack_top:
    .text
"#,
    options(att_syntax)
);
