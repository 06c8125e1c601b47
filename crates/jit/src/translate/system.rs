//! System instructions that need no help: flags in memory, selectors, segment
//! bases, control registers, the TSC, and bit strings.

use super::Emitter;
use super::flags::Kept;
use super::memory::Operand;
use crate::asm::{cc, op};
use crate::block::Step;
use crate::layout::Realm;
use crate::regs::{Home, T0, T1, T2, home};
use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};
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

    /// CLD, STD: the host's DF is always clear.
    pub(super) fn direction(&mut self, step: &Step) {
        self.save_flags(step.live_in);
        match step.insn.mnemonic() {
            Mnemonic::Cld => self.hot.gs_and_imm(self.l.rflags, !flags::DF as u32),
            _ => self.hot.gs_or_imm(self.l.rflags, flags::DF as u32),
        }
    }

    /// STAC, CLAC that change AC. What follows is another mode's code: other
    /// translations, another jump cache.
    pub(super) fn switch_ac(&mut self, step: &Step) {
        const AC: i32 = flags::AC as i32;
        let by = match step.insn.mnemonic() {
            Mnemonic::Stac => AC,
            _ => -AC,
        };
        self.flags_for_link();
        let (rflags, next) = (self.l.rflags, step.insn.next_ip());
        self.hot.gs(true, op::MOV, T0, rflags);
        self.hot.mem(true, op::LEA, T0, T0, None, by);
        self.hot.gs(true, op::MOV_STORE, T0, rflags);
        self.jump_to(next);
    }

    /// SYSCALL, SYSRET, IRET: the work is done by a stub.
    pub(super) fn gate(&mut self, step: &Step) {
        let insn = &step.insn;
        self.flags_for_jump();
        let id = self.number(insn);
        self.hot.gs_store_imm(self.l.exit_site(), id);
        let gates = self.stubs.gates;
        let stub = match insn.mnemonic() {
            Mnemonic::Syscall => {
                self.linear(T0, insn.next_ip());
                gates.syscall
            }
            Mnemonic::Sysretq => gates.sysret,
            _ => gates.iret[usize::from(self.to.bank == Realm::KernelAc as usize)],
        };
        let at = self.hot.jmp();
        self.hot_to_stub(at, stub);
    }

    /// SWAPGS.
    pub(super) fn swap_gs(&mut self) {
        self.swap_fields(self.l.gs_base, self.l.kernel_gs_base);
    }

    fn swap_fields(&mut self, one: u32, other: u32) {
        self.hot.gs(true, op::MOV, T0, one);
        self.hot.gs(true, op::MOV, T1, other);
        self.hot.gs(true, op::MOV_STORE, T1, one);
        self.hot.gs(true, op::MOV_STORE, T0, other);
    }

    /// Loads a 32-bit or 64-bit register from a field.
    fn load_field(&mut self, to: Register, field: u32) {
        let wide = to.size() == 8;
        match home(to.full_register().number()) {
            Home::Host(h) => self.hot.gs(wide, op::MOV, h, field),
            Home::Slot(n) => {
                self.hot.gs(wide, op::MOV, T2, field);
                self.hot.gs(true, op::MOV_STORE, T2, self.l.reg(n));
            }
        }
    }

    fn base_field(&self, insn: &Instruction) -> u32 {
        match insn.mnemonic() {
            Mnemonic::Rdfsbase | Mnemonic::Wrfsbase => self.l.fs_base,
            _ => self.l.gs_base,
        }
    }

    /// RDFSBASE, RDGSBASE.
    pub(super) fn read_base(&mut self, insn: &Instruction) {
        self.load_field(insn.op0_register(), self.base_field(insn));
    }

    /// WRFSBASE, WRGSBASE: the interpreter refuses a base that is not
    /// canonical.
    pub(super) fn write_base(&mut self, step: &Step) {
        let from = step.insn.op0_register();
        let wide = from.size() == 8;
        let r = self.fetch(from, T0);
        self.hot.rr(wide, op::MOV, T0, r);
        if wide {
            self.save_flags(step.live_in);
            self.hot.rr(true, op::MOV, T1, T0);
            self.hot.sar_imm(T1, 47); // 0 or -1 if canonical
            self.hot.mem(true, op::LEA, T1, T1, None, 1);
            self.hot.cmp_imm(T1, 1);
            let refused = self.hot.jcc(cc::A);
            self.interp_from(&step.insn, &[refused]);
        }
        let field = self.base_field(&step.insn);
        self.hot.gs(true, op::MOV_STORE, T0, field);
    }

    /// MOV r64, CRn.
    pub(super) fn read_control(&mut self, insn: &Instruction) {
        let which = match insn.op1_register() {
            Register::CR0 => 0,
            Register::CR2 => 1,
            Register::CR3 => 2,
            _ => 3,
        };
        self.load_field(insn.op0_register(), self.l.control[which]);
    }

    /// RDTSC, RDTSCP: the host's, shifted. RDTSCP waits for the instructions
    /// before it (SDM vol 2).
    pub(super) fn read_tsc(&mut self, step: &Step) {
        const RAX: u8 = 0;
        const RCX: u8 = 1;
        const RDX: u8 = 2;
        self.save_flags(step.live_in);
        let aux = step.insn.mnemonic() == Mnemonic::Rdtscp;
        if aux {
            self.hot.bytes(&[0x0f, 0xae, 0xe8]); // lfence
        }
        self.hot.bytes(&[0x0f, 0x31]); // rdtsc
        self.hot.bytes(&[0x48, 0xc1, 0xe2, 32]); // shl rdx, 32
        self.hot.rr(true, op::OR, RAX, RDX);
        self.hot.gs(true, op::ADD, RAX, self.l.tsc_offset());
        self.hot.rr(true, op::MOV, RDX, RAX);
        self.hot.shr_imm(RDX, 32);
        self.hot.rr(false, op::MOV, RAX, RAX);
        if aux {
            self.hot.gs(false, op::MOV, RCX, self.l.tsc_aux);
        }
    }

    /// SERIALIZE: what is stored is seen by others. Code that they changed before
    /// has no translations any more (SDM vol 3, 8.3).
    pub(super) fn serialize(&mut self) {
        self.hot.bytes(&[0x0f, 0xae, 0xf0]); // mfence
    }

    /// MOV r, Sreg and MOV m16, Sreg.
    pub(super) fn read_selector(&mut self, step: &Step) {
        let insn = &step.insn;
        let index = match insn.op1_register() {
            Register::ES => 0,
            Register::CS => 1,
            Register::SS => 2,
            Register::DS => 3,
            Register::FS => 4,
            _ => 5,
        };
        let disp = self.l.selectors + index * self.l.seg_stride;
        const WORD: u8 = 0x66; // operand-size prefix
        if insn.op0_kind() == OpKind::Memory {
            self.linear_address(insn);
            self.check(insn.ip(), Operand::write(2));
            self.hot.gs_movzx16(T2, disp);
            self.hot.buf.push(WORD);
            return self.hot.mem(false, op::MOV_STORE, T2, T1, Some((T0, 0)), 0);
        }
        let narrow = insn.op0_register().size() == 2;
        match (home(insn.op0_register().full_register().number()), narrow) {
            (Home::Host(h), false) => self.hot.gs_movzx16(h, disp),
            (Home::Slot(n), false) => {
                self.hot.gs_movzx16(T2, disp);
                self.hot.gs(true, op::MOV_STORE, T2, self.l.reg(n));
            }
            (Home::Host(h), true) => {
                self.hot.buf.push(WORD);
                self.hot.gs(false, op::MOV, h, disp);
            }
            (Home::Slot(n), true) => {
                self.hot.gs_movzx16(T2, disp);
                self.hot.buf.push(WORD);
                self.hot.gs(false, op::MOV_STORE, T2, self.l.reg(n));
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
        self.check(insn.ip(), operand.of(insn));
        let index = self.fetch(insn.op1_register(), T2);
        self.hot.rr(false, op::MOV, T2, index);
        self.hot.and_imm(T2, (8 << word) - 1);
        if self.flags != Kept::Host {
            self.hot.gs(true, op::MOV_STORE, T2, self.l.temp());
            self.restore_flags(step.needed);
            self.hot.gs(true, op::MOV, T2, self.l.temp());
        }
        self.emit_bit_op(insn);
        self.flags_set();
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
