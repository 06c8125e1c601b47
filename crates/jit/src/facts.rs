//! What an instruction's code alone says of it, from the table that the build script
//! made.

pub(crate) use crate::codes::{Facts, Plain};
use iced_x86::Code;

/// A byte for each code, see [`Facts::unpack`].
static TABLE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/facts"));

/// Facts about `code`.
pub(crate) fn facts(code: Code) -> Facts {
    Facts::unpack(TABLE[code as usize])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::{AccessTable, Allowed, Copyable, Treatment, other_treatment, treatment};
    use iced_x86::{Decoder, DecoderOptions, Instruction, InstructionInfoFactory, OpAccess};
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
    fn the_table_is_what_the_decoder_says() {
        assert_eq!(TABLE.len(), Code::values().len());
        for code in Code::values() {
            let found = crate::find::find(code);
            assert_eq!(facts(code), found, "{code:?}");
            assert_eq!(Facts::unpack(crate::find::pack(found)), found);
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
