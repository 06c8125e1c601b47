//! Random numbers that are the same in every run.

/// SplitMix64.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    pub fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A range inside `0..size`, often at boundaries of `unit`.
    pub fn range(&mut self, size: u64, unit: u64, longest: u64) -> (u64, u64) {
        let mut offset = self.below(size);
        if self.chance(2) {
            offset -= offset % unit;
        } else if self.chance(2) {
            offset -= offset % 512;
        }
        let mut len = 1 + self.below(longest);
        if self.chance(2) {
            len = len.next_multiple_of(unit.min(longest));
        } else if self.chance(2) {
            len = len.next_multiple_of(512);
        }
        (offset, len.min(size - offset))
    }
}
