//! A set of vCPUs: one bit each.

/// vCPU indexes.
#[derive(Clone, Debug, Default)]
pub(super) struct CpuSet {
    words: Vec<u64>,
    /// False means that all words are zero.
    any: bool,
}

impl CpuSet {
    pub(super) fn grow(&mut self, cpus: usize) {
        self.words.resize(cpus.div_ceil(64), 0);
    }

    pub(super) fn insert(&mut self, cpu: usize) {
        if let Some(word) = self.words.get_mut(cpu / 64) {
            *word |= 1 << (cpu % 64);
            self.any = true;
        }
    }

    pub(super) fn drain(&mut self) -> Attention<'_> {
        let words: &mut [u64] = if std::mem::take(&mut self.any) {
            &mut self.words
        } else {
            &mut []
        };
        Attention {
            words,
            index: 0,
            any: &mut self.any,
        }
    }
}

/// Takes vCPU indexes out of the set, lowest first.
#[derive(Debug)]
pub struct Attention<'a> {
    words: &'a mut [u64],
    index: usize,
    any: &'a mut bool,
}

impl Iterator for Attention<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        while let Some(word) = self.words.get_mut(self.index) {
            if *word != 0 {
                let bit = word.trailing_zeros() as usize;
                *word &= *word - 1;
                return Some(self.index * 64 + bit);
            }
            self.index += 1;
        }
        None
    }
}

impl Drop for Attention<'_> {
    fn drop(&mut self) {
        *self.any = self.words.iter().any(|word| *word != 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drains_in_order_and_keeps_the_rest() {
        let mut set = CpuSet::default();
        set.grow(130);
        for cpu in [129, 0, 64, 1000] {
            set.insert(cpu);
        }
        assert_eq!(set.drain().next(), Some(0));
        assert_eq!(set.drain().collect::<Vec<_>>(), [64, 129]);
        assert_eq!(set.drain().next(), None);
    }
}
