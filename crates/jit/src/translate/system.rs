//! System instructions that need no help: flags in memory, selectors, and bit
//! strings.

use super::Emitter;
use super::memory::Operand;
use crate::asm::{cc, op};
use crate::block::Step;
use crate::regs::{Home, T0, T1, T2, home};
use iced_x86::{Code, Instruction, Mnemonic, Register};
use x86::flags;

impl Emitter<'_> {
    /// PUSHFQ: arithmetic flags from the host, the others from memory, RF and
    /// VM as 0.
    pub(super) fn push_flags(&mut self, step: &Step) {
        self.restore_flags(flags::ARITH);
        self.hot.buf.push(0x9c); // pushfq on the host's stack
        self.hot.pop(T2);
        self.hot.gs(true, op::MOV_STORE, T2, self.l.temp());
        self.check_push(step);
        let a = &mut self.hot;
        a.gs(true, op::MOV, T2, self.l.temp());
        a.and_imm(T2, flags::ARITH as u32);
        a.gs(true, op::MOV_STORE, T2, self.l.temp());
        a.gs(true, op::MOV, T2, self.l.rflags);
        a.and_imm(T2, !(flags::ARITH | flags::RF | flags::VM) as u32);
        a.gs(true, op::OR, T2, self.l.temp());
        self.store_top(T2);
        self.adjust_rsp(-self.word());
    }

    /// CLI at CPL 0.
    pub(super) fn cli(&mut self, step: &Step) {
        self.save_flags(step.live_in);
        self.hot.gs_and_imm(self.l.rflags, !flags::IF as u32);
    }

    /// STI at CPL 0. If an interrupt waits the interpreter executes it, so
    /// that the interrupt comes right after the next instruction; one that
    /// arrives later is noticed at a poll, which no instruction's start is.
    pub(super) fn sti(&mut self, step: &Step) {
        self.save_flags(step.live_in);
        self.hot.gs_cmp_imm8(self.l.irq_waiting(), 0);
        let waiting = self.hot.jcc(cc::NE);
        self.interp_from(&step.insn, &[waiting]);
        self.hot.gs_or_imm(self.l.rflags, flags::IF as u32);
    }

    /// MOV r, Sreg.
    pub(super) fn read_selector(&mut self, step: &Step) {
        let index = match step.insn.op1_register() {
            Register::ES => 0,
            Register::CS => 1,
            Register::SS => 2,
            Register::DS => 3,
            Register::FS => 4,
            _ => 5,
        };
        let disp = self.l.selectors + index * self.l.seg_stride;
        match home(step.insn.op0_register().full_register().number()) {
            Home::Host(h) => self.hot.gs_movzx16(h, disp),
            Home::Slot(n) => {
                self.hot.gs_movzx16(T2, disp);
                self.hot.gs(true, op::MOV_STORE, T2, self.l.reg(n));
            }
        }
    }

    /// BT and kin with a register index: the index selects the word first
    /// (SDM vol 2, BT), then the bit in it.
    pub(super) fn bit_string(&mut self, step: &Step) {
        let insn = &step.insn;
        let wide = insn.op1_register().size() == 8;
        let write = insn.mnemonic() != Mnemonic::Bt;
        self.linear_address(insn);
        self.save_flags(step.live_in);
        let index = self.fetch(insn.op1_register(), T1);
        if wide {
            self.hot.rr(true, op::MOV, T1, index);
        } else {
            self.hot.movsxd(T1, index);
        }
        let word = if wide { 3 } else { 2 };
        self.hot.sar_imm(T1, word + 3);
        self.hot
            .mem(self.to.wide, op::LEA, T0, T0, Some((T1, word)), 0);
        let operand = Operand {
            write,
            ..Operand::read(1 << word)
        };
        self.check(insn.ip(), operand.of(insn), step.live_in);
        let index = self.fetch(insn.op1_register(), T2);
        self.hot.rr(false, op::MOV, T2, index);
        self.hot.and_imm(T2, (8 << word) - 1);
        if self.flags_in_slot {
            self.hot.gs(true, op::MOV_STORE, T2, self.l.temp());
            self.restore_flags(step.live_in);
            self.hot.gs(true, op::MOV, T2, self.l.temp());
        }
        self.emit_bit_op(insn);
    }

    fn emit_bit_op(&mut self, insn: &Instruction) {
        let (opcode, wide) = match insn.code() {
            Code::Bt_rm32_r32 => (0xa3, false),
            Code::Bt_rm64_r64 => (0xa3, true),
            Code::Bts_rm32_r32 => (0xab, false),
            Code::Bts_rm64_r64 => (0xab, true),
            Code::Btr_rm32_r32 => (0xb3, false),
            Code::Btr_rm64_r64 => (0xb3, true),
            Code::Btc_rm32_r32 => (0xbb, false),
            _ => (0xbb, true),
        };
        if insn.has_lock_prefix() {
            self.hot.buf.push(0xf0);
        }
        self.hot.mem_0f(wide, opcode, T2, T1, T0);
    }
}
