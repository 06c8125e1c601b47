//! Where returns are expected to lead: for each realm a ring of the calls made
//! last, with the guest's return address and the code that is there.
//!
//! A return that finds its address on top goes straight on; any other goes
//! through the jump cache and leaves the ring as it is, so that it fits again
//! when the guest comes back from another stack. What the rings hold is as good as
//! what jump caches hold, and is forgotten whenever these forget anything.

use crate::asm::{Asm, cc, op};
use crate::layout::Layout;
use crate::regs::{T0, T1, T2};
use std::mem::offset_of;

/// Calls remembered in each realm: a byte counts their bytes.
const CALLS: usize = 16;
/// Bytes of one.
const CALL: i32 = size_of::<Call>() as i32;

/// A call.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Call {
    /// The guest's return address, linear.
    rip: u64,
    /// The host's code there, or what looks for it.
    code: u64,
}

/// The calls made last in one realm.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Returns {
    calls: [Call; CALLS],
    /// What is there where nothing is known.
    nothing: Call,
    /// Offset of the last one.
    top: u32,
}

impl Returns {
    /// A ring that knows nothing; at `probe` is what looks for code.
    pub(crate) const fn new(probe: u64) -> Self {
        let nothing = Call {
            rip: 0,
            code: probe,
        };
        Self {
            calls: [nothing; CALLS],
            nothing,
            top: 0,
        }
    }

    /// Forgets all calls.
    pub fn forget(&mut self) {
        self.calls = [self.nothing; CALLS];
    }
}

/// Where a ring's fields are, relative to GS.
#[derive(Clone, Copy)]
struct Fields {
    rip: u32,
    code: u32,
    top: u32,
}

impl Fields {
    fn of(l: &Layout, realm: usize) -> Self {
        let ring = l.returns() + (realm * size_of::<Returns>()) as u32;
        Self {
            rip: ring + offset_of!(Call, rip) as u32,
            code: ring + offset_of!(Call, code) as u32,
            top: ring + offset_of!(Returns, top) as u32,
        }
    }

    /// The top, in T2, moves by `by` bytes. Leaves flags alone.
    fn turn(self, a: &mut Asm, by: i32) {
        a.mem(false, op::LEA, T2, T2, None, by);
        a.movzx8(T2, T2);
        a.gs(false, op::MOV_STORE, T2, self.top);
    }
}

/// Emits a call's part of it: T0 = the guest's return address, T1 = its code.
/// Clobbers T2, leaves flags alone.
pub(crate) fn push(a: &mut Asm, l: &Layout, realm: usize) {
    let ring = Fields::of(l, realm);
    a.gs(false, op::MOV, T2, ring.top);
    ring.turn(a, CALL);
    a.gs_index(true, op::MOV_STORE, T0, T2, ring.rip);
    a.gs_index(true, op::MOV_STORE, T1, T2, ring.code);
}

/// Emits what a return of `realm` jumps to: T0 = the guest's return address, T1 =
/// number of the branch. Goes on there, or at arena offset `probe_branch` if it is
/// not the one expected or the vCPU is to leave. Clobbers T1, T2 and flags.
pub(crate) fn emit_pop(a: &mut Asm, l: &Layout, realm: usize, probe_branch: usize) -> usize {
    let at = a.len();
    let ring = Fields::of(l, realm);
    a.gs(false, op::MOV, T2, ring.top);
    a.gs_index(true, op::CMP, T0, T2, ring.rip);
    let other = a.jcc(cc::NE);
    a.gs_cmp_imm8(l.poll(), 0);
    let leave = a.jcc(cc::NE);
    a.gs_index(true, op::MOV, T1, T2, ring.code);
    ring.turn(a, -CALL);
    a.jmp_reg(T1);
    a.land(other);
    a.land(leave);
    a.gs(false, op::MOV_STORE, T1, l.exit_site());
    let out = a.jmp();
    a.link(out, probe_branch);
    at
}
