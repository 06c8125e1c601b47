//! Loops over wide vectors.
#![allow(unsafe_code, reason = "vector intrinsics load and store by pointers")]

use crate::row::{Numbers, Outcome, Placed, mix, timed};
use std::arch::x86_64::*;
use std::io;

/// Numbers in an array: 16 KiB.
const NUMBERS: usize = 4096;

/// So many bytes after a page's start, `passes` over chance numbers.
fn passes(offset: usize, passes: impl FnOnce(&mut [i32])) -> io::Result<Outcome> {
    let mut numbers = Numbers::new(8);
    let mut values = Placed::new(NUMBERS, offset);
    let values = values.slice();
    values.fill_with(|| numbers.next() as i32);
    timed(|| {
        passes(values);
        values.iter().fold(0, |sum, &v| mix(sum, v as u64))
    })
}

/// Multiplies, adds, shifts and shuffles all of the array; a count is once.
pub(super) fn avx2(count: u64) -> io::Result<Outcome> {
    // SAFETY: the row is only run where there is AVX2.
    passes(0, |values| unsafe { passes_256(values, count) })
}

/// The same where every other access lies in two cache lines and one in 128 in
/// two pages.
pub(super) fn avx2_unaligned(count: u64) -> io::Result<Outcome> {
    // SAFETY: as above.
    passes(16, |values| unsafe { passes_256(values, count) })
}

/// The same with vectors of 64 bytes and a mask.
pub(super) fn avx512(count: u64) -> io::Result<Outcome> {
    // SAFETY: the row is only run where there is AVX-512.
    passes(0, |values| unsafe { passes_512(values, count) })
}

#[target_feature(enable = "avx2")]
fn passes_256(values: &mut [i32], count: u64) {
    let factor = _mm256_set1_epi32(0x0001_9661);
    let mut carry = _mm256_set1_epi32(1);
    for _ in 0..count {
        for chunk in values.chunks_exact_mut(8) {
            let place: *mut __m256i = chunk.as_mut_ptr().cast();
            // SAFETY: the chunk has 32 bytes; the load needs no alignment.
            let value = unsafe { _mm256_loadu_si256(place) };
            let product = _mm256_add_epi32(_mm256_mullo_epi32(value, factor), carry);
            let turned = _mm256_xor_si256(product, _mm256_srli_epi32::<13>(product));
            carry = _mm256_shuffle_epi32::<0b10_01_00_11>(turned);
            // SAFETY: as above.
            unsafe { _mm256_storeu_si256(place, turned) };
        }
    }
}

#[target_feature(enable = "avx512f")]
fn passes_512(values: &mut [i32], count: u64) {
    let factor = _mm512_set1_epi32(0x0001_9661);
    let mut carry = _mm512_set1_epi32(1);
    for _ in 0..count {
        for chunk in values.chunks_exact_mut(16) {
            let place: *mut i32 = chunk.as_mut_ptr();
            // SAFETY: the chunk has 64 bytes; the load needs no alignment.
            let value = unsafe { _mm512_loadu_epi32(place) };
            let product = _mm512_add_epi32(_mm512_mullo_epi32(value, factor), carry);
            let turned = _mm512_xor_si512(product, _mm512_srli_epi32::<13>(product));
            let odd = _mm512_test_epi32_mask(turned, _mm512_set1_epi32(1));
            let turned = _mm512_mask_add_epi32(turned, odd, turned, factor);
            carry = _mm512_shuffle_epi32::<0b10_01_00_11>(turned);
            // SAFETY: as above.
            unsafe { _mm512_storeu_epi32(place, turned) };
        }
    }
}
