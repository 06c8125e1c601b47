//! Copies of memory.
#![allow(unsafe_code, reason = "the instructions and memcpy work on pointers")]

use crate::row::{Numbers, Outcome, Placed, mix, timed};
use std::arch::asm;
use std::hint::black_box;
use std::io;

/// The C library's `memcpy` of 1 to 64 bytes.
pub(super) fn small(count: u64) -> io::Result<Outcome> {
    let mut numbers = Numbers::new(9);
    let from: Vec<u8> = (0..256).map(|_| numbers.next() as u8).collect();
    let lengths: Vec<usize> = (0..256).map(|_| 1 + numbers.below(64)).collect();
    let mut to = vec![0u8; 256];
    timed(|| {
        let mut sum = 0u64;
        for i in 0..count as usize {
            let (length, at) = (black_box(lengths[i & 255]), i & 127);
            to[at..at + length].copy_from_slice(&from[127 - at..127 - at + length]);
            sum = sum.wrapping_mul(3).wrapping_add(to[at + length - 1].into());
        }
        to.iter().fold(sum, |sum, &b| mix(sum, b.into()))
    })
}

/// Copies `length` bytes there and back; a count is both. They begin 16 bytes
/// after a page's start, as large blocks of the C library do.
fn there_and_back(length: usize, count: u64, copy: fn(&mut [u8], &[u8])) -> io::Result<Outcome> {
    let mut numbers = Numbers::new(10);
    let (mut a, mut b) = (Placed::new(length, 16), Placed::new(length, 16));
    let (a, b) = (a.slice(), b.slice());
    a.fill_with(|| numbers.next() as u8);
    timed(|| {
        for i in 0..count {
            a[i as usize % length] ^= i as u8;
            copy(b, a);
            b[(i as usize + 1) % length] ^= i as u8;
            copy(a, b);
        }
        a.iter().step_by(61).fold(0, |sum, &b| mix(sum, b.into()))
    })
}

/// 4 KiB, 16 bytes at a time.
pub(super) fn vector_small(count: u64) -> io::Result<Outcome> {
    there_and_back(4 << 10, count, vector)
}

/// 1 MiB, 16 bytes at a time.
pub(super) fn vector_large(count: u64) -> io::Result<Outcome> {
    there_and_back(1 << 20, count, vector)
}

/// 4 KiB by REP MOVSB.
pub(super) fn rep_small(count: u64) -> io::Result<Outcome> {
    there_and_back(4 << 10, count, rep)
}

/// 1 MiB by REP MOVSB.
pub(super) fn rep_large(count: u64) -> io::Result<Outcome> {
    there_and_back(1 << 20, count, rep)
}

/// Two vectors at a time. In assembly, since a compiler knows a call of memcpy
/// when it sees one.
#[inline(never)]
fn vector(to: &mut [u8], from: &[u8]) {
    let length = to.len().min(from.len()) & !31;
    if length == 0 {
        return;
    }
    // SAFETY: offsets go from 0 to `length` - 32, 32 bytes each, within both
    // slices; MOVUPS needs no alignment and is part of x86-64.
    unsafe {
        asm!(
            "2:",
            "movups xmm0, [{from} + {at}]",
            "movups xmm1, [{from} + {at} + 16]",
            "movups [{to} + {at}], xmm0",
            "movups [{to} + {at} + 16], xmm1",
            "add {at}, 32",
            "cmp {at}, {length}",
            "jb 2b",
            from = in(reg) from.as_ptr(),
            to = in(reg) to.as_mut_ptr(),
            length = in(reg) length,
            at = inout(reg) 0usize => _,
            out("xmm0") _,
            out("xmm1") _,
            options(nostack),
        );
    }
}

#[inline(never)]
fn rep(to: &mut [u8], from: &[u8]) {
    let length = to.len().min(from.len());
    // SAFETY: `length` bytes can be read at `from` and written at `to`, which are
    // apart; DF is clear by the calling convention.
    unsafe {
        asm!(
            "rep movsb",
            inout("rcx") length => _,
            inout("rdi") to.as_mut_ptr() => _,
            inout("rsi") from.as_ptr() => _,
            options(nostack, preserves_flags),
        );
    }
}
