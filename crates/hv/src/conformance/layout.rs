//! Where things are in a case's guest-physical memory, and its selectors.
//!
//! Paging modes map the first 2 MiB one to one, so these are linear addresses
//! as well.

/// Bytes of RAM behind guest-physical address 0, less the MMIO window.
pub const RAM_SIZE: u64 = 2 << 20;
/// Guest-physical window without memory, reachable from every mode.
pub const MMIO: u64 = 0xa_0000;
/// First byte after the window.
pub const MMIO_END: u64 = 0xc_0000;

/// Global descriptor table, [`sel`].
pub const GDT: u64 = 0x1000;
/// Interrupt descriptor table (real mode has its vectors at 0).
pub const IDT: u64 = 0x2000;
/// Task-state segment, 32- or 64-bit.
pub const TSS: u64 = 0x3000;
/// Stack pointer a case starts with.
pub const STACK_TOP: u64 = 0x8000;
/// One stub of 16 bytes per vector: OUT to [`EXCEPTION_PORT`] + vector, HLT.
pub const STUBS: u64 = 0x8000;
/// Ring-0 stack that the TSS names.
pub const RING0_TOP: u64 = 0xf000;
/// Stack of interrupt-stack-table entry 1.
pub const IST1_TOP: u64 = 0xe000;
/// The case's program.
pub const CODE: u64 = 0x1_0000;
/// The case's data; DS in real mode.
pub const DATA: u64 = 0x2_0000;
/// Paging structures: root first, then a pool.
pub const TABLES: u64 = 0x3_0000;
/// End of the pool.
pub const TABLES_END: u64 = 0x4_0000;
/// User pages (U/S = 1): code, data, stack.
pub const USER: u64 = 0x4_0000;
/// User code.
pub const USER_CODE: u64 = USER;
/// User data.
pub const USER_DATA: u64 = 0x5_0000;
/// User stack pointer.
pub const USER_STACK_TOP: u64 = 0x6_f000;
/// End of the user pages.
pub const USER_END: u64 = 0x7_0000;
/// Spare supervisor pages.
pub const SPARE: u64 = 0x7_0000;

/// A write here ends a program in VMs where HLT does not exit.
pub const DONE_PORT: u16 = 0xf4;
/// First of 32 ports, one per exception vector.
pub const EXCEPTION_PORT: u16 = 0xc0;

/// Selectors. The order suits SYSCALL (0x08, 0x10), SYSRET (0x38 based) and
/// SYSENTER (0x08 based); SDM vol 3, 5.8.7 and 5.8.8.
pub mod sel {
    #![allow(missing_docs, reason = "the names are the documentation")]
    /// 64-bit in long mode, 32-bit otherwise.
    pub const CODE: u16 = 0x08;
    pub const DATA: u16 = 0x10;
    pub const CODE32: u16 = 0x18;
    pub const CODE16: u16 = 0x28;
    pub const DATA16: u16 = 0x30;
    pub const USER32: u16 = 0x38 | 3;
    pub const USER_DATA: u16 = 0x40 | 3;
    pub const USER64: u16 = 0x48 | 3;
    /// Two slots wide in long mode.
    pub const TSS: u16 = 0x50;
    /// For the case's own descriptors; two slots wide.
    pub const SPARE: u16 = 0x60;
    pub const SPARE2: u16 = 0x70;
    /// Bytes of the table.
    pub const END: u16 = 0x100;
}
