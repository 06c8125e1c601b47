//! Copied instructions: same opcode, renamed registers, checked memory.

use super::Emitter;
use super::memory::Operand;
use crate::asm::op;
use crate::block::{Step, has_memory};
use crate::classify::swaps_bytes;
use crate::regs::{Home, T0, T1, T2, home, is_high_byte, named};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// Guest registers without a host register that an instruction names, and
/// the scratch registers that stand in for them.
#[derive(Default)]
struct StandIns {
    list: [(usize, u8); 4],
    len: usize,
    written: u8,
    read: u8,
}

impl StandIns {
    fn get(&self, guest: usize) -> Option<usize> {
        self.list[..self.len].iter().position(|(g, _)| *g == guest)
    }
}

impl Emitter<'_> {
    /// A copied instruction.
    pub(super) fn copy(&mut self, step: &Step) {
        let insn = &step.insn;
        if !has_memory(insn) {
            let start = self.load_flags_for(step);
            self.copy_registers(insn);
            return self.flags_copied(insn, start);
        }
        if self.to.alone && insn.mnemonic() == Mnemonic::Xchg && word(insn) {
            return self.exchange(step);
        }
        let access = self.access.of(insn);
        let write =
            (0..insn.op_count()).any(|i| insn.op_kind(i) == OpKind::Memory && access.writes(i));
        let operand = Operand {
            write,
            ..Operand::read(insn.memory_size().size() as i32)
        };
        self.access(step, operand.of(insn), |e, by| {
            e.linear_address_and(insn, by)
        });
        let start = self.load_flags_for(step);
        self.copy_with_memory(insn);
        self.flags_copied(insn, start);
    }

    /// XCHG with memory of a vCPU that is alone. What drives devices, for which the
    /// lock is a fence, is the kernel.
    fn exchange(&mut self, step: &Step) {
        let insn = &step.insn;
        let wide = insn.memory_size().size() == 8;
        let operand = Operand::write(if wide { 8 } else { 4 });
        self.access(step, operand, |e, by| e.linear_address_and(insn, by));
        let (index, disp) = (self.place.index(), self.place.disp());
        let (l, a) = (self.l, &mut self.hot);
        a.mem(wide, op::MOV, T2, T1, index, disp);
        match home(insn.op1_register().full_register().number()) {
            Home::Host(h) => {
                a.mem(wide, op::MOV_STORE, h, T1, index, disp);
                a.rr(wide, op::MOV, h, T2);
            }
            Home::Slot(n) => {
                a.gs(true, op::MOV_STORE, T2, l.temp());
                a.gs(true, op::MOV, T2, l.reg(n));
                a.mem(wide, op::MOV_STORE, T2, T1, index, disp);
                a.gs(true, op::MOV, T2, l.temp());
                a.gs(true, op::MOV_STORE, T2, l.reg(n));
            }
        }
    }

    fn copy_registers(&mut self, insn: &Instruction) {
        // Bytes of 32-bit code may mean something else in 64-bit mode.
        if self.to.wide && !needs_renaming(insn) {
            self.note_fault_site(insn);
            let start = (insn.ip() & 0xfff) as usize;
            let page = self.page;
            let buf = &mut self.hot.buf;
            return buf.extend_from_start(&page[start..], insn.len());
        }
        let mut copy = *insn;
        self.rename_and_emit(insn, &mut copy, &[T2, T1, T0]);
    }

    fn copy_with_memory(&mut self, insn: &Instruction) {
        let mut copy = *insn;
        copy.set_segment_prefix(Register::None);
        copy.set_memory_index_scale(1);
        copy.set_memory_index(Register::None);
        copy.set_memory_base(named(T1, 8));
        let (index, disp) = (self.place.index(), self.place.disp());
        copy.set_memory_displacement64(disp as u64);
        copy.set_memory_displ_size(match disp {
            0 => 0,
            -128..128 => 1,
            _ => 8,
        });
        let scratch: &[u8] = match index {
            None => &[T2, T0],
            Some(_) if count_slots(insn) > 1 => {
                self.hot.mem(true, op::LEA, T0, T1, index, 0);
                copy.set_memory_base(named(T0, 8));
                &[T2, T1]
            }
            Some(_) => {
                copy.set_memory_index(named(T0, 8));
                &[T2]
            }
        };
        self.rename_and_emit(insn, &mut copy, scratch);
    }

    fn rename_and_emit(&mut self, insn: &Instruction, copy: &mut Instruction, scratch: &[u8]) {
        let ins = self.rename(insn, copy, scratch);
        let swapped = swapped_byte(insn, copy);
        if let Some(low) = swapped {
            self.hot.swap_bytes(low);
        }
        for i in 0..ins.len {
            if ins.read & (1 << i) != 0 {
                let (guest, host) = ins.list[i];
                self.hot.gs(true, op::MOV, host, self.l.reg(guest));
            }
        }
        self.note_fault_site(insn);
        let encoded = self.encoder.encode(copy, 0).is_ok();
        let mut code = self.encoder.take_buffer();
        if encoded {
            self.hot.bytes(&code);
        }
        code.clear();
        self.encoder.set_buffer(code);
        if let Some(low) = swapped {
            self.hot.swap_bytes(low);
        }
        if !encoded {
            return self.interp(insn);
        }
        for i in 0..ins.len {
            if ins.written & (1 << i) != 0 {
                let (guest, host) = ins.list[i];
                self.hot.gs(true, op::MOV_STORE, host, self.l.reg(guest));
            }
        }
    }

    /// Replaces register operands by their homes or stand-ins.
    fn rename(&mut self, insn: &Instruction, copy: &mut Instruction, scratch: &[u8]) -> StandIns {
        let mut ins = StandIns::default();
        let access = self.access.of(insn);
        let zero = is_zero(insn);
        for i in 0..insn.op_count() {
            let Some(place) = register_home(insn, i) else {
                continue;
            };
            let r = insn.op_register(i);
            let host = match place {
                Home::Host(h) => h,
                Home::Slot(guest) => {
                    let k = ins.get(guest).unwrap_or_else(|| {
                        ins.list[ins.len] = (guest, scratch[ins.len % scratch.len()]);
                        ins.len += 1;
                        ins.len - 1
                    });
                    // A write of part of a register keeps the rest.
                    let partial = r.size() < 4;
                    ins.read |= u8::from(access.reads(i) && !zero || partial) << k;
                    ins.written |= u8::from(access.writes(i)) << k;
                    ins.list[k].1
                }
            };
            let new = named(host, r.size());
            if new != r {
                copy.set_op_register(i, new);
            }
        }
        ins
    }

    /// LEA: an address computation without segment or access.
    pub(super) fn lea(&mut self, step: &Step) {
        let insn = &step.insn;
        let dst = insn.op0_register();
        let (base, index) = (insn.memory_base(), insn.memory_index());
        let host = match home(dst.full_register().number()) {
            Home::Host(h) => h,
            Home::Slot(_) => T2,
        };
        let any = if base != Register::None { base } else { index };
        if insn.is_ip_rel_memory_operand() {
            self.rip_relative(host, dst.size() == 8, insn);
        } else if any == Register::None {
            let value = insn.memory_displacement64();
            let narrow = value & 0xffff_ffff;
            self.hot
                .mov_imm(host, if dst.size() == 8 { value } else { narrow });
        } else {
            // The narrower of operand and address size decides the result.
            let w = dst.size() == 8 && any.size() == 8;
            let disp = insn.memory_displacement64() as i32;
            let scale = insn.memory_index_scale().trailing_zeros() as u8;
            if base == Register::None {
                let i = self.fetch(index, T1);
                self.hot.lea_scaled(w, host, i, scale, disp);
            } else {
                let b = self.fetch(base, T0);
                let i = (index != Register::None).then(|| (self.fetch(index, T1), scale));
                self.hot.mem(w, op::LEA, host, b, i, disp);
            }
        }
        if let Home::Slot(n) = home(dst.full_register().number()) {
            self.hot.gs(true, op::MOV_STORE, host, self.l.reg(n));
        }
    }
}

/// Distinct register operands that live in memory.
pub(super) fn count_slots(insn: &Instruction) -> usize {
    let mut seen = 0u32;
    for i in 0..insn.op_count() {
        if let Some(Home::Slot(n)) = register_home(insn, i) {
            seen |= 1 << n;
        }
    }
    seen.count_ones() as usize
}

/// The result is 0 whatever the register holds.
fn is_zero(insn: &Instruction) -> bool {
    matches!(insn.mnemonic(), Mnemonic::Xor | Mnemonic::Sub)
        && insn.op1_kind() == OpKind::Register
        && insn.op0_kind() == OpKind::Register
        && insn.op0_register() == insn.op1_register()
}

/// The operands have 32 or 64 bits.
fn word(insn: &Instruction) -> bool {
    insn.memory_size().size() >= 4
}

/// Home of register operand `i` if it is a general register that can be
/// renamed.
fn register_home(insn: &Instruction, i: u32) -> Option<Home> {
    if insn.op_kind(i) != OpKind::Register {
        return None;
    }
    let r = insn.op_register(i);
    (r.is_gpr() && !is_high_byte(r)).then(|| home(r.full_register().number()))
}

/// Has `copy` name the low byte where `insn` names the high one, if they are to
/// change places meanwhile; the register.
fn swapped_byte(insn: &Instruction, copy: &mut Instruction) -> Option<u8> {
    if !swaps_bytes(insn) {
        return None;
    }
    let high = |i: &u32| is_high_byte(insn.op_register(*i));
    let operand = (0..insn.op_count()).find(high)?;
    let low = insn.op_register(operand).full_register().number() as u8;
    copy.set_op_register(operand, named(low, 1));
    Some(low)
}

fn needs_renaming(insn: &Instruction) -> bool {
    (0..insn.op_count()).any(|i| match register_home(insn, i) {
        Some(Home::Slot(_)) => true,
        Some(Home::Host(h)) => usize::from(h) != insn.op_register(i).full_register().number(),
        None => false,
    })
}
