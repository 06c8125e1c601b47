//! Stack instructions. Guest RSP changes only after the check succeeded.

use super::memory::Operand;
use super::{Emitter, Mapping};
use crate::asm::op;
use crate::block::Step;
use crate::classify::Treatment;
use crate::regs::{GUEST_RSP, Home, T0, T1, T2, home};
use iced_x86::{OpKind, Register};

impl Emitter<'_> {
    /// Bytes of a stack slot.
    pub(super) fn word(&self) -> i32 {
        if self.to.wide { 8 } else { 4 }
    }

    /// A new stack slot, to be written.
    pub(super) fn check_push(&mut self, step: &Step) {
        let (word, wide) = (self.word(), self.to.wide);
        self.access(step, Operand::write(word), |e, by| {
            e.hot.mem(wide, op::LEA, T0, GUEST_RSP, None, by - word);
        });
    }

    /// The slot that guest RSP points to, to be read.
    fn check_pop(&mut self, step: &Step) {
        let (word, wide) = (self.word(), self.to.wide);
        self.access(step, Operand::read(word), |e, by| {
            e.hot.copy_and(wide, T0, GUEST_RSP, by);
        });
    }

    /// The guest's RSP moves, once for several instructions that surely execute.
    pub(super) fn adjust_rsp(&mut self, by: i32) {
        self.rsp_behind += by;
    }

    /// Makes the guest's RSP what it is.
    pub(super) fn settle_rsp(&mut self) {
        let by = std::mem::take(&mut self.rsp_behind);
        if by != 0 {
            self.hot
                .mem(self.to.wide, op::LEA, GUEST_RSP, GUEST_RSP, None, by);
        }
    }

    pub(super) fn store_top(&mut self, reg: u8) {
        self.move_top(op::MOV_STORE, reg);
    }

    pub(super) fn load_top(&mut self, reg: u8) {
        self.move_top(op::MOV, reg);
    }

    fn move_top(&mut self, op: u8, reg: u8) {
        let (index, disp) = (self.place.index(), self.place.disp());
        self.hot.mem(self.to.wide, op, reg, T1, index, disp);
    }

    fn store_top_imm(&mut self, imm: i32) {
        let (index, disp) = (self.place.index(), self.place.disp());
        self.hot.mem_store_imm(self.to.wide, T1, index, disp, imm);
    }

    /// PUSH r64 / imm / m64.
    pub(super) fn push(&mut self, step: &Step) {
        let insn = &step.insn;
        match insn.op0_kind() {
            OpKind::Register => {
                self.check_push(step);
                let r = self.fetch(insn.op0_register(), T2);
                self.store_top(r);
            }
            OpKind::Memory => {
                self.linear_address(insn);
                self.check(insn.ip(), Operand::read(self.word()));
                self.load_top(T2);
                self.hot.gs(true, op::MOV_STORE, T2, self.l.temp());
                self.check_push(step);
                self.hot.gs(true, op::MOV, T2, self.l.temp());
                self.store_top(T2);
            }
            _ => {
                self.check_push(step);
                self.store_top_imm(insn.immediate(0) as i32);
            }
        }
        self.adjust_rsp(-self.word());
    }

    /// POP r64.
    pub(super) fn pop(&mut self, step: &Step) {
        self.check_pop(step);
        match home(step.insn.op0_register().full_register().number()) {
            Home::Host(GUEST_RSP) => return self.load_top(GUEST_RSP),
            Home::Host(h) => self.load_top(h),
            Home::Slot(n) => {
                self.load_top(T2);
                self.hot.gs(true, op::MOV_STORE, T2, self.l.reg(n));
            }
        }
        self.adjust_rsp(self.word());
    }

    /// LEAVE: RSP = RBP + 8, RBP = [RBP].
    pub(super) fn leave(&mut self, step: &Step) {
        const RBP: u8 = 5;
        let word = self.word();
        let wide = self.to.wide;
        self.access(step, Operand::read(word), |e, by| {
            e.hot.copy_and(wide, T0, RBP, by);
        });
        self.hot.mem(wide, op::LEA, GUEST_RSP, RBP, None, word);
        self.load_top(RBP);
    }

    /// Pushes the address after the instruction. True if it is in T2 as well.
    pub(super) fn push_return(&mut self, step: &Step) -> bool {
        self.check_push(step);
        let next = step.insn.next_ip();
        let short = !self.to.wide || next as i64 == i64::from(next as i32);
        let constant = short && self.to.mapping != Mapping::Anywhere;
        if constant {
            self.store_top_imm(next as i32);
        } else {
            self.linear(T2, next);
            self.store_top(T2);
        }
        self.adjust_rsp(-self.word());
        self.settle_rsp();
        !constant
    }

    /// T0 = popped return address; RSP moves past it and `extra` bytes.
    pub(super) fn pop_return(&mut self, step: &Step, extra: i32) {
        self.check_pop(step);
        self.load_top(T0);
        self.adjust_rsp(self.word() + extra);
        self.settle_rsp();
    }
}

/// The step's operand is in a window and it does nothing with RSP but move it, so that
/// RSP need not be right before it.
pub(super) fn moves_with_stack(step: &Step) -> bool {
    let insn = &step.insn;
    let plain = match insn.op0_kind() {
        OpKind::Register => insn.op0_register() != Register::RSP,
        OpKind::Memory => false,
        _ => true,
    };
    match step.treatment {
        Treatment::Push | Treatment::Pop => step.is_covered() && plain,
        Treatment::Ret => step.is_covered(),
        _ => false,
    }
}
