//! What a row is.

use crate::{system, user};
use std::io;
use std::time::{Duration, Instant};

/// Which geometric mean a row counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Stays in user code.
    User,
    /// Is about the kernel.
    System,
}

impl Kind {
    /// As the configuration has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::System => "system",
        }
    }
}

/// A CPU feature that not every host has: its name, and whether it is there.
pub(crate) type Feature = (&'static str, fn() -> bool);

/// One workload.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// What it cannot do without.
    pub(crate) needs: &'static [Feature],
    /// Does it so many times.
    pub(crate) run: fn(u64) -> io::Result<Outcome>,
}

/// What became of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) time: Duration,
    /// Of what was computed; depends on the count alone.
    pub(crate) checksum: u64,
}

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = &'static Row> {
    user::rows().chain(system::rows())
}

/// Measures `work`, which cannot fail.
pub(crate) fn timed(work: impl FnOnce() -> u64) -> io::Result<Outcome> {
    attempt(|| Ok(work()))
}

/// Measures `work` by CLOCK_MONOTONIC.
pub(crate) fn attempt(work: impl FnOnce() -> io::Result<u64>) -> io::Result<Outcome> {
    let begin = Instant::now();
    let checksum = work()?;
    Ok(Outcome {
        time: begin.elapsed(),
        checksum,
    })
}

/// Mixes `value` into `sum`: unlike a plain sum it depends on the order.
pub(crate) fn mix(sum: u64, value: u64) -> u64 {
    (sum.rotate_left(7) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Numbers that look like chance and are always the same (Steele, Lea and Flood,
/// "Fast splittable pseudorandom number generators": SplitMix64).
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(std::hint::black_box(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `limit`, which is not 0.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// Zeros at a fixed distance from a page's start: where the allocator puts things
/// changes from run to run, and with it how many accesses cross pages.
pub(crate) struct Placed<T> {
    all: Vec<T>,
    first: usize,
    count: usize,
}

impl<T: Default + Clone> Placed<T> {
    /// `count` elements, `offset` bytes after a page's start; the size of an
    /// element divides both.
    pub(crate) fn new(count: usize, offset: usize) -> Self {
        const PAGE: usize = 4096;
        let size = size_of::<T>();
        let all = vec![T::default(); count + (PAGE + offset) / size];
        let missing = all.as_ptr().addr().wrapping_neg() % PAGE;
        Self {
            first: (missing + offset) / size,
            all,
            count,
        }
    }

    pub(crate) fn slice(&mut self) -> &mut [T] {
        &mut self.all[self.first..self.first + self.count]
    }
}
