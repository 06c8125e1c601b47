//! Effective addresses and the inline TLB check.

use super::copy::count_slots;
use super::misses::Miss;
use super::{Emitter, Site, linear};
use crate::alignment::must_be_aligned;
use crate::asm::{Asm, cc, op};
use crate::block::{Step, has_memory};
use crate::classify::{Treatment, Vector, vector_class};
use crate::layout::Layout;
use crate::regs::{GUEST_RSP, Home, RSP, T0, T1, home};
use crate::windows::Check;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use x86::flags;

/// Bits of the slow path's info argument.
pub mod info {
    /// The access writes.
    pub const WRITE: u32 = 1 << 8;
    /// Position of the TLB bank, two bits.
    pub const BANK_SHIFT: u32 = 9;
    /// A LOCK whose operand must be aligned: hosts stop, or slow down by
    /// milliseconds, a lock that two cache lines share.
    pub const LOCKED: u32 = 1 << 11;
    /// Only a part of the operand may be accessed, so that one that does not
    /// hit says nothing about faults (SDM vol 2, 2.7.5, opmasks).
    pub const MASKED: u32 = 1 << 12;
    /// The x87 remembers where the operand was.
    pub const NOTED: u32 = 1 << 13;
    /// #GP unless the operand is aligned.
    pub const ALIGNED: u32 = 1 << 14;
    /// The access's size in bytes.
    pub const SIZE: u32 = 0xff;
}

/// Fields of a TLB entry as [`crate::Layout::entry`] orders them.
#[derive(Clone, Copy)]
pub(crate) enum TlbField {
    ReadTag,
    WriteTag,
    Host,
}

impl TlbField {
    pub fn tag(write: bool) -> Self {
        if write { Self::WriteTag } else { Self::ReadTag }
    }
}

/// Leaves flags alone.
pub(super) fn add_to_t0(a: &mut Asm, by: i32) {
    if by != 0 {
        a.mem(true, op::LEA, T0, T0, None, by);
    }
}

/// `entry`, an index in a TLB array's bytes with other bits around it, becomes the
/// address of the entry in front, see [`tlb_field`].
pub(super) fn entry_address(a: &mut Asm, l: &Layout, bank: usize, entry: u8) {
    a.and_imm(entry, index_mask(l));
    a.gs(true, op::ADD, entry, array(l, bank));
}

/// T1 = address of the entry in front of the TLB entry for the linear address in T0:
/// each array has one more in front.
pub(crate) fn find_entry(a: &mut Asm, l: &Layout, bank: usize) {
    a.rr(true, op::MOV, T1, T0);
    a.shr_imm(T1, 12 - l.entry_shift);
    entry_address(a, l, bank, T1);
}

/// Where the address of a bank's TLB array is, relative to GS.
fn array(l: &Layout, bank: usize) -> u32 {
    l.tlb + 8 * bank as u32
}

/// Bits of an index in a TLB array's bytes.
pub(super) fn index_mask(l: &Layout) -> u32 {
    (l.entries - 1) << l.entry_shift
}

/// `op reg, field` of the TLB entry behind T1, see [`find_entry`].
pub(crate) fn tlb_field(a: &mut Asm, l: &Layout, (op, reg): (u8, u8), field: TlbField) {
    let at = l.entry[field as usize].cast_signed() + (1 << l.entry_shift);
    a.mem(true, op, reg, T1, None, at);
}

/// `op reg, field` of the entry of a bank's array whose index in bytes is in T1, see
/// [`Emitter::tlb_index`], with `pushed` bytes on the stack.
pub(super) fn indexed_field(
    a: &mut Asm,
    l: &Layout,
    (bank, pushed): (usize, i32),
    (op, reg): (u8, u8),
    field: TlbField,
) {
    let at = stack_entry(l, bank, field) + (1 << l.entry_shift);
    a.mem(true, op, reg, RSP, Some((T1, 0)), pushed + at);
}

/// Where a bank's entry for the stack's page is, from generated code's stack pointer.
pub(super) fn stack_entry(l: &Layout, bank: usize, field: TlbField) -> i32 {
    let at = bank as u32 * l.array_size + l.entry[field as usize];
    crate::stubs::FRAME + at.cast_signed()
}

/// Where a checked operand is in host memory: `[T1 + disp]` or `[T1 + T0]`.
#[derive(Clone, Copy)]
pub(super) struct Place {
    indexed: bool,
    disp: i32,
}

impl Place {
    pub const INDEXED: Self = Self {
        indexed: true,
        disp: 0,
    };

    fn behind(offset: u16) -> Self {
        Self {
            indexed: false,
            disp: offset.into(),
        }
    }
    /// The index for [`Asm::mem`].
    pub fn index(self) -> Option<(u8, u8)> {
        self.indexed.then_some((T0, 0))
    }
    pub fn disp(self) -> i32 {
        self.disp
    }
}

/// What an access checks for others as well, see [`Check::First`].
#[derive(Clone, Copy)]
struct Window {
    slot: u8,
    before: i32,
    span: u32,
    again: bool,
}

/// Whether T1 is behind the step what its access made it, or was before.
pub(crate) fn keeps_window(step: &Step) -> bool {
    let (insn, in_window) = (&step.insn, step.check != Check::Alone);
    match step.treatment {
        Treatment::Nothing | Treatment::Jcc => true,
        Treatment::Copy if has_memory(insn) => in_window,
        Treatment::Copy => count_slots(insn) < 2,
        Treatment::Push => in_window && insn.op0_kind() != OpKind::Memory,
        Treatment::Pop | Treatment::Leave => in_window,
        Treatment::Lea => {
            let index = insn.memory_index();
            index == Register::None || !in_memory(index)
        }
        _ => false,
    }
}

/// Where the operand of 64-bit code is that is [`Operand::stack`], from RSP.
fn stack_offset(step: &Step) -> Option<i32> {
    match step.treatment {
        Treatment::Copy => i32::try_from(step.insn.memory_displacement64().cast_signed()).ok(),
        Treatment::Pop | Treatment::Ret => Some(0),
        _ => Some(-8),
    }
}

/// The operand's address is the stack pointer and a constant.
fn on_stack(insn: &Instruction) -> bool {
    insn.memory_base() == Register::RSP
        && insn.memory_index() == Register::None
        && !matches!(insn.memory_segment(), Register::FS | Register::GS)
}

/// The guest register has no host register.
fn in_memory(r: Register) -> bool {
    matches!(home(r.full_register().number()), Home::Slot(_))
}

/// Where the host address of a window is, from the host's RSP.
fn slot_offset(slot: u8) -> i32 {
    8 + 8 * i32::from(slot)
}

/// A checked memory operand.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    pub size: u32,
    pub write: bool,
    pub locked: bool,
    pub masked: bool,
    pub noted: bool,
    pub aligned: bool,
    /// Relative to the guest's stack pointer.
    pub stack: bool,
}

impl Operand {
    pub fn read(size: i32) -> Self {
        Self {
            size: size.cast_unsigned(),
            write: false,
            locked: false,
            masked: false,
            noted: false,
            aligned: false,
            stack: false,
        }
    }
    pub fn write(size: i32) -> Self {
        Self {
            write: true,
            ..Self::read(size)
        }
    }
    /// The same as `insn` accesses it: XCHG is atomic without a prefix.
    pub fn of(self, insn: &Instruction) -> Self {
        Self {
            locked: insn.has_lock_prefix() || insn.mnemonic() == Mnemonic::Xchg,
            masked: insn.op_mask() != Register::None,
            noted: vector_class(insn) == Vector::X87,
            aligned: must_be_aligned(insn, self.size),
            stack: on_stack(insn) && !insn.has_lock_prefix(),
            ..self
        }
    }

    /// The slow path's info argument.
    fn info(self, bank: usize) -> u32 {
        let bit = |set: bool, bit: u32| if set { bit } else { 0 };
        self.size
            | bit(self.write, info::WRITE)
            | bit(self.locked, info::LOCKED)
            | bit(self.masked, info::MASKED)
            | bit(self.noted, info::NOTED)
            | bit(self.aligned, info::ALIGNED)
            | (bank as u32) << info::BANK_SHIFT
    }
}

impl Emitter<'_> {
    /// Host register that holds `r`; loaded into `scratch` if it lives in
    /// memory.
    pub(super) fn fetch(&mut self, r: Register, scratch: u8) -> u8 {
        match home(r.full_register().number()) {
            Home::Host(h) => h,
            Home::Slot(n) => {
                self.hot.gs(true, op::MOV, scratch, self.l.reg(n));
                scratch
            }
        }
    }

    /// T0 = linear address of the memory operand. Leaves flags alone.
    pub(super) fn linear_address(&mut self, insn: &Instruction) {
        self.linear_address_and(insn, 0);
    }

    /// The same and `by`, which is 0 unless the address is as long as the code's.
    pub(super) fn linear_address_and(&mut self, insn: &Instruction, by: i32) {
        let base = match insn.memory_segment() {
            Register::FS => self.l.fs_base,
            Register::GS => self.l.gs_base,
            _ => return self.effective_address(insn, by),
        };
        if self.offset_in_segment(insn, base, by) {
            return;
        }
        self.effective_address(insn, by);
        self.hot.gs(true, op::MOV, T1, base);
        self.hot
            .mem(self.to.wide, op::LEA, T0, T0, Some((T1, 0)), 0);
    }

    /// T0 = the address in the segment whose base is in field `base` of an operand
    /// with a displacement and perhaps a base register; false if it is none.
    fn offset_in_segment(&mut self, insn: &Instruction, base: u32, by: i32) -> bool {
        let (wide, register) = (self.to.wide, insn.memory_base());
        let disp = insn.memory_displacement64() as i64;
        let near = i32::try_from(disp).ok().and_then(|d| d.checked_add(by));
        let plain = insn.memory_index() == Register::None && register.size() != 4;
        let (Some(near), true, true) = (near, plain && wide, !insn.is_ip_rel_memory_operand())
        else {
            return false;
        };
        self.hot.gs(true, op::MOV, T1, base);
        match register {
            Register::None => self.hot.mem(true, op::LEA, T0, T1, None, near),
            _ => {
                let b = self.fetch(register, T0);
                self.hot.mem(true, op::LEA, T0, T1, Some((b, 0)), near);
            }
        }
        true
    }

    fn effective_address(&mut self, insn: &Instruction, by: i32) {
        if insn.is_ip_rel_memory_operand() {
            self.rip_relative(T0, self.to.wide, insn);
            return add_to_t0(&mut self.hot, by);
        }
        let (base, index) = (insn.memory_base(), insn.memory_index());
        let disp = insn.memory_displacement64();
        let near = (disp as i32).checked_add(by);
        let (short, rest) = near.map_or((disp as i32, by), |near| (near, 0));
        let any = if base != Register::None { base } else { index };
        let w = any.size() == 8;
        let scale = insn.memory_index_scale().trailing_zeros() as u8;
        match (base != Register::None, index != Register::None) {
            (false, false) if self.to.wide => self.hot.mov_imm(T0, disp),
            (false, false) => self.hot.mov_imm(T0, disp & 0xffff_ffff),
            (true, false) => {
                let b = self.fetch(base, T0);
                if b != T0 || !w || short != 0 {
                    self.hot.copy_and(w, T0, b, short);
                }
            }
            (false, true) => {
                let i = self.fetch(index, T1);
                self.hot.lea_scaled(w, T0, i, scale, short);
            }
            (true, true) => {
                let b = self.fetch(base, T0);
                let i = self.fetch(index, T1);
                self.hot.mem(w, op::LEA, T0, b, Some((i, scale)), short);
            }
        }
        add_to_t0(&mut self.hot, rest);
    }

    /// `reg` = the address of a RIP-relative operand; 32 bits of it unless
    /// `wide`.
    pub(super) fn rip_relative(&mut self, reg: u8, wide: bool, insn: &Instruction) {
        let wide = wide && insn.memory_base() == Register::RIP;
        let (mapping, value) = (self.to.mapping, insn.ip_rel_memory_address());
        linear(&mut self.hot, self.l, mapping, reg, wide, value);
    }

    /// Makes the step's operand [`Emitter::place`]; `address` puts the sum of its
    /// linear address and of what it is given into T0.
    pub(super) fn access(
        &mut self,
        step: &Step,
        operand: Operand,
        address: impl Fn(&mut Self, i32),
    ) {
        if let Check::Covered { slot, offset } = step.check {
            if self.held != Some(slot) {
                debug_assert!(self.stored & 1 << slot != 0);
                self.hot
                    .mem(true, op::MOV, T1, RSP, None, slot_offset(slot));
                self.held = Some(slot);
            }
            self.place = Place::behind(offset);
            return;
        }
        let operand = Operand {
            stack: operand.stack || step.treatment.is_on_stack(),
            ..operand
        };
        match step.check {
            Check::First {
                slot,
                before,
                span,
                again,
            } => {
                let window = Window {
                    slot,
                    before: before.into(),
                    span: span.into(),
                    again,
                };
                self.check_window(step, operand, window, address);
            }
            _ => {
                address(self, 0);
                self.check(step.insn.ip(), operand);
            }
        }
    }

    /// Checks an access with all of its window, whose host address becomes T1.
    fn check_window(
        &mut self,
        step: &Step,
        operand: Operand,
        window: Window,
        address: impl Fn(&mut Self, i32),
    ) {
        let Window {
            slot,
            before,
            span,
            again,
        } = window;
        let field = TlbField::tag(operand.write);
        let from_stack = match operand.stack {
            true => stack_offset(step).and_then(|offset| offset.checked_sub(before)),
            false => None,
        };
        let operand = Operand {
            stack: from_stack.is_some(),
            ..operand
        };
        if from_stack.is_none() {
            address(self, -before);
        }
        self.save_flags(flags::ARITH);
        let miss = match from_stack {
            Some(offset) => self.window_on_stack(field, offset, span),
            None => self.window_at_t0(field, span),
        };
        let hit = self.hot.len();
        if again {
            self.hot
                .mem(true, op::MOV_STORE, T1, RSP, None, slot_offset(slot));
            self.stored |= 1 << slot;
        }
        self.place = Place::behind(before as u16);
        self.held = Some(slot);
        self.hot_to_cold(miss);
        if operand.stack {
            self.cold.rr(true, op::MOV, T0, T1);
        }
        let miss = Miss {
            before: before.cast_unsigned(),
            span,
            ..self.miss(operand)
        };
        let rip = step.insn.ip();
        self.slow_path(rip, miss, hit);
        // Where the window lies in two pages: the translation of this
        // instruction and what follows that has no windows.
        self.narrow_link(rip);
    }

    /// T1 = host address of the window `offset` bytes from guest RSP; where the
    /// displacement of the jump taken on a miss is, with what T0 is otherwise in T1.
    fn window_on_stack(&mut self, field: TlbField, offset: i32, span: u32) -> usize {
        self.hot.copy_and(true, T1, GUEST_RSP, offset);
        self.look_up(true);
        self.tlb_field(op::XOR, T1, field);
        self.hot.cmp_imm(T1, 4096 - span);
        let miss = self.hot.jcc(cc::A);
        self.tlb_field(op::ADD, T1, TlbField::Host);
        miss
    }

    /// T1 = host address of the window at T0; where the displacement of the jump taken
    /// on a miss is.
    fn window_at_t0(&mut self, field: TlbField, span: u32) -> usize {
        self.look_up(false);
        self.tlb_field(op::XOR, T0, field);
        self.hot.cmp_imm(T0, 4096 - span);
        let miss = self.hot.jcc(cc::A);
        self.tlb_field(op::MOV, T1, TlbField::Host);
        self.hot.rr(true, op::ADD, T1, T0);
        miss
    }

    /// A miss of an access that is checked alone.
    fn miss(&self, operand: Operand) -> Miss {
        Miss {
            info: operand.info(self.to.bank),
            stack: operand.stack,
            before: 0,
            span: 0,
        }
    }

    /// Checks the access at T0; afterwards `[T1 + T0]` is the operand in host
    /// memory. The flags are kept: instruction `rip` may fault.
    pub(super) fn check(&mut self, rip: u64, operand: Operand) {
        self.place = Place::INDEXED;
        let Operand {
            size,
            write,
            locked,
            stack,
            ..
        } = operand;
        self.save_flags(flags::ARITH);
        let field = TlbField::tag(write);
        self.look_up(stack);
        self.tlb_field(op::XOR, T0, field);
        if locked && size > 1 {
            self.hot.test_imm8(T0, size as u8 - 1);
            let unaligned = self.hot.jcc(cc::NE);
            self.hot_to_cold(unaligned);
        }
        self.hot.cmp_imm(T0, 4096 - size);
        let miss = self.hot.jcc(cc::A);
        self.hot_to_cold(miss);
        self.tlb_field(op::MOV, T1, TlbField::Host);
        self.slow_path(rip, self.miss(operand), self.hot.len());
    }

    /// Prefetches what the operand's TLB entry says, be it that of its page or not: that
    /// neither faults nor is seen by the guest.
    pub(super) fn prefetch(&mut self, insn: &Instruction) {
        const PREFETCHT0_AT_T0: &[u8] = &[0x41, 0x0f, 0x18, 0x09];
        self.linear_address(insn);
        self.save_flags(flags::ARITH);
        self.tlb_index();
        self.hot.and_imm(T0, 0xfff);
        self.tlb_field(op::ADD, T0, TlbField::Host);
        self.hot.bytes(PREFETCHT0_AT_T0);
    }

    /// T1 = the index, in bytes, of the TLB entry for the linear address in T0: an
    /// addition less to wait for than its address.
    pub(super) fn tlb_index(&mut self) {
        self.stack = false;
        let l = self.l;
        let shift = 12 - l.entry_shift;
        if self.to.bmi2 {
            self.hot.rorx(T1, T0, shift);
        } else {
            self.hot.rr(true, op::MOV, T1, T0);
            self.hot.shr_imm(T1, shift);
        }
        self.hot.and_imm(T1, index_mask(l));
    }

    /// The next fields asked for are those of the entry for T0, or of the stack's.
    fn look_up(&mut self, stack: bool) {
        self.stack = stack;
        if !stack {
            self.tlb_index();
        }
    }

    /// `op reg, field` of the TLB entry with index T1, or of the stack's.
    pub(super) fn tlb_field(&mut self, op: u8, reg: u8, field: TlbField) {
        if self.stack {
            let at = stack_entry(self.l, self.to.bank, field);
            return self.hot.mem(true, op, reg, RSP, None, at);
        }
        indexed_field(&mut self.hot, self.l, (self.to.bank, 0), (op, reg), field);
    }

    /// The cold half of a check that goes on at hot offset `hit`.
    fn slow_path(&mut self, rip: u64, miss: Miss, hit: usize) {
        self.settle_flags_cold();
        let returns = self.call_miss(miss, hit);
        self.out.accesses.push(Site {
            at: (self.to.cold + returns) as u32,
            flags_in_slot: 1,
            memory: 1,
            rip,
        });
    }
}
