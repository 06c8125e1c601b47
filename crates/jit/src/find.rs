//! Finds out the facts about a code. Only the build script does, since the decoder's
//! tables behind this take ten milliseconds to set up, and a test.

use crate::codes::{Facts, Plain, Vector, conditional_memory, system_flags};
use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpCodeOperandKind};

/// The facts about `code`.
pub(crate) fn find(code: Code) -> Facts {
    Facts {
        vector: class_of_code(code),
        plain: plain(code),
        wide: code.op_code().mode64(),
    }
}

/// They in a byte, as [`Facts::unpack`] takes them.
pub(crate) fn pack(facts: Facts) -> u8 {
    facts.vector as u8 | (facts.plain as u8) << 3 | u8::from(facts.wide) << 5
}

fn plain(code: Code) -> Plain {
    let info = code.op_code();
    let kinds = info.op_kinds();
    let mut sample = Instruction::default();
    sample.set_code(code);
    let sizes = [info.memory_size(), info.broadcast_memory_size()];
    let known = |size: usize| (1..=64).contains(&size);
    let memory = kinds.iter().any(|&k| is_memory(k));
    let simple = info.mode64()
        && code.flow_control() == FlowControl::Next
        && !code.is_stack_instruction()
        && !sample.is_string_instruction()
        && !system_flags(&sample)
        && !has_own_treatment(code.mnemonic())
        && !conditional_memory(code.mnemonic())
        && kinds.iter().all(|&k| is_memory(k) || is_simple(k))
        && (!memory || known(sizes[0].size()) && (!info.can_broadcast() || known(sizes[1].size())));
    if !simple {
        Plain::No
    } else if kinds.iter().any(|&k| names_bytes(k)) {
        Plain::Bytes
    } else {
        Plain::Yes
    }
}

/// Those that [`crate::classify::treatment`] looks for by name.
fn has_own_treatment(m: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        m,
        M::Nop
            | M::Endbr64
            | M::Endbr32
            | M::Prefetcht0
            | M::Prefetcht1
            | M::Prefetcht2
            | M::Prefetchnta
            | M::Prefetch
            | M::Prefetchw
            | M::Prefetchwt1
            | M::Prefetchit0
            | M::Prefetchit1
            | M::Reservednop
            | M::Pause
            | M::Lea
            | M::Cli
            | M::Sti
            | M::Cld
            | M::Std
            | M::Clac
            | M::Stac
            | M::Swapgs
            | M::Rdfsbase
            | M::Rdgsbase
            | M::Wrfsbase
            | M::Wrgsbase
            | M::Rdtsc
            | M::Rdtscp
            | M::Serialize
            | M::Bt
            | M::Bts
            | M::Btr
            | M::Btc
    )
}

/// Perhaps an ordinary operand in memory.
fn is_memory(kind: OpCodeOperandKind) -> bool {
    use OpCodeOperandKind as K;
    matches!(
        kind,
        K::mem
            | K::r8_or_mem
            | K::r16_or_mem
            | K::r32_or_mem
            | K::r64_or_mem
            | K::mm_or_mem
            | K::xmm_or_mem
            | K::ymm_or_mem
            | K::zmm_or_mem
            | K::k_or_mem
    )
}

/// A general register of 8 bits, perhaps one of AH to BH.
fn names_bytes(kind: OpCodeOperandKind) -> bool {
    use OpCodeOperandKind as K;
    matches!(kind, K::r8_or_mem | K::r8_reg | K::r8_opcode)
}

/// A general or vector register, or an immediate.
#[rustfmt::skip]
fn is_simple(kind: OpCodeOperandKind) -> bool {
    use OpCodeOperandKind as K;
    matches!(
        kind,
        K::r8_reg | K::r8_opcode | K::r16_reg | K::r16_rm | K::r16_opcode
            | K::r32_reg | K::r32_rm | K::r32_opcode | K::r32_vvvv
            | K::r64_reg | K::r64_rm | K::r64_opcode | K::r64_vvvv
            | K::k_reg | K::k_rm | K::k_vvvv | K::mm_reg | K::mm_rm
            | K::xmm_reg | K::xmm_rm | K::xmm_vvvv | K::xmm_is4 | K::xmm_is5
            | K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_is4 | K::ymm_is5
            | K::zmm_reg | K::zmm_rm | K::zmm_vvvv
            | K::al | K::cl | K::ax | K::eax | K::rax | K::st0 | K::sti_opcode
            | K::imm8 | K::imm8_const_1 | K::imm8sex16 | K::imm8sex32 | K::imm8sex64
            | K::imm16 | K::imm32 | K::imm32sex64 | K::imm64
    )
}

/// An operand is none of a general register, memory or an immediate.
fn names_vector(code: Code) -> bool {
    use OpCodeOperandKind as K;
    let info = code.op_code();
    (0..info.op_count()).any(|i| {
        !matches!(
            info.op_kind(i),
            K::None
                | K::mem
                | K::r8_or_mem
                | K::r16_or_mem
                | K::r32_or_mem
                | K::r64_or_mem
                | K::r8_reg
                | K::r16_reg
                | K::r32_reg
                | K::r64_reg
                | K::r32_rm
                | K::r64_rm
                | K::r32_vvvv
                | K::r64_vvvv
                | K::imm8
                | K::imm8sex16
                | K::imm8sex32
                | K::imm8sex64
                | K::imm16
                | K::imm32
                | K::imm32sex64
                | K::imm64
                | K::al
                | K::cl
                | K::ax
                | K::dx
                | K::eax
                | K::rax
                | K::imm8_const_1
                | K::r16_rm
                | K::r8_opcode
                | K::r16_opcode
                | K::r32_opcode
                | K::r64_opcode
                | K::mem_offs
                | K::r32_reg_mem
                | K::r64_reg_mem
                | K::r16_reg_mem
        )
    })
}

fn class_of_code(code: Code) -> Vector {
    use iced_x86::{CpuidFeature as F, EncodingKind};
    let info = code.op_code();
    let is = |f: &[F]| code.cpuid_features().iter().any(|c| f.contains(c));
    if code == Code::Wait {
        return Vector::X87; // raises what earlier x87 instructions left pending
    }
    if is_general(code.mnemonic()) {
        return Vector::None;
    }
    if is(&[F::FPU, F::FPU287, F::FPU387, F::MMX, F::D3NOW, F::D3NOWEXT]) {
        return Vector::X87;
    }
    match info.encoding() {
        EncodingKind::EVEX => Vector::Avx512,
        EncodingKind::VEX if is(&[F::AVX512F, F::AVX512BW, F::AVX512DQ]) => Vector::Avx512,
        EncodingKind::VEX if is(&[F::BMI1, F::BMI2]) => Vector::None,
        EncodingKind::VEX => Vector::Avx,
        EncodingKind::Legacy if names_vector(code) || is(&[F::SSE, F::SSE2, F::SSE3, F::SSSE3]) => {
            if is(&[F::FXSR]) {
                Vector::None
            } else {
                mmx_or_sse(code)
            }
        }
        _ => Vector::None,
    }
}

/// Came with SSE but uses none of its registers and heeds neither CR0.TS nor CR0.EM.
/// Kernels have LFENCE at every entry.
fn is_general(m: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(m, M::Lfence | M::Mfence | M::Sfence | M::Movnti)
}

/// SSE-extension instructions on MM registers follow x87 rules.
fn mmx_or_sse(code: Code) -> Vector {
    use iced_x86::OpCodeOperandKind as K;
    let info = code.op_code();
    let mm = (0..info.op_count())
        .any(|i| matches!(info.op_kind(i), K::mm_reg | K::mm_rm | K::mm_or_mem));
    if mm { Vector::X87 } else { Vector::Sse }
}
