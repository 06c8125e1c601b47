//! Exceptions as values (SDM vol 3, chapter 6).

/// Exception vectors (SDM vol 3, table 6-1).
pub mod vector {
    #![allow(missing_docs, reason = "the names are the documentation")]
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const MC: u8 = 18;
    pub const XM: u8 = 19;
}

/// An exception about to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Vector 0..=31.
    pub vector: u8,
    /// The error code pushed on the handler's stack, for vectors that have one.
    pub error: Option<u32>,
    /// What delivery changes besides the stack: CR2 for #PF, the bits OR-ed
    /// into DR6 for #DB, 0 otherwise.
    pub payload: u64,
}

impl Exception {
    const fn plain(vector: u8) -> Self {
        Self {
            vector,
            error: None,
            payload: 0,
        }
    }
    const fn coded(vector: u8, code: u32) -> Self {
        Self {
            vector,
            error: Some(code),
            payload: 0,
        }
    }
    /// #UD, invalid opcode.
    pub const UD: Self = Self::plain(vector::UD);
    /// #DE, divide error.
    pub const DE: Self = Self::plain(vector::DE);
    /// #NM, device not available.
    pub const NM: Self = Self::plain(vector::NM);
    /// #BR, bound range exceeded.
    pub const BR: Self = Self::plain(vector::BR);
    /// #MF, x87 floating-point error.
    pub const MF: Self = Self::plain(vector::MF);
    /// #XM, SIMD floating-point exception.
    pub const XM: Self = Self::plain(vector::XM);
    /// #AC(0), alignment check.
    pub const AC: Self = Self::coded(vector::AC, 0);
    /// #DF(0), double fault.
    pub const DF: Self = Self::coded(vector::DF, 0);
    /// #GP(0).
    pub const GP0: Self = Self::coded(vector::GP, 0);
    /// #SS(0).
    pub const SS0: Self = Self::coded(vector::SS, 0);
    /// #GP with a selector error code.
    pub const fn gp(code: u32) -> Self {
        Self::coded(vector::GP, code)
    }
    /// #SS with a selector error code.
    pub const fn ss(code: u32) -> Self {
        Self::coded(vector::SS, code)
    }
    /// #NP with a selector error code.
    pub const fn np(code: u32) -> Self {
        Self::coded(vector::NP, code)
    }
    /// #TS with a selector error code.
    pub const fn ts(code: u32) -> Self {
        Self::coded(vector::TS, code)
    }
    /// #DB; `dr6` holds the bits to OR into DR6 (BS, B0..B3, BD, BT).
    pub const fn db(dr6: u64) -> Self {
        Self {
            vector: vector::DB,
            error: None,
            payload: dr6,
        }
    }
    /// #PF at linear address `cr2`; `code` per SDM vol 3, 4.7.
    pub const fn pf(cr2: u64, code: u32) -> Self {
        Self {
            vector: vector::PF,
            error: Some(code),
            payload: cr2,
        }
    }
    /// True for faults, which push the address of the faulting instruction
    /// (everything but #DB traps, #BP and #OF; SDM vol 3, 6.5).
    pub const fn is_contributory(&self) -> bool {
        matches!(
            self.vector,
            vector::DE | vector::TS | vector::NP | vector::SS | vector::GP
        )
    }
}
