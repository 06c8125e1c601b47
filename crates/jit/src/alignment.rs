//! Which vector operands in memory must be aligned (SDM vol 2, 2.4 table 2-18,
//! vol 1, 10.4.1.1).

use crate::classify::{Vector, vector_class};
use iced_x86::{Instruction, Mnemonic};

/// True if the operand of `size` bytes, a vector or a pair of 8 bytes, raises #GP
/// unless it is aligned.
pub fn must_be_aligned(insn: &Instruction, size: u32) -> bool {
    use Mnemonic as M;
    let m = insn.mnemonic();
    size >= 16
        && match vector_class(insn) {
            Vector::None => m == M::Cmpxchg16b,
            Vector::X87 => matches!(m, M::Cvtpd2pi | M::Cvttpd2pi),
            Vector::Sse => !matches!(
                m,
                M::Movups
                    | M::Movupd
                    | M::Movdqu
                    | M::Lddqu
                    | M::Pcmpestri
                    | M::Pcmpestrm
                    | M::Pcmpistri
                    | M::Pcmpistrm
            ),
            Vector::Avx | Vector::Avx512 => matches!(
                m,
                M::Vmovaps
                    | M::Vmovapd
                    | M::Vmovdqa
                    | M::Vmovdqa32
                    | M::Vmovdqa64
                    | M::Vmovntdq
                    | M::Vmovntdqa
                    | M::Vmovntpd
                    | M::Vmovntps
            ),
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::Code;

    #[test]
    fn conversions_to_mmx_registers_are_among_them() {
        let of = |code: Code| {
            let mut insn = Instruction::default();
            insn.set_code(code);
            must_be_aligned(&insn, 16)
        };
        assert!(of(Code::Cvtpd2pi_mm_xmmm128) && of(Code::Cvttpd2pi_mm_xmmm128));
        assert!(!of(Code::Cvtps2pi_mm_xmmm64) && !of(Code::Fxsave_m512byte));
    }
}
