//! The addresses that a test case may use. They are low, so that 32-bit code
//! and 32-bit displacements reach them, and the same on the host CPU and in
//! the interpreter.

/// Page size.
pub const PAGE: u64 = 4096;
/// First byte of the reserved range: nothing of the host process lives in it.
pub const RESERVED: u64 = 0x2000_0000;
/// Length of the reserved range.
pub const RESERVED_LEN: u64 = 0x80_0000;
/// First data page; 2 MiB of nothing on both sides.
pub const DATA: u64 = RESERVED + 0x20_0000;
/// What each data page permits.
pub const DATA_PAGES: [Perm; 6] = [
    Perm::ReadWrite,
    Perm::ReadWrite,
    Perm::Read,
    Perm::None,
    Perm::ReadWrite,
    Perm::ReadWrite,
];
/// Bytes in the data window.
pub const DATA_LEN: usize = DATA_PAGES.len() * PAGE as usize;
/// The code: two pages, readable and executable.
pub const CODE: u64 = RESERVED + 0x60_0000;
/// Bytes of code pages.
pub const CODE_LEN: usize = 2 * PAGE as usize;
/// How far from the data window an address may stray and still hit nothing.
pub const GUARD: u64 = 0x1f_0000;

/// Permissions of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Perm {
    /// Not present.
    None,
    /// Readable.
    Read,
    /// Readable and writable.
    ReadWrite,
}

/// Permissions at `la`.
pub fn perm(la: u64) -> Perm {
    match la.checked_sub(DATA).map(|o| (o / PAGE) as usize) {
        Some(page) if page < DATA_PAGES.len() => DATA_PAGES[page],
        _ => Perm::None,
    }
}

/// True if an access at `la` cannot touch the host process's own memory.
pub fn harmless(la: u64, len: u64) -> bool {
    let window = DATA - GUARD..DATA + DATA_LEN as u64 + GUARD;
    (window.contains(&la) && window.contains(&la.wrapping_add(len)))
        || (!x86::canonical48(la) && !x86::canonical48(la.wrapping_add(len)))
}
