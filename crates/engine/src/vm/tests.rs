//! Memory that the host provides before a guest comes to it.
#![allow(unsafe_code, reason = "maps memory for a slot")]

use crate::Options;
use crate::testing::Guest;
use hv::{MemFlags, MemSlot, VcpuExit};
use iced_x86::code_asm::*;
use std::time::{Duration, Instant};

const LARGE: usize = 2 << 20;
const SIZE: usize = 8 * LARGE;
/// Where the slot is.
const GPA: u32 = 0x100_0000;

/// Private memory that nobody has touched, aligned to large pages; it stays.
fn memory() -> usize {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), SIZE + LARGE, protection, flags, -1, 0) };
    assert_ne!(at, libc::MAP_FAILED);
    (at as usize).next_multiple_of(LARGE)
}

fn is_resident(page: usize) -> bool {
    let mut resident = 0;
    // SAFETY: a page of a mapping of ours, and a byte for it.
    let result = unsafe { libc::mincore(page as *mut _, 4096, &raw mut resident) };
    assert_eq!(result, 0);
    resident & 1 != 0
}

/// A guest writes to the third and the fourth large page of a slot with these
/// flags, from where on nobody has touched its memory; the slot's memory.
fn upwards(flags: MemFlags) -> (Guest, usize) {
    let mut guest = Guest::new(Options::default(), |a| {
        a.mov(dword_ptr(GPA + 2 * LARGE as u32), 1)?;
        a.mov(dword_ptr(GPA + 3 * LARGE as u32), 1)?;
        a.out(0x80, al)
    });
    let hva = memory();
    let slot = MemSlot {
        slot: 1,
        gpa: u64::from(GPA),
        size: SIZE as u64,
        hva: hva as u64,
        flags,
    };
    // SAFETY: the mapping stays.
    unsafe { guest.vm.set_memory(slot) }.unwrap();
    let exit = guest.run().unwrap();
    assert!(
        matches!(exit, VcpuExit::IoOut { port: 0x80, .. }),
        "{exit:?}"
    );
    (guest, hva)
}

#[test]
fn what_a_guest_comes_to_is_provided() {
    let (_guest, hva) = upwards(MemFlags::ANONYMOUS);
    let begin = Instant::now();
    while !is_resident(hva + 4 * LARGE + 4096) {
        let patience = Duration::from_secs(60);
        assert!(begin.elapsed() < patience, "nobody provides it");
        std::thread::yield_now();
    }
    assert!(!is_resident(hva + LARGE), "it does not go there");
}

#[test]
fn memory_of_others_is_left_alone() {
    let (guest, hva) = upwards(MemFlags::NONE);
    // All that was asked for is done when this ends.
    drop(guest);
    assert!(is_resident(hva + 3 * LARGE));
    assert!(!is_resident(hva + 4 * LARGE));
}
