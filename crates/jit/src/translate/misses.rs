//! What a check does that misses: the part of it that blocks share.
//!
//! A block's cold code only calls this part and goes back to its check. How the
//! access looks is a [`Miss`], of which there are few; each one's code is emitted
//! behind the first block that needs it.

use super::Emitter;
use super::flags::restore_flags_at;
use super::memory::{TlbField, add_to_t0, info, tlb_field};
use crate::asm::{Asm, cc, op};
use crate::cache::Map;
use crate::layout::Layout;
use crate::regs::{T0, T2};

/// Bytes of the jump behind the call, back to the check.
const JUMP_BACK: u8 = 5;

/// How an access looks whose check misses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Miss {
    /// The slow path's argument, see [`info`].
    pub info: u32,
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
    /// Calls the code for `miss`: T0 and T1 are what the check left. Afterwards
    /// T0 is the access's linear address, and what follows jumps back to the
    /// check. A window in two pages comes back behind that jump, with the flags
    /// in place.
    pub(super) fn call_miss(&mut self, miss: Miss) {
        let call = self.cold.call();
        match self.misses.known.get(&miss) {
            Some(&at) => self.cold_to_stub(call, at),
            None => self.misses.wanted.push((call, miss)),
        }
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

/// Emits the code; where the displacement of its jump to the slow path is.
fn emit_miss(a: &mut Asm, l: &Layout, miss: Miss) -> usize {
    let Miss { info, before, span } = miss;
    let bank = (info >> info::BANK_SHIFT & 3) as usize;
    // T0 = the address again, of the window if there is one.
    let tag = TlbField::tag(info & info::WRITE != 0);
    tlb_field(a, l, bank, (op::XOR, T0), tag);
    if span > 0 {
        a.rr(false, op::MOV, T2, T0);
        a.and_imm(T2, 0xfff);
        a.cmp_imm(T2, 4096 - span);
        let inside = a.jcc(cc::BE);
        a.bytes(&[0x48, 0x83, 0x04, 0x24, JUMP_BACK]); // add qword [rsp], imm8
        restore_flags_at(a, 8);
        a.buf.push(0xc3);
        a.land(inside);
        add_to_t0(a, before.cast_signed());
    }
    a.mov_imm(T2, info.into());
    a.jmp()
}
