//! A small deterministic generator: a case is its seed.

/// xorshift64* (Vigna 2016). Never 0 inside.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Starts from `seed`; neighbouring seeds give unrelated sequences.
    pub fn new(seed: u64) -> Self {
        let mut r = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d);
        r.0 |= u64::from(r.0 == 0);
        r.word();
        r.word();
        r
    }
    /// 64 random bits.
    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    /// A number in `0..n`; 0 for `n` = 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { (self.word() >> 11) % n }
    }
    /// True in `percent` of 100 draws.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
    /// One of `items`, which must not be empty.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }
    /// A value that arithmetic likes to get wrong: small, near a sign or width
    /// boundary, a single bit, or anything.
    pub fn value(&mut self) -> u64 {
        let bit = 1u64 << self.below(64);
        match self.below(8) {
            0 => self.below(4),
            1 => self.below(4).wrapping_neg(),
            2 => bit,
            3 => bit.wrapping_sub(1),
            4 => self.pick(&[
                0x7f,
                0x80,
                0xff,
                0x7fff,
                0x8000,
                0xffff,
                0x7fff_ffff,
                0x8000_0000,
            ]),
            5 => self.pick(&[0xffff_ffff, i64::MAX as u64, i64::MIN as u64, 0xff00]),
            _ => self.word(),
        }
    }
    /// Fills `buf`.
    pub fn fill(&mut self, buf: &mut [u8]) {
        for chunk in buf.chunks_mut(8) {
            let v = self.word().to_le_bytes();
            chunk.copy_from_slice(&v[..chunk.len()]);
        }
    }
}
