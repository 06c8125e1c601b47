//! What an instruction's code alone says of it, found out once for all codes.

use crate::classify::{Vector, class_of_code, conditional_memory, system_flags};
use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpCodeOperandKind};
use std::sync::OnceLock;

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

/// Facts about a code.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    /// The register file it uses.
    pub vector: Vector,
    /// Whether it is copied without further questions.
    pub plain: Plain,
}

/// Facts about `code`.
pub(crate) fn facts(code: Code) -> Facts {
    static TABLE: OnceLock<Vec<Facts>> = OnceLock::new();
    let find = |code| Facts {
        vector: class_of_code(code),
        plain: plain(code),
    };
    TABLE.get_or_init(|| Code::values().map(find).collect())[code as usize]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::{AccessTable, Allowed, Copyable, Treatment, other_treatment, treatment};
    use iced_x86::{Decoder, DecoderOptions, InstructionInfoFactory, OpAccess};
    use isa::table::{Class, class};

    const MODE: Allowed = Allowed {
        wide: true,
        fs: true,
        gs: true,
        cpl0: true,
        smap: true,
        reaches_user: false,
        fsgsbase: true,
        tsc: true,
        x87: true,
        sse: true,
        avx: true,
        avx512: true,
    };

    /// Calls `with` for many instructions, all of one sequence.
    fn random_instructions(mut with: impl FnMut(&Instruction)) {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        const STARTS: [&[u8]; 8] = [
            &[],
            &[0x48],
            &[0x0f],
            &[0x66, 0x0f],
            &[0x41, 0x0f],
            &[0xc4],
            &[0x62],
            &[0xf3],
        ];
        for _ in 0..400_000 {
            let mut bytes = STARTS[(next() % 8) as usize].to_vec();
            bytes.extend([next().to_le_bytes(), next().to_le_bytes()].concat());
            let mut insn = Decoder::new(64, &bytes, DecoderOptions::NONE).decode();
            crate::classify::normalise(&mut insn);
            if !insn.is_invalid() {
                with(&insn);
            }
        }
    }

    #[test]
    fn what_is_plain_is_copied_anyway() {
        let copyable =
            Copyable::new(|code| matches!(class(code), Class::Int(_) | Class::Native(_)));
        let (mut quick, mut copied) = (0, 0);
        random_instructions(|insn| {
            let slow = other_treatment(insn, &copyable, MODE);
            assert_eq!(treatment(insn, &copyable, MODE), slow, "{insn}");
            quick += u32::from(facts(insn.code()).plain != Plain::No);
            copied += u32::from(slow == Treatment::Copy);
        });
        assert!(quick > copied * 9 / 10, "{quick} of {copied}");
    }

    #[test]
    fn registers_are_changed_as_the_decoder_says() {
        let (mut table, mut factory) = (AccessTable::default(), InstructionInfoFactory::new());
        random_instructions(|insn| {
            let mut found = 0u16;
            table.changed(insn, |n| found |= 1 << n);
            let info = factory.info(insn);
            let written = info.used_registers().iter().filter(|u| {
                u.register().is_gpr() && !matches!(u.access(), OpAccess::Read | OpAccess::CondRead)
            });
            let want = written.fold(0u16, |all, u| {
                all | 1 << u.register().full_register().number()
            });
            assert_eq!(want & !found, 0, "{insn}: {want:#x}, not {found:#x}");
        });
    }
}
