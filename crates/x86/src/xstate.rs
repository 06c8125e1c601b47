//! XSAVE state components and their places (SDM vol 1, chapter 13).

/// x87.
pub const X87: u64 = 1 << 0;
/// XMM registers and MXCSR.
pub const SSE: u64 = 1 << 1;
/// Upper halves of the YMM registers.
pub const AVX: u64 = 1 << 2;
/// Opmask registers.
pub const OPMASK: u64 = 1 << 5;
/// Upper halves of ZMM0 to ZMM15.
pub const ZMM_HI256: u64 = 1 << 6;
/// ZMM16 to ZMM31.
pub const HI16_ZMM: u64 = 1 << 7;
/// The three components of AVX-512.
pub const AVX512: u64 = OPMASK | ZMM_HI256 | HI16_ZMM;

/// Where a processor's XSAVE puts the extended components in the standard
/// format. Processors differ: those without MPX may leave no room for it (AMD's
/// do not).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Offset of [`AVX`].
    pub avx: usize,
    /// Offset of [`OPMASK`].
    pub opmask: usize,
    /// Offset of [`ZMM_HI256`].
    pub zmm_hi256: usize,
    /// Offset of [`HI16_ZMM`].
    pub hi16_zmm: usize,
}

impl Layout {
    /// Intel's processors with AVX-512.
    pub const INTEL: Self = Self {
        avx: 576,
        opmask: 1088,
        zmm_hi256: 1152,
        hi16_zmm: 1664,
    };

    /// Offset and size of an extended component; `None` for one the image
    /// cannot hold.
    pub const fn place(&self, component: u64) -> Option<(usize, usize)> {
        Some(match component {
            AVX => (self.avx, 256),
            OPMASK => (self.opmask, 64),
            ZMM_HI256 => (self.zmm_hi256, 512),
            HI16_ZMM => (self.hi16_zmm, 1024),
            _ => return None,
        })
    }
}
