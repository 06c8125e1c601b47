//! What an instruction's code alone says of it. Part of the build script as well, so
//! it depends on nothing but the decoder.

use iced_x86::{Instruction, Mnemonic};

/// How simple a copy is in 64-bit code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Plain {
    /// The instruction has to be looked at.
    #[default]
    No,
    /// Any instruction of the code can be copied if the guest may execute it.
    Yes,
    /// The same unless it names AH to BH.
    Bytes,
}

/// Which register file an instruction needs loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vector {
    /// General registers only.
    None,
    /// x87/MMX.
    X87,
    /// XMM by legacy encodings.
    Sse,
    /// XMM/YMM by VEX encodings.
    Avx,
    /// Anything EVEX, or opmask registers.
    Avx512,
}

/// Facts about a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The register file it uses.
    pub vector: Vector,
    /// Whether it is copied without further questions.
    pub plain: Plain,
    /// It exists in 64-bit code.
    pub wide: bool,
}

const VECTORS: [Vector; 5] = [
    Vector::None,
    Vector::X87,
    Vector::Sse,
    Vector::Avx,
    Vector::Avx512,
];
const PLAINS: [Plain; 3] = [Plain::No, Plain::Yes, Plain::Bytes];

impl Facts {
    /// From a byte.
    pub(crate) const fn unpack(byte: u8) -> Self {
        Self {
            vector: VECTORS[(byte & 7) as usize],
            plain: PLAINS[(byte >> 3 & 3) as usize],
            wide: byte >> 5 != 0,
        }
    }
}

/// True if the instruction touches flags beyond the arithmetic ones: those
/// live in memory, not in the host's register (CLD, STD).
pub(crate) fn system_flags(insn: &Instruction) -> bool {
    use iced_x86::RflagsBits as F;
    (insn.rflags_read() | insn.rflags_modified()) & (F::DF | F::IF | F::AC) != 0
}

/// Instructions that access memory only under a mask held in a register, or
/// whose operand size the decoder does not know or takes for one element's.
pub(crate) fn conditional_memory(m: Mnemonic) -> bool {
    matches!(
        m,
        Mnemonic::Vmaskmovps
            | Mnemonic::Vmaskmovpd
            | Mnemonic::Vpmaskmovd
            | Mnemonic::Vpmaskmovq
            | Mnemonic::Maskmovq
            | Mnemonic::Maskmovdqu
            | Mnemonic::Vmaskmovdqu
            | Mnemonic::Vcompressps
            | Mnemonic::Vcompresspd
            | Mnemonic::Vpcompressb
            | Mnemonic::Vpcompressw
            | Mnemonic::Vpcompressd
            | Mnemonic::Vpcompressq
            | Mnemonic::Vexpandps
            | Mnemonic::Vexpandpd
            | Mnemonic::Vpexpandb
            | Mnemonic::Vpexpandw
            | Mnemonic::Vpexpandd
            | Mnemonic::Vpexpandq
            | Mnemonic::Clflush
            | Mnemonic::Clflushopt
            | Mnemonic::Clwb
            | Mnemonic::Cldemote
            | Mnemonic::Movdir64b
            | Mnemonic::Ldmxcsr
            | Mnemonic::Fldenv
    )
}
