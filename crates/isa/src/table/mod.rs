//! The one table of instructions: how every [`Code`] is treated.
//!
//! Most rows follow from the mnemonic ([`lists`]); vector and x87 instructions
//! follow from their encoding and CPUID feature; a few codes that share a
//! mnemonic with something else are listed one by one.

mod lists;

use crate::env::Env;
use iced_x86::{
    Code, CpuidFeature as F, EncodingKind, Instruction, InstructionInfoFactory,
    InstructionInfoOptions, Mnemonic, OpAccess, OpKind, Register,
};
use std::sync::LazyLock;

/// Which part of the interpreter executes an integer instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Int {
    Binary,
    Unary,
    Adx,
    MulDiv,
    Shift,
    BitTest,
    BitScan,
    Bmi,
    Crc32,
    Mov,
    Movsx,
    Lea,
    Setcc,
    Cmov,
    Movbe,
    Movnti,
    Bswap,
    Convert,
    Xchg,
    Xadd,
    Cmpxchg,
    CmpxchgPair,
    Xlat,
    Bound,
    Bcd,
    Stack,
    FlagsByte,
    Flag,
    Nop,
    Fence,
    FlushLine,
    Random,
}

/// Which state a natively executed instruction needs, and so which control
/// register bits make it fault (SDM vol 2, 2.4 to 2.8; vol 3, 2.5 and 12.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// x87.
    X87,
    /// WAIT.
    Wait,
    /// MMX registers only.
    Mmx,
    /// XMM registers, legacy encoding.
    Sse,
    /// VEX- or XOP-encoded vectors.
    Avx,
    /// EVEX-encoded vectors and opmask registers.
    Avx512,
}

/// The treatment of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Unprivileged integer instruction of the interpreter.
    Int(Int),
    /// Near branch.
    Branch,
    /// MOVS, CMPS, SCAS, LODS, STOS.
    String,
    /// Executed by the host CPU on the guest's vector or x87 state.
    Native(Unit),
    /// Privileged, far, or touching system state.
    System,
    /// Never offered to a guest: raises #UD.
    Excluded(Why),
}

/// Why an instruction is excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Not an instruction: data directives and the invalid code.
    NotAnInstruction,
    /// Only with a WAIT prefix of its own; decoded as two instructions.
    WaitForm,
    /// Hardware virtualization, enclaves, secure modes.
    Virtualization,
    /// Architectural, but its CPUID feature is never offered.
    NotOffered,
    /// Only on processors that are not 64-bit Intel or AMD.
    Vendor,
}

/// A code's class and, one bit an operand, which operands it reads and writes.
#[derive(Clone, Copy)]
struct Row {
    class: Class,
    reads: u8,
    writes: u8,
}

static ROWS: LazyLock<Box<[Row]>> = LazyLock::new(|| {
    let mut factory = InstructionInfoFactory::new();
    Code::values().map(|c| row(&mut factory, c)).collect()
});

fn row(factory: &mut InstructionInfoFactory, code: Code) -> Row {
    let mut insn = Instruction::default();
    insn.set_code(code);
    // Distinct registers: with equal ones the access table takes XOR, PSUB and
    // their like for the idiom that reads nothing.
    for i in 0..insn.op_count().min(4) {
        insn.set_op_register(i, Register::XMM0 + i);
    }
    // The answers are for memory operands; some codes merge into a register
    // operand 0 but only write a memory one (MOVSS).
    insn.set_op0_kind(OpKind::Memory);
    let options =
        InstructionInfoOptions::NO_MEMORY_USAGE | InstructionInfoOptions::NO_REGISTER_USAGE;
    let info = factory.info_options(&insn, options);
    let (mut reads, mut writes) = (0, 0);
    for i in 0..insn.op_count().min(5) {
        use OpAccess as A;
        let a = info.op_access(i);
        let r = matches!(a, A::Read | A::CondRead | A::ReadWrite | A::ReadCondWrite);
        let w = matches!(a, A::Write | A::CondWrite | A::ReadWrite | A::ReadCondWrite);
        reads |= u8::from(r) << i;
        writes |= u8::from(w) << i;
    }
    Row {
        class: derive(code),
        reads,
        writes,
    }
}

fn row_of(code: Code) -> Row {
    ROWS.get(code as usize).copied().unwrap_or(Row {
        class: Class::Excluded(Why::NotAnInstruction),
        reads: 0,
        writes: 0,
    })
}

/// The treatment of `code`.
pub fn class(code: Code) -> Class {
    row_of(code).class
}

/// Does `insn` read (`.0`) and write (`.1`) its memory operand `i`, as far as
/// its code alone says? Masked stores count as writes.
pub fn memory_access(insn: &Instruction, i: u32) -> (bool, bool) {
    let r = row_of(insn.code());
    let bit = 1u8.checked_shl(i).unwrap_or(0);
    (r.reads & bit != 0, r.writes & bit != 0)
}

/// Index of the explicit memory operand, if any.
pub fn memory_operand(insn: &Instruction) -> Option<u32> {
    (0..insn.op_count()).find(|&i| insn.op_kind(i) as u32 >= OpKind::MemorySegSI as u32)
}

/// Are all CPUID features of `insn` offered to the guest?
pub fn cpuid_ok<E: Env>(env: &E, insn: &Instruction) -> bool {
    insn.cpuid_features().iter().all(|&f| env.has_feature(f))
}

/// The class of a code from the lists, its encoding and its features.
fn derive(code: Code) -> Class {
    if let Some(c) = lists::by_code(code) {
        return c;
    }
    if is_vendor(code) {
        return Class::Excluded(Why::Vendor);
    }
    if let Some(c) = lists::by_mnemonic(code.mnemonic()) {
        return c;
    }
    match code.encoding() {
        EncodingKind::Legacy | EncodingKind::D3NOW => by_feature(code),
        EncodingKind::VEX | EncodingKind::XOP => wide(code, Unit::Avx),
        EncodingKind::EVEX => wide(code, Unit::Avx512),
        _ => Class::Excluded(Why::Vendor),
    }
}

/// A VEX, XOP or EVEX vector instruction; opmask instructions need AVX-512
/// state although VEX-encoded.
fn wide(code: Code, unit: Unit) -> Class {
    let features = code.cpuid_features();
    if features.iter().any(|f| lists::NOT_OFFERED.contains(f)) {
        return Class::Excluded(Why::NotOffered);
    }
    let opmask = features
        .iter()
        .any(|f| matches!(f, F::AVX512F | F::AVX512BW | F::AVX512DQ));
    Class::Native(if opmask { Unit::Avx512 } else { unit })
}

/// A legacy-encoded instruction whose mnemonic is in no list: x87, MMX, SSE.
fn by_feature(code: Code) -> Class {
    let has = |list: &[F]| code.cpuid_features().iter().any(|f| list.contains(f));
    if has(lists::NOT_OFFERED) {
        Class::Excluded(Why::NotOffered)
    } else if has(&[F::FPU, F::FPU287, F::FPU387]) {
        Class::Native(Unit::X87)
    } else if has(&[F::MMX, F::D3NOW, F::D3NOWEXT]) || lists::MMX_FORMS.contains(&code) {
        Class::Native(Unit::Mmx)
    } else if has(lists::SSE) {
        Class::Native(Unit::Sse)
    } else {
        Class::Excluded(Why::Vendor)
    }
}

/// Does `code` belong to processors that are not 64-bit Intel or AMD, though its
/// mnemonic may be a common one?
fn is_vendor(code: Code) -> bool {
    let features = code.cpuid_features();
    features.iter().any(|f| lists::VENDOR.contains(f))
}

/// Is `m` one of the string mnemonics? (For callers that only decode.)
pub fn is_string(m: Mnemonic) -> bool {
    lists::by_mnemonic(m) == Some(Class::String)
}
