//! What a check does that misses: the part of it that blocks share.
//!
//! A block's cold code only calls this part and goes on where a hit would. How the
//! access looks is a [`Miss`], of which there are few; each one's code is emitted
//! behind the first block that needs it. It looks at the page's other place in the
//! TLB before it asks the engine.

use super::Emitter;
use super::memory::{
    TlbField, add_to_t0, entry_address, find_entry, index_mask, indexed_field, info, stack_entry,
    tlb_field,
};
use crate::asm::{Asm, cc, op};
use crate::cache::Map;
use crate::layout::{Layout, WIDEST};
use crate::regs::{RSP, T0, T1, T2};

/// Bytes of the jump behind the call, to where a hit goes on.
const JUMP_BACK: usize = 5;

/// How an access looks whose check misses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Miss {
    /// The slow path's argument, see [`info`].
    pub info: u32,
    /// The stack's entry was looked at.
    pub stack: bool,
    /// Bytes of its window below it.
    pub before: u32,
    /// Bytes of its window; 0 if it is checked alone.
    pub span: u32,
}

/// Where the code is.
#[derive(Default)]
pub(super) struct Misses {
    /// Arena offsets.
    known: Map<Miss, usize>,
    /// Calls in the block's cold stream of what is not there yet.
    wanted: Vec<(usize, Miss)>,
}

impl Misses {
    /// The arena is empty again.
    pub fn clear(&mut self) {
        self.known.clear();
    }
}

impl Emitter<'_> {
    /// Calls the code for `miss`: T0 and T1 are what the check left. Then it goes
    /// on at hot offset `hit` with the operand at `[T1 + T0]`, or with T1 the host
    /// address of its window. A window in two pages goes on behind the jump there.
    /// The flags are in the slot. The result is where in the cold stream the call
    /// returns to.
    pub(super) fn call_miss(&mut self, miss: Miss, hit: usize) -> usize {
        let call = self.cold.call();
        match self.misses.known.get(&miss) {
            Some(&at) => self.cold_to_stub(call, at),
            None => self.misses.wanted.push((call, miss)),
        }
        let returns = self.cold.len();
        window_address(&mut self.cold, miss);
        let back = self.cold.jmp();
        self.cold_to_hot(back, hit);
        returns
    }

    /// Emits what the block calls and is not there yet.
    pub(super) fn emit_misses(&mut self) {
        while let Some((call, miss)) = self.misses.wanted.pop() {
            let end = self.to.cold + self.cold.len();
            let at = *self.misses.known.entry(miss).or_insert(end);
            if at == end {
                let slow = emit_miss(&mut self.cold, self.l, miss);
                self.cold_to_stub(slow, self.stubs.slow);
            }
            self.cold_to_stub(call, at);
        }
    }
}

/// T1 = host address of the window, if there is one, of the access at `[T1 + T0]`.
fn window_address(a: &mut Asm, miss: Miss) {
    if miss.span > 0 {
        let before = -miss.before.cast_signed();
        a.mem(true, op::LEA, T1, T1, Some((T0, 0)), before);
    }
}

/// Emits the code; where the displacement of its jump to the slow path is.
fn emit_miss(a: &mut Asm, l: &Layout, miss: Miss) -> usize {
    let Miss {
        info,
        stack,
        before,
        span,
    } = miss;
    let tag = TlbField::tag(info & info::WRITE != 0);
    // T0 = the address again, of the window if there is one.
    if stack {
        let at = 8 + stack_entry(l, bank(info), tag);
        a.mem(true, op::XOR, T0, RSP, None, at);
    } else {
        indexed_field(a, l, (bank(info), 8), (op::XOR, T0), tag);
    }
    if span > 0 {
        a.rr(false, op::MOV, T2, T0);
        a.and_imm(T2, 0xfff);
        a.cmp_imm(T2, 4096 - span);
        let inside = a.jcc(cc::BE);
        step_over(a, miss);
        a.buf.push(0xc3);
        a.land(inside);
        add_to_t0(a, before.cast_signed());
    }
    if stack {
        let elsewhere = look_at_home(a, l, info, tag);
        a.land(elsewhere);
    }
    let (split, elsewhere) = look_elsewhere(a, l, info, tag);
    a.land(elsewhere);
    let size = info & info::SIZE;
    if span == 0 && (2..=WIDEST as u32).contains(&size) && info & ALONE == 0 {
        look_in_two(a, l, info, tag);
    }
    if let Some(split) = split {
        a.land(split);
    }
    a.mov_imm(T2, info.into());
    a.jmp()
}

/// Moves the return address behind the jump there.
fn step_over(a: &mut Asm, miss: Miss) {
    let mut skipped = Asm::default();
    window_address(&mut skipped, miss);
    let skip = skipped.len() + JUMP_BACK;
    a.bytes(&[0x48, 0x83, 0x04, 0x24, skip as u8]); // add qword [rsp], imm8
}

/// Returns with the operand at `[T1 + T0]` if its page, at T0, is in its first place,
/// and makes that the stack's entry; the displacement of the jump taken otherwise.
/// Where nobody may write, the tag for it is one that the entry's place cannot match;
/// in front of the array it would match another page. Such entries stay where they are.
fn look_at_home(a: &mut Asm, l: &Layout, info: u32, tag: TlbField) -> usize {
    let bank = bank(info);
    a.rr(true, op::MOV, T1, T0);
    a.shr_imm(T1, 12 - l.entry_shift);
    a.and_imm(T1, index_mask(l));
    a.rr(true, op::MOV, T2, T0);
    indexed_field(a, l, (bank, 8), (op::XOR, T2), tag);
    a.cmp_imm(T2, 4096 - (info & info::SIZE));
    let elsewhere = a.jcc(cc::A);
    indexed_field(a, l, (bank, 8), (op::MOV, T0), TlbField::ReadTag);
    indexed_field(a, l, (bank, 8), (op::CMP, T0), TlbField::WriteTag);
    let read_only = a.jcc(cc::NE);
    for field in [TlbField::ReadTag, TlbField::WriteTag, TlbField::Host] {
        indexed_field(a, l, (bank, 8), (op::MOV, T0), field);
        a.mem(
            true,
            op::MOV_STORE,
            T0,
            RSP,
            None,
            8 + stack_entry(l, bank, field),
        );
    }
    a.land(read_only);
    indexed_field(a, l, (bank, 8), (op::MOV, T1), TlbField::Host);
    a.rr(true, op::MOV, T0, T2);
    a.buf.push(0xc3);
    elsewhere
}

/// Returns with the operand at `[T1 + T0]` if its page, at T0, is in its other
/// place; the displacements of the jumps taken otherwise, the first one for an
/// atomic operand that is not aligned.
fn look_elsewhere(a: &mut Asm, l: &Layout, info: u32, tag: TlbField) -> (Option<usize>, usize) {
    let size = info & info::SIZE;
    let split = (info & info::LOCKED != 0 && size > 1).then(|| {
        a.test_imm8(T0, size as u8 - 1);
        a.jcc(cc::NE)
    });
    a.rr(true, op::MOV, T1, T0);
    a.shr_imm(T1, 12 - l.entry_shift);
    a.rr(true, op::MOV, T2, T0);
    a.shr_imm(T2, l.other_shift - l.entry_shift);
    a.rr(true, op::XOR, T1, T2);
    entry_address(a, l, bank(info), T1);
    a.rr(true, op::MOV, T2, T0);
    tlb_field(a, l, (op::XOR, T2), tag);
    a.cmp_imm(T2, 4096 - size);
    let elsewhere = a.jcc(cc::A);
    a.gs_dec(l.until_moved());
    let move_it = a.jcc(cc::E);
    a.rr(true, op::MOV, T0, T2);
    tlb_field(a, l, (op::MOV, T1), TlbField::Host);
    a.buf.push(0xc3);
    a.land(move_it);
    (split, elsewhere)
}

/// Operands in two pages of which the engine must know.
const ALONE: u32 = info::LOCKED | info::NOTED | info::ALIGNED;

/// Returns with the operand at `[T1 + T0]` if it is in two pages that are in the
/// TLB, at linear address T0, which is kept otherwise: in place if the pages are
/// neighbours in host memory; else reads get a copy.
fn look_in_two(a: &mut Asm, l: &Layout, info: u32, tag: TlbField) {
    let last = (info & info::SIZE) as i32 - 1;
    a.push(T0);
    let no_first = host_byte(a, l, info, tag);
    a.push(T2);
    add_to_t0(a, last);
    let no_second = host_byte(a, l, info, tag);
    a.pop(T1);
    a.mem(true, op::LEA, T0, T1, None, last);
    a.rr(true, op::CMP, T0, T2);
    let apart = a.jcc(cc::NE);
    a.pop(T0);
    a.mov_imm(T0, 0);
    a.buf.push(0xc3);
    a.land(no_second);
    a.pop(T0);
    a.land(no_first);
    if info & info::WRITE != 0 {
        a.land(apart);
        return a.pop(T0);
    }
    a.pop(T0);
    let slow = a.jmp();
    a.land(apart);
    gather(a, l, last);
    a.land(slow);
}

/// T2 = host address of the byte at T0; the displacement of the jump taken if its
/// page is not in the TLB. Clobbers T1.
fn host_byte(a: &mut Asm, l: &Layout, info: u32, tag: TlbField) -> usize {
    find_entry(a, l, bank(info));
    a.rr(true, op::MOV, T2, T0);
    tlb_field(a, l, (op::XOR, T2), tag);
    a.cmp_imm(T2, 4095);
    let miss = a.jcc(cc::A);
    tlb_field(a, l, (op::ADD, T2), TlbField::Host);
    miss
}

/// Returns with a copy of the operand whose first byte is at host address T1 and
/// whose last one, `last` bytes behind it, at T2. Its linear address is on the
/// stack.
fn gather(a: &mut Asm, l: &Layout, last: i32) {
    const RCX: u8 = 1;
    const RSI: u8 = 6;
    const RDI: u8 = 7;
    const REP_MOVSB: &[u8] = &[0xf3, 0xa4];
    // The guest's registers have places in memory that are free meanwhile.
    for r in [RCX, RSI, RDI] {
        a.gs(true, op::MOV_STORE, r, l.reg(r.into()));
    }
    a.pop(RCX);
    a.and_imm(RCX, 0xfff);
    a.not(RCX);
    a.mem(true, op::LEA, RCX, RCX, None, 4097);
    a.rr(true, op::MOV, RSI, T1);
    a.rr(true, op::MOV, RDI, T1);
    a.and_imm(RDI, WIDEST as u32 - 1);
    a.gs(true, op::ADD, RDI, l.this());
    a.mem(true, op::LEA, RDI, RDI, None, l.gathered().cast_signed());
    a.rr(true, op::MOV, T1, RDI);
    a.rr(true, op::MOV, T0, RCX);
    a.bytes(REP_MOVSB);
    a.mem(true, op::LEA, RSI, T2, Some((T0, 0)), -last);
    a.mov_imm(RCX, last as u64 + 1);
    a.rr(true, op::SUB, RCX, T0);
    a.bytes(REP_MOVSB);
    for r in [RCX, RSI, RDI] {
        a.gs(true, op::MOV, r, l.reg(r.into()));
    }
    a.mov_imm(T0, 0);
    a.buf.push(0xc3);
}

/// The bank in the slow path's argument.
fn bank(info: u32) -> usize {
    (info >> info::BANK_SHIFT & 3) as usize
}
