//! The class of every instruction: how it is tested, or why it is not. Every
//! code is in exactly one class, and the tests check that what a class claims
//! is so.

mod system;
#[cfg(test)]
mod tests;

use crate::amd;
use iced_x86::{Code, CpuidFeature as F, Mnemonic, OpCodeOperandKind};
use isa::table;

/// What the tests do with a [`Code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Compared with the host CPU (which may lack it: then both raise #UD).
    Compared,
    /// Raises #UD whatever the host: no guest's CPUID offers its feature.
    Undefined,
    /// Privileged, or depends on state that only a kernel sets up.
    System {
        /// Cases of the conformance suite that execute it, `group::name`.
        cases: &'static [&'static str],
        /// What user mode can do with it is compared with the host as well.
        compared: bool,
    },
    /// Cannot be executed; the reason.
    Excluded(Why),
}

/// Why a code cannot be executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Not an instruction: the invalid code and data directives.
    NotAnInstruction,
    /// No bytes are decoded as it: a WAIT form is two instructions, and other
    /// vendors' and older processors' instructions have bytes that mean
    /// something else on today's Intel and AMD processors.
    NeverDecoded,
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
    if !code.op_code().is_instruction() {
        return Class::Excluded(Why::NotAnInstruction);
    }
    if never_decoded(code) {
        return Class::Excluded(Why::NeverDecoded);
    }
    match table::class(code) {
        T::Excluded(_) => Class::Undefined,
        T::System | T::Int(table::Int::Random) => Class::System {
            cases: system::cases(code),
            compared: HARMLESS.contains(&code.mnemonic()),
        },
        _ => Class::Compared,
    }
}

/// Is some execution of `code` compared with the host CPU?
pub fn compared(code: Code) -> bool {
    let here = matches!(
        class(code),
        Class::Compared | Class::System { compared: true, .. }
    );
    here && !amd::other(code)
}

/// Codes that the decoder yields only when told that the processor is an older
/// or another vendor's one (branches that honour an operand-size prefix in
/// 64-bit mode are AMD's), or never.
fn never_decoded(code: Code) -> bool {
    use table::{Class as T, Why as W};
    match table::class(code) {
        _ if NOT_TODAY.contains(&code) => true,
        T::Excluded(W::WaitForm) => true,
        T::Excluded(W::Vendor) => !code.cpuid_features().iter().any(|&f| shared_bytes(f)),
        _ => has_bounds_operand(code) || amd_branch(code),
    }
}

/// Single codes that need a decoder option of their own (withdrawn or
/// undocumented instructions, UD0 of the 80386), and forms of VIA's MONTMUL that
/// the decoder has no bytes for.
const NOT_TODAY: &[Code] = &[
    Code::Ud0,
    Code::Pcommit,
    Code::Cl1invmb,
    Code::Rdudbg,
    Code::Wrudbg,
    Code::Montmul_16,
    Code::Montmul_64,
];

/// Vendors' features whose opcodes mean nothing else on other processors: the
/// decoder always knows them.
fn shared_bytes(feature: F) -> bool {
    matches!(
        feature,
        F::PADLOCK_ACE
            | F::PADLOCK_PHE
            | F::PADLOCK_PMM
            | F::PADLOCK_RNG
            | F::PADLOCK_GMI
            | F::PADLOCK_UNDOC
            | F::TBM
    )
}

/// MPX; its bytes are reserved NOPs.
fn has_bounds_operand(code: Code) -> bool {
    use OpCodeOperandKind as K;
    let mpx = [K::bnd_reg, K::bnd_or_mem_mpx, K::mem_mpx, K::mem_mib];
    code.op_code().op_kinds().iter().any(|k| mpx.contains(k))
}

fn amd_branch(code: Code) -> bool {
    let op = code.op_code();
    op.op_kinds().contains(&OpCodeOperandKind::br16_1) && op.mode64() && !op.mode32()
}
