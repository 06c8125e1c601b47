//! The records that `writer` leaves on its disk, for the program itself and for
//! those who look for them afterwards.

/// Bytes of the disk: records in the first half, the second for what is not
/// acknowledged.
pub const DISK: u64 = 64 << 20;
/// Room for a record, which is shorter: more or less than a block of the file
/// system, less than a cluster, not a power of 2.
pub const SLOT: u64 = 12_288;
/// So many records do not overwrite each other.
pub const SLOTS: u64 = DISK / 2 / SLOT;

/// Numbers without a pattern.
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed (Vigna's splitmix64).
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
    /// Less than `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// A record: where it is on the disk, its length, and what makes its bytes.
pub struct Record {
    pub offset: u64,
    pub len: usize,
    random: Random,
}

impl Record {
    /// The record with that number; neighbours are far apart on the disk.
    pub fn new(number: u64) -> Self {
        let mut random = Random::new(number);
        Self {
            offset: number * 7919 % SLOTS * SLOT,
            len: 512 + random.below(SLOT - 512) as usize,
            random,
        }
    }
    /// The next of its bytes.
    pub fn byte(&mut self) -> u8 {
        (self.random.next() >> 56) as u8
    }
}
