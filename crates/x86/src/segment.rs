//! Segment registers and descriptors (SDM vol 3, chapter 3).

/// Index of a segment register in [`crate::CpuState::seg`]; the first six are
/// the ModRM.reg encodings of MOV Sreg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Seg {
    Es = 0,
    Cs = 1,
    Ss = 2,
    Ds = 3,
    Fs = 4,
    Gs = 5,
    Ldtr = 6,
    Tr = 7,
}

/// A segment register with its hidden part.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes, already scaled by G.
    pub limit: u32,
    /// Visible selector.
    pub selector: u16,
    /// Access rights: descriptor bits 40..=47 in bits 0..=7 (type, S, DPL, P)
    /// and bits 52..=55 in bits 12..=15 (AVL, L, D/B, G). Bit 16-equivalent
    /// "unusable" is represented by P = 0 in a data or LDT register.
    pub attr: u16,
}

/// Access-right bits of [`Segment::attr`].
pub mod attr {
    #![allow(missing_docs, reason = "the names are the documentation")]
    pub const TYPE: u16 = 0xf;
    /// Code/data accessed bit.
    pub const A: u16 = 1 << 0;
    /// Data: writable; code: readable.
    pub const RW: u16 = 1 << 1;
    /// Data: expand-down; code: conforming.
    pub const EC: u16 = 1 << 2;
    /// Executable.
    pub const X: u16 = 1 << 3;
    pub const S: u16 = 1 << 4;
    pub const DPL: u16 = 3 << 5;
    pub const DPL_SHIFT: u32 = 5;
    pub const P: u16 = 1 << 7;
    pub const AVL: u16 = 1 << 12;
    pub const L: u16 = 1 << 13;
    pub const DB: u16 = 1 << 14;
    pub const G: u16 = 1 << 15;
}

impl Segment {
    /// The register value loaded from an 8-byte descriptor.
    pub const fn from_descriptor(selector: u16, raw: u64) -> Self {
        let at = ((raw >> 40) & 0xf0ff) as u16;
        let mut limit = ((raw & 0xffff) | ((raw >> 32) & 0xf_0000)) as u32;
        if at & attr::G != 0 {
            limit = (limit << 12) | 0xfff;
        }
        let base = ((raw >> 16) & 0xff_ffff) | ((raw >> 32) & 0xff00_0000);
        Self {
            base,
            limit,
            selector,
            attr: at,
        }
    }
    /// A real-mode segment: base = selector * 16, 64 KiB, writable data.
    pub const fn real(selector: u16) -> Self {
        Self {
            base: (selector as u64) << 4,
            limit: 0xffff,
            selector,
            attr: attr::P | attr::S | attr::RW | attr::A,
        }
    }
    /// Descriptor privilege level.
    pub const fn dpl(&self) -> u8 {
        ((self.attr & attr::DPL) >> attr::DPL_SHIFT) as u8
    }
    /// Present.
    pub const fn present(&self) -> bool {
        self.attr & attr::P != 0
    }
    /// 64-bit code segment.
    pub const fn long(&self) -> bool {
        self.attr & attr::L != 0
    }
    /// D/B: 32-bit default operand size, or 32-bit stack.
    pub const fn db(&self) -> bool {
        self.attr & attr::DB != 0
    }
    /// Code segment.
    pub const fn is_code(&self) -> bool {
        self.attr & (attr::S | attr::X) == attr::S | attr::X
    }
    /// System descriptor type (S = 0).
    pub const fn type_bits(&self) -> u8 {
        (self.attr & attr::TYPE) as u8
    }
    /// Flat: base 0 and a 4 GiB expand-up limit, so 32-bit accesses need no
    /// limit check.
    pub const fn flat(&self) -> bool {
        self.base == 0
            && self.limit == u32::MAX
            && self.attr & attr::P != 0
            && (self.attr & attr::X != 0 || self.attr & attr::EC == 0)
    }
}

/// GDTR or IDTR.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DescTable {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}
