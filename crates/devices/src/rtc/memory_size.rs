//! The CMOS bytes that tell firmware how much memory there is, as SeaBIOS
//! and QEMU's `pc` agree on them.

/// RAM below and above 4 GiB, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemorySize {
    /// Bytes below 4 GiB, from address 0.
    pub below_4g: u64,
    /// Bytes from 4 GiB.
    pub above_4g: u64,
}

impl MemorySize {
    /// Register numbers and values.
    pub fn cmos_bytes(self) -> Vec<(u8, u8)> {
        let word = |value: u64| (value.min(0xffff) as u16).to_le_bytes();
        let base = word(640);
        let extended = word(self.below_4g.saturating_sub(1 << 20) >> 10);
        let above_16m = word(self.below_4g.saturating_sub(16 << 20) >> 16);
        let above_4g = (self.above_4g >> 16).min(0xff_ffff).to_le_bytes();
        vec![
            (0x15, base[0]),
            (0x16, base[1]),
            (0x17, extended[0]),
            (0x18, extended[1]),
            (0x30, extended[0]),
            (0x31, extended[1]),
            (0x34, above_16m[0]),
            (0x35, above_16m[1]),
            (0x5b, above_4g[0]),
            (0x5c, above_4g[1]),
            (0x5d, above_4g[2]),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_gib() {
        let size = MemorySize {
            below_4g: 3 << 30,
            above_4g: 2 << 30,
        };
        let bytes = size.cmos_bytes();
        let at = |reg| bytes.iter().find(|b| b.0 == reg).unwrap().1;
        assert_eq!((at(0x15), at(0x16)), (0x80, 0x02));
        assert_eq!((at(0x17), at(0x18)), (0xff, 0xff));
        // 3 GiB - 16 MiB in 64 KiB units: 0xbf00.
        assert_eq!((at(0x34), at(0x35)), (0x00, 0xbf));
        assert_eq!((at(0x5b), at(0x5c), at(0x5d)), (0x00, 0x80, 0x00));
    }
}
