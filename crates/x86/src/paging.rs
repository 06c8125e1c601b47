//! Page-table entry bits and page-fault error codes (SDM vol 3, chapter 4).

/// Bits of a paging-structure entry.
pub mod pte {
    #![allow(missing_docs, reason = "the names are the documentation")]
    pub const P: u64 = 1 << 0;
    pub const RW: u64 = 1 << 1;
    pub const US: u64 = 1 << 2;
    pub const PWT: u64 = 1 << 3;
    pub const PCD: u64 = 1 << 4;
    pub const A: u64 = 1 << 5;
    pub const D: u64 = 1 << 6;
    pub const PS: u64 = 1 << 7;
    pub const G: u64 = 1 << 8;
    pub const NX: u64 = 1 << 63;
}

/// Page-fault error-code bits (SDM vol 3, 4.7).
pub mod pf {
    #![allow(missing_docs, reason = "the names are the documentation")]
    pub const P: u32 = 1 << 0;
    pub const W: u32 = 1 << 1;
    pub const U: u32 = 1 << 2;
    pub const RSVD: u32 = 1 << 3;
    pub const I: u32 = 1 << 4;
}

/// 4 KiB.
pub const PAGE_SIZE: u64 = 4096;
/// Low bits inside a 4 KiB page.
pub const PAGE_MASK: u64 = PAGE_SIZE - 1;
