//! Arbitrary bytes in every mode: no panic, and what is refused changes
//! nothing.

use super::{World, cpu16, cpu32, cpu64};
use crate::env::Stop;
use crate::operand::Ctx;
use crate::table::{Class, class};
use iced_x86::{Decoder, DecoderOptions};
use x86::CpuState;

/// xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    /// Registers are mostly small so that accesses mostly succeed.
    fn register(&mut self) -> u64 {
        match self.next() % 4 {
            0 => self.next(),
            1 => self.next() >> 32,
            _ => self.next() % 0xc000,
        }
    }
}

/// A `rep` or a gather may have made progress before it stopped.
fn may_progress(insn: &iced_x86::Instruction) -> bool {
    let masked = insn.has_op_mask() || insn.is_vsib();
    masked || class(insn.code()) == Class::String
}

#[test]
fn arbitrary_instructions_never_panic_and_faults_change_nothing() {
    let mut r = Random(0x1234_5678_9abc_def1);
    let mut w = World::new();
    let modes: [fn() -> CpuState; 3] = [cpu16, cpu32, cpu64];
    let (mut done, mut refused) = (0, 0);
    for i in 0..60_000 {
        let mut cpu = modes[i % 3]();
        cpu.gpr = std::array::from_fn(|_| r.register());
        cpu.rflags |= r.next() & 0x4_0cd5;
        let mut code = [0u8; 16];
        for b in code.chunks_mut(8) {
            b.copy_from_slice(&r.next().to_le_bytes());
        }
        let prefixes: [&[u8]; 6] = [&[], &[0x0f], &[0x0f, 0x38], &[0xf3], &[0x66, 0x0f], &[0xc4]];
        let p = prefixes[r.next() as usize % prefixes.len()];
        code[..p.len()].copy_from_slice(p);
        let insn = Decoder::with_ip(cpu.bitness(), &code, cpu.rip, DecoderOptions::NONE).decode();
        let before = cpu.clone();
        match crate::int::execute(&mut Ctx::new(&mut cpu, &mut w, &insn)) {
            Ok(_) => done += 1,
            Err(Stop::Fault(_) | Stop::Suspend) if may_progress(&insn) => refused += 1,
            Err(_) => {
                refused += 1;
                assert!(cpu == before, "{insn} ({:x?})", &code[..insn.len()]);
            }
        }
    }
    assert!(done > 10_000 && refused > 1_000, "{done} {refused}");
}
