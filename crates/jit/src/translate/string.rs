//! String instructions. One element is moved by a checked load and a checked store.
//!
//! REP MOVS and REP STOS whose operands lie in one plain page each: the host
//! executes them on host addresses. Longer ones and those whose pages the TLB does
//! not have are done by the engine, which the code calls with nothing changed;
//! what remains (faults, devices, DF) is left to the interpreter.

use super::Emitter;
use super::memory::{Operand, TlbField};
use crate::asm::{cc, op};
use crate::block::Step;
use crate::regs::{T0, T1, T2};
use iced_x86::{Instruction, OpKind};
use x86::flags;

const RAX: u8 = 0;
const RCX: u8 = 1;
const RSI: u8 = 6;
const RDI: u8 = 7;
/// MOV of a byte; the next opcode moves a word.
const MOV8: u8 = op::MOV - 1;
const MOV_STORE8: u8 = op::MOV_STORE - 1;
const PAGE: u32 = 4096;

/// Jumps to the slow path that wait for its address.
type Misses = Vec<usize>;

/// Bits of the slow path's info argument.
pub mod string_info {
    /// Bytes of an element.
    pub const SIZE: u32 = 0xff;
    /// There is a source (MOVS).
    pub const SOURCE: u32 = 1 << 8;
    /// Pointers and count have 32 bits.
    pub const NARROW: u32 = 1 << 9;
}

/// MOVS, not STOS.
fn has_source(insn: &Instruction) -> bool {
    matches!(insn.op1_kind(), OpKind::MemorySegRSI | OpKind::MemorySegESI)
}

/// The slow path's argument.
fn info(insn: &Instruction) -> u32 {
    let narrow = matches!(insn.op0_kind(), OpKind::MemoryESEDI);
    let bit = |set: bool, bit: u32| if set { bit } else { 0 };
    insn.memory_size().size() as u32
        | bit(has_source(insn), string_info::SOURCE)
        | bit(narrow, string_info::NARROW)
}

impl Emitter<'_> {
    /// MOVS, STOS or LODS of one element, upwards; downwards is the interpreter's.
    pub(super) fn string(&mut self, step: &Step) {
        let insn = &step.insn;
        let (reads, writes) = (has_source(insn), insn.op0_kind() != OpKind::Register);
        let size = insn.memory_size().size() as i32;
        self.save_flags(flags::ARITH);
        self.hot.gs_test_imm(self.l.rflags, flags::DF as u32);
        let down = self.hot.jcc(cc::NE);
        self.interp_from(insn, &[down]);
        let value = if reads && writes { T2 } else { RAX };
        if reads {
            self.element(insn.ip(), RSI, Operand::read(size));
            self.move_element(MOV8, value, size);
        }
        if reads && writes {
            self.hot.gs(true, op::MOV_STORE, value, self.l.temp());
        }
        if writes {
            self.element(insn.ip(), RDI, Operand::write(size));
            if reads {
                self.hot.gs(true, op::MOV, value, self.l.temp());
            }
            self.move_element(MOV_STORE8, value, size);
            self.step_pointer(RDI, size);
        }
        if reads {
            self.step_pointer(RSI, size);
        }
    }

    /// Checks the element that `pointer` names.
    fn element(&mut self, rip: u64, pointer: u8, operand: Operand) {
        self.hot.rr(self.to.wide, op::MOV, T0, pointer);
        self.check(rip, operand);
    }

    /// Moves the checked element to or from `reg`, by the opcode for a byte.
    fn move_element(&mut self, byte: u8, reg: u8, size: i32) {
        const WORD: u8 = 0x66; // operand-size prefix
        if size == 2 {
            self.hot.buf.push(WORD);
        }
        let op = if size == 1 { byte } else { byte + 1 };
        let (index, disp) = (self.place.index(), self.place.disp());
        self.hot.mem(size == 8, op, reg, T1, index, disp);
    }

    fn step_pointer(&mut self, pointer: u8, by: i32) {
        self.hot
            .mem(self.to.wide, op::LEA, pointer, pointer, None, by);
    }

    /// The instruction, with the way to the engine in the cold stream.
    pub(super) fn rep_string(&mut self, step: &Step) {
        let scale = step.insn.memory_size().size().trailing_zeros() as u8;
        let mut misses = Misses::new();
        self.save_flags(flags::ARITH);
        self.hot.gs_test_imm(self.l.rflags, flags::DF as u32);
        misses.push(self.hot.jcc(cc::NE));
        self.hot.cmp_imm(RCX, PAGE);
        misses.push(self.hot.jcc(cc::A));
        self.host_range(RDI, scale, true, &mut misses);
        let source = has_source(&step.insn);
        if source {
            self.hot.gs(true, op::MOV_STORE, T0, self.l.temp());
            self.host_range(RSI, scale, false, &mut misses);
            self.hot.rr(true, op::MOV, T2, T0);
            self.hot.gs(true, op::MOV, T0, self.l.temp());
            self.hot.rr(true, op::SUB, T2, RSI);
            self.hot.rr(true, op::ADD, RSI, T2);
        }
        self.hot.rr(true, op::SUB, T0, RDI);
        self.hot.rr(true, op::ADD, RDI, T0);
        self.hot.bytes(host_form(source, scale));
        self.hot.rr(true, op::SUB, RDI, T0);
        if source {
            self.hot.rr(true, op::SUB, RSI, T2);
        }
        self.string_path(&step.insn, &misses);
    }

    /// Where `misses` lead: goes on behind the instruction, at the hot stream's
    /// end, or leaves for the interpreter.
    fn string_path(&mut self, insn: &Instruction, misses: &[usize]) {
        for at in misses {
            self.hot_to_cold(*at);
        }
        let id = self.number(insn);
        self.settle_flags_cold();
        self.cold.gs_store_imm(self.l.exit_site(), id);
        self.cold.mov_imm(T2, info(insn).into());
        let call = self.cold.call();
        self.cold_to_stub(call, self.stubs.string);
        let back = self.cold.jmp();
        self.cold_to_hot(back, self.hot.len());
    }

    /// T0 = host address of the elements that `pointer` and RCX name, if they
    /// lie in one page that the first-level TLB has. Clobbers T1 and T2.
    fn host_range(&mut self, pointer: u8, scale: u8, write: bool, misses: &mut Misses) {
        self.hot.rr(true, op::MOV, T0, pointer);
        self.tlb_index();
        self.tlb_field(op::XOR, T0, TlbField::tag(write));
        self.hot.cmp_imm(T0, PAGE - 1);
        misses.push(self.hot.jcc(cc::A));
        self.tlb_field(op::MOV, T1, TlbField::Host);
        self.hot.mem(true, op::LEA, T2, T0, Some((RCX, scale)), 0);
        // In 32-bit code the pointer after the last element must not wrap.
        let end = if self.to.wide { PAGE } else { PAGE - 1 };
        self.hot.cmp_imm(T2, end);
        misses.push(self.hot.jcc(cc::A));
        self.hot.rr(true, op::ADD, T0, T1);
    }
}

/// The same instruction for 64-bit addresses.
fn host_form(source: bool, scale: u8) -> &'static [u8] {
    match (source, scale) {
        (false, 0) => &[0xf3, 0xaa],
        (false, 1) => &[0x66, 0xf3, 0xab],
        (false, 2) => &[0xf3, 0xab],
        (false, _) => &[0xf3, 0x48, 0xab],
        (true, 0) => &[0xf3, 0xa4],
        (true, 1) => &[0x66, 0xf3, 0xa5],
        (true, 2) => &[0xf3, 0xa5],
        (true, _) => &[0xf3, 0x48, 0xa5],
    }
}
