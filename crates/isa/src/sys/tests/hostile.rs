//! Random state and bytes: nothing panics, and what faults changes nothing.

use super::*;
use x86::cpu::XSAVE_SIZE;

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 20) % n
    }
    /// An address: usually inside memory, sometimes at an edge.
    fn address(&mut self) -> u64 {
        match self.below(8) {
            0 => self.next(),
            1 => u64::MAX - self.below(16),
            2 => 0xffff_ffff - self.below(16),
            3 => 0x7fff_ffff_ffff - self.below(16),
            _ => self.below(1 << 20),
        }
    }
}

fn scramble(cpu: &mut CpuState, r: &mut Random) {
    for g in &mut cpu.gpr {
        *g = r.address();
    }
    for s in &mut cpu.seg {
        if r.below(4) == 0 {
            s.base = r.address();
            s.limit = r.next() as u32 >> r.below(32);
            s.selector = r.next() as u16;
            s.attr = r.next() as u16 & 0xf0ff;
        }
    }
    if r.below(4) == 0 {
        cpu.gdtr.base = r.address();
        cpu.idtr.base = r.address();
        cpu.idtr.limit = r.next() as u16;
    }
    cpu.rflags = (r.next() & flags::DEFINED & !flags::VM) | flags::FIXED1;
    if r.below(8) == 0 && !cpu.long_mode() && cpu.cr0 & cr0::PE != 0 {
        cpu.rflags |= flags::VM;
    }
    cpu.cr4 |= r.next() & (cr4::OSXSAVE | cr4::OSFXSR | cr4::VME | cr4::DE | cr4::PCIDE);
    cpu.xcr0 = 0xe7;
    cpu.dr[7] = 0x400 | (r.next() & r.next() & 0xffff_00ff);
    cpu.dr[0] = CODE;
    for i in 0..XSAVE_SIZE {
        cpu.xsave.0[i] = r.next() as u8;
    }
}

/// Bytes that are mostly system instructions.
fn instruction(r: &mut Random) -> [u8; 15] {
    const OPCODES: [&[u8]; 28] = [
        &[0xcf],
        &[0xcb],
        &[0xca],
        &[0xcd],
        &[0xcc],
        &[0xce],
        &[0xf1],
        &[0x9a],
        &[0xea],
        &[0xff],
        &[0x8e],
        &[0x1f],
        &[0xc4],
        &[0x63],
        &[0x6c],
        &[0x6f],
        &[0xec],
        &[0xe6],
        &[0x9c],
        &[0x9d],
        &[0xfb],
        &[0xd9],
        &[0xdd],
        &[0x0f, 0x00],
        &[0x0f, 0x01],
        &[0x0f, 0xae],
        &[0x0f, 0xc7],
        &[0x0f],
    ];
    let mut bytes = [0; 15];
    for b in &mut bytes {
        *b = r.next() as u8;
    }
    let mut at = 0;
    for prefix in [0x66, 0xf3, 0x67, 0x48] {
        if r.below(4) == 0 {
            bytes[at] = prefix;
            at += 1;
        }
    }
    let opcode = OPCODES[r.below(OPCODES.len() as u64) as usize];
    bytes[at..at + opcode.len()].copy_from_slice(opcode);
    bytes
}

#[test]
fn random_instructions_neither_panic_nor_change_state_before_a_fault() {
    let mut r = Random(0x1234_5678_9abc_def1);
    for round in 0..6000 {
        let (mut cpu, mut w) = match round % 4 {
            0 => long(0),
            1 => long(3),
            2 => protected((round & 4) as u8 / 4 * 3),
            _ => real(),
        };
        for i in 0..16 {
            w.put(GDT + 0x40 + 8 * i, 8, r.next());
            w.put(STACK + 8 * i, 8, r.address());
        }
        scramble(&mut cpu, &mut r);
        w.code(&instruction(&mut r));
        let before = cpu.clone();
        let insn = crate::fetch(&mut cpu, &mut w);
        if let Ok(insn) = insn {
            let end = crate::execute_only(&mut cpu, &mut w, &insn);
            let switched = cpu.seg(Seg::Tr) != before.seg(Seg::Tr);
            if matches!(end, Err(Stop::Fault(_))) && !switched {
                cpu.events.shadow = before.events.shadow;
                assert!(cpu == before, "{insn:?} {end:?}");
            }
        }
        for _ in 0..3 {
            let _ = crate::step(&mut cpu, &mut w);
        }
    }
}
