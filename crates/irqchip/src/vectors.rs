//! A set of interrupt vectors: the 256-bit registers IRR, ISR and TMR.

/// 256 bits, one per vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vectors([u32; 8]);

impl Vectors {
    pub(crate) fn insert(&mut self, vector: u8) {
        self.0[usize::from(vector >> 5)] |= 1 << (vector & 31);
    }

    pub(crate) fn remove(&mut self, vector: u8) {
        self.0[usize::from(vector >> 5)] &= !(1 << (vector & 31));
    }

    pub(crate) fn assign(&mut self, vector: u8, member: bool) {
        if member {
            self.insert(vector);
        } else {
            self.remove(vector);
        }
    }

    pub(crate) fn contains(&self, vector: u8) -> bool {
        self.0[usize::from(vector >> 5)] >> (vector & 31) & 1 != 0
    }

    /// The highest member. Vector 0 never gets in, so 0 means none: as a
    /// priority it is below everything anyway.
    pub(crate) fn highest(&self) -> u8 {
        for word in (0..8u8).rev() {
            let bits = self.0[usize::from(word)];
            if bits != 0 {
                return word * 32 + (31 - bits.leading_zeros() as u8);
            }
        }
        0
    }

    /// 32 vectors from `32 * index` on; index modulo 8.
    pub(crate) fn word(&self, index: u32) -> u32 {
        self.0[(index & 7) as usize]
    }

    /// Replaces 32 vectors. The first 16 are exceptions and not interrupts.
    pub(crate) fn set_word(&mut self, index: u32, bits: u32) {
        let reserved = if index & 7 == 0 { 0xffff } else { 0 };
        self.0[(index & 7) as usize] = bits & !reserved;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn highest_member_wins() {
        let mut set = Vectors::default();
        assert_eq!(set.highest(), 0);
        for vector in [16, 31, 32, 200, 255] {
            set.insert(vector);
            assert_eq!(set.highest(), vector);
            assert!(set.contains(vector));
        }
        set.remove(255);
        assert_eq!(set.highest(), 200);
        assert_eq!(set.word(6), 1 << 8);
    }

    #[test]
    fn restored_words_hold_no_exception_vectors() {
        let mut set = Vectors::default();
        set.set_word(0, u32::MAX);
        assert_eq!(set.word(0), 0xffff_0000);
    }
}
