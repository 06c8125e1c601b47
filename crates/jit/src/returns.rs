//! Where returns are expected to lead: for each realm what the last calls pushed, by
//! where on the guest's stack, with the code that is there.
//!
//! A return that finds its address goes straight on; any other goes through the jump
//! cache. Stacks that the guest changes between keep what they have, mostly. What is
//! remembered is as good as what jump caches hold, and is forgotten whenever these
//! forget anything.

use crate::asm::{Asm, cc, op};
use crate::layout::{Layout, Realm};
use crate::regs::{GUEST_RSP, T0, T1, T2};
use std::mem::offset_of;

/// Calls remembered in each realm.
const CALLS: usize = 64;
/// A call.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Call {
    /// The guest's return address, linear.
    rip: u64,
    /// The host's code there, or what looks for it.
    code: u64,
}

/// The calls made last in one realm, by the place of the return address.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Returns {
    calls: [Call; CALLS],
    /// What is there where nothing is known.
    nothing: Call,
}

impl Returns {
    /// Knows nothing; at `probe` is what looks for code.
    pub(crate) const fn new(probe: u64) -> Self {
        let nothing = Call {
            rip: 0,
            code: probe,
        };
        Self {
            calls: [nothing; CALLS],
            nothing,
        }
    }

    /// Forgets all calls.
    pub fn forget(&mut self) {
        self.calls = [self.nothing; CALLS];
    }
}

/// Where a realm's fields are, relative to GS, and how a stack pointer selects one.
#[derive(Clone, Copy)]
struct Fields {
    rip: u32,
    code: u32,
    /// Its bits that do.
    place: u32,
    /// log2 of what they are multiplied by.
    scale: u8,
}

impl Fields {
    fn of(l: &Layout, realm: usize) -> Self {
        let at = l.returns() + (realm * size_of::<Returns>()) as u32;
        // User code has one return address in 16 bytes of its stack, as its ABI
        // demands; kernels may have two.
        let scale = u8::from(realm != Realm::User as usize);
        Self {
            rip: at + offset_of!(Call, rip) as u32,
            code: at + offset_of!(Call, code) as u32,
            place: ((CALLS - 1) * size_of::<Call>()) as u32 >> scale,
            scale,
        }
    }
}

/// Emits the first half of a call's part of it, behind the push: remembers the
/// return address, which is in T2, and makes T1 its place. Clobbers flags.
pub(crate) fn remember_address(a: &mut Asm, l: &Layout, realm: usize) {
    let fields = Fields::of(l, realm);
    a.rr(false, op::MOV, T1, GUEST_RSP);
    a.and_imm(T1, fields.place);
    a.gs_index(true, op::MOV_STORE, T2, (T1, fields.scale), fields.rip);
}

/// The second: T2 = the code there.
pub(crate) fn remember_code(a: &mut Asm, l: &Layout, realm: usize) {
    let fields = Fields::of(l, realm);
    a.gs_index(true, op::MOV_STORE, T2, (T1, fields.scale), fields.code);
}

/// Emits what a return of `realm` jumps to: T0 = the guest's return address, T1 =
/// number of the branch, T2 = where the address was on the guest's stack. Goes on
/// there, or at arena offset `probe_branch` if it is not the one expected or the vCPU
/// is to leave. Clobbers T1, T2 and flags.
pub(crate) fn emit_pop(a: &mut Asm, l: &Layout, realm: usize, probe_branch: usize) -> usize {
    let at = a.len();
    let fields = Fields::of(l, realm);
    a.and_imm(T2, fields.place);
    a.gs_index(true, op::CMP, T0, (T2, fields.scale), fields.rip);
    let other = a.jcc(cc::NE);
    a.gs_cmp_imm8(l.poll(), 0);
    let leave = a.jcc(cc::NE);
    a.gs_index(false, 0xff, 4, (T2, fields.scale), fields.code); // jmp
    a.land(other);
    a.land(leave);
    a.gs(false, op::MOV_STORE, T1, l.exit_site());
    let out = a.jmp();
    a.link(out, probe_branch);
    at
}
