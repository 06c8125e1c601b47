//! Which instructions are compared, and why the others are not. Every code is
//! in exactly one class.

use iced_x86::{Code, EncodingKind, Mnemonic, OpCodeOperandKind};
use isa::table;

/// What the tests do with a [`Code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Compared with the host CPU (which may lack it: then both raise #UD).
    Compared,
    /// Needs a kernel: tested by the named groups of the conformance suite.
    System,
    /// Not compared; the reason.
    Excluded(Why),
}

/// Why a code is not compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The interpreter's table excludes it: no guest is offered it.
    NotOffered,
    /// iced's encoder makes it, its decoder decodes it as WAIT and another.
    NeverDecoded,
    /// Its result differs from run to run.
    Random,
    /// Exists in 16-bit address or operand forms only, which user mode on a
    /// 64-bit kernel cannot reach.
    SixteenBit,
}

/// System instructions that user mode may try: they fault the same everywhere
/// or work on flags and x87 state only.
const HARMLESS: &[Mnemonic] = &[
    Mnemonic::Pushf,
    Mnemonic::Pushfd,
    Mnemonic::Pushfq,
    Mnemonic::Popf,
    Mnemonic::Popfd,
    Mnemonic::Popfq,
    Mnemonic::Cli,
    Mnemonic::Sti,
    Mnemonic::Hlt,
    Mnemonic::In,
    Mnemonic::Out,
    Mnemonic::Insb,
    Mnemonic::Insw,
    Mnemonic::Insd,
    Mnemonic::Outsb,
    Mnemonic::Outsw,
    Mnemonic::Outsd,
    Mnemonic::Fldenv,
    Mnemonic::Fnstenv,
    Mnemonic::Fnsave,
    Mnemonic::Frstor,
    Mnemonic::Ud0,
    Mnemonic::Ud1,
    Mnemonic::Ud2,
    Mnemonic::Lgdt,
    Mnemonic::Lidt,
    Mnemonic::Lldt,
    Mnemonic::Ltr,
    Mnemonic::Lmsw,
    Mnemonic::Clts,
    Mnemonic::Invd,
    Mnemonic::Wbinvd,
    Mnemonic::Invlpg,
    Mnemonic::Rdmsr,
    Mnemonic::Wrmsr,
    Mnemonic::Swapgs,
    Mnemonic::Sysexit,
    Mnemonic::Sysexitq,
];

/// The class of `code`.
pub fn class(code: Code) -> Class {
    use table::Class as T;
    match table::class(code) {
        T::Excluded(table::Why::WaitForm) => Class::Excluded(Why::NeverDecoded),
        // Old CPUs' UD0 without ModRM; the decoder takes today's with one.
        _ if code == Code::Ud0 => Class::Excluded(Why::NeverDecoded),
        T::Excluded(_) => Class::Excluded(Why::NotOffered),
        T::Int(table::Int::Random) => Class::Excluded(Why::Random),
        T::System if !HARMLESS.contains(&code.mnemonic()) => Class::System,
        _ if far(code) => Class::System,
        _ if gone(code) => Class::Excluded(Why::NotOffered),
        _ if sixteen_bit(code) => Class::Excluded(Why::SixteenBit),
        _ => Class::Compared,
    }
}

fn has(code: Code, kinds: &[OpCodeOperandKind]) -> bool {
    code.op_code().op_kinds().iter().any(|k| kinds.contains(k))
}

fn far(code: Code) -> bool {
    use OpCodeOperandKind as K;
    has(code, &[K::farbr2_2, K::farbr4_2])
}

/// Operand kinds of MPX and what no 64-bit processor decodes.
fn gone(code: Code) -> bool {
    use OpCodeOperandKind as K;
    let mpx = &[K::bnd_reg, K::bnd_or_mem_mpx, K::mem_mpx, K::mem_mib];
    has(code, mpx) || code.op_code().encoding() == EncodingKind::MVEX
}

/// Neither 64- nor 32-bit code can hold it, or only as a 16-bit form of an
/// instruction whose width the mode decides.
fn sixteen_bit(code: Code) -> bool {
    let op = code.op_code();
    let branch16 = has(
        code,
        &[OpCodeOperandKind::br16_1, OpCodeOperandKind::br16_2],
    );
    (!op.mode64() && !op.mode32()) || (branch16 && !op.mode32()) || op.address_size() == 16
}
