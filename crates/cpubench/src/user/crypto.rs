//! AES and SHA instructions.
#![allow(unsafe_code, reason = "only on CPUs that have the instructions")]

use crate::row::{Outcome, mix, timed};
use std::arch::x86_64::*;
use std::hint::black_box;
use std::io;

/// Ten rounds on four blocks; a count is that.
pub(super) fn aes(count: u64) -> io::Result<Outcome> {
    timed(|| {
        // SAFETY: the row is only run where there is AES.
        unsafe { encrypt(count) }
    })
}

#[target_feature(enable = "aes")]
fn encrypt(count: u64) -> u64 {
    let mut blocks = [1, 2, 3, 4].map(|n| _mm_set_epi64x(n, black_box(n)));
    let mut key = _mm_set_epi64x(0x0123_4567, 0x89ab_cdef);
    for _ in 0..count {
        // Loops instead of closures, which a compiler need not put in place.
        for _ in 0..9 {
            for block in &mut blocks {
                *block = _mm_aesenc_si128(*block, key);
            }
        }
        for block in &mut blocks {
            *block = _mm_aesenclast_si128(*block, key);
        }
        key = _mm_xor_si128(_mm_aeskeygenassist_si128::<1>(key), blocks[3]);
    }
    blocks.iter().fold(0, |sum, &block| mix(sum, halves(block)))
}

#[target_feature(enable = "sse2")]
fn halves(value: __m128i) -> u64 {
    let high = _mm_cvtsi128_si64(_mm_unpackhi_epi64(value, value));
    mix(_mm_cvtsi128_si64(value) as u64, high as u64)
}

/// Four rounds of SHA-256 with their part of the message schedule; a count is
/// that.
pub(super) fn sha256(count: u64) -> io::Result<Outcome> {
    timed(|| {
        // SAFETY: the row is only run where there are the SHA instructions.
        unsafe { digest(count) }
    })
}

#[target_feature(enable = "sha")]
fn digest(count: u64) -> u64 {
    let mut schedule = [1, 2, 3, 4].map(|n| _mm_set_epi32(n, n + 4, n + 8, black_box(n)));
    let mut state = [schedule[0], schedule[1]];
    for _ in 0..count {
        let [a, b, c, d] = schedule;
        let rounds = _mm_add_epi32(a, _mm_set1_epi32(0x428a_2f98));
        state[1] = _mm_sha256rnds2_epu32(state[1], state[0], rounds);
        let high = _mm_shuffle_epi32::<0x0e>(rounds);
        state[0] = _mm_sha256rnds2_epu32(state[0], state[1], high);
        let next = _mm_add_epi32(_mm_sha256msg1_epu32(a, b), c);
        schedule = [b, c, d, _mm_sha256msg2_epu32(next, d)];
    }
    state.iter().fold(0, |sum, &half| mix(sum, halves(half)))
}
