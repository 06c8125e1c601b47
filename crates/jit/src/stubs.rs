//! The fixed code around blocks: entry, exits, slow path, vector state.

use crate::asm::{Asm, cc, op};
use crate::gates::{self, Gates};
use crate::layout::{ExitKind, Layout, Realm};
use crate::regs::{T0, T1, T2, pinned};
use crate::returns;
use crate::translate::{NO_BRANCH, probe, probe_other, restore_flags_from};
use crate::windows::SLOTS;

const RAX: u8 = 0;
const RCX: u8 = 1;
const RDX: u8 = 2;
const RSP: u8 = 4;
const RSI: u8 = 6;
const RDI: u8 = 7;
/// Callee-saved registers of the System V ABI.
const SAVED: [u8; 6] = [3, 5, 12, 13, 14, 15];
/// What generated code has on its stack: the slot for flags, then those for windows.
/// Behind them the TLB arrays begin. Keeps the stack aligned to 8.
pub(crate) const FRAME: i32 = 8 + 8 * SLOTS as i32;
/// Between the saved registers and calls of Rust, whose stack is aligned to 16.
const ALIGN: i32 = 8;
/// CF, PF, AF, ZF, SF, OF.
const ARITH: u32 = 0x8d5;
/// Set in the host's flags, and so in the slot.
const IF: u32 = 0x200;

const REALMS: usize = Realm::ALL.len();

/// Offsets of the stubs inside the arena's first bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stubs {
    /// `extern "sysv64" fn(_: u64, code: u64)`: enters generated code; GS base
    /// must be the vCPU memory.
    pub enter: usize,
    /// Returns to the caller of `enter` by [`ExitKind`]; jumped to with
    /// `exit_site` set where the kind has one and the guest's flags in the host's.
    pub exits: [usize; 6],
    /// The same with the flags in the slot.
    pub slot_exits: [usize; 6],
    /// Returns with [`ExitKind::Link`]; called by a link's stub, behind whose
    /// call the link's number is. The guest's flags are in the host's.
    pub link: usize,
    /// The same with the flags in the slot.
    pub slot_link: usize,
    /// With the flags in the slot, as for the other ways through the jump cache:
    /// looks for T0 in its second place in the jump cache; returns with
    /// [`ExitKind::Lookup`] and RIP = T0 if it is not there either. By realm, as the
    /// next three.
    pub lookup: [usize; REALMS],
    /// Jumps to the guest address in T0, to which no branch leads, through the
    /// jump cache.
    pub probe: [usize; REALMS],
    /// The same for a branch, whose number is in `exit_site`.
    pub probe_branch: [usize; REALMS],
    /// See [`returns::emit_pop`].
    pub pop_return: [usize; REALMS],
    /// Slow path of a memory access: T0 = linear address, T2 = info; called.
    /// Afterwards the operand is at `[T1 + T0]`.
    pub slow: usize,
    /// Slow path of a string instruction: T2 = info; called.
    pub string: usize,
    /// Loads the guest's vector state; called at the start of a block.
    pub load_vector: usize,
    /// Changes of privilege.
    pub gates: Gates,
}

/// Emits the stubs; their code starts at offset 0 of the arena.
pub fn emit(l: &Layout) -> (Vec<u8>, Stubs) {
    let mut a = Asm::default();
    let mut s = Stubs {
        enter: emit_enter(&mut a, l),
        ..Stubs::default()
    };
    let restore = emit_return(&mut a, l);
    let save = emit_exit(&mut a, l, restore);
    for kind in 0..6u32 {
        s.exits[kind as usize] = a.len();
        a.gs_store_imm(l.exit_kind(), kind);
        let at = a.jmp();
        a.link(at, save);
        s.slot_exits[kind as usize] = a.len();
        restore_flags_from(&mut a);
        let at = a.jmp();
        a.link(at, s.exits[kind as usize]);
    }
    s.link = emit_link(&mut a, l, s.exits[ExitKind::Link as usize]);
    s.slot_link = emit_link(&mut a, l, s.slot_exits[ExitKind::Link as usize]);
    for realm in 0..REALMS {
        emit_jumps(&mut a, l, &mut s, realm);
    }
    s.slow = emit_slow(&mut a, l, restore, l.slow());
    s.string = emit_slow(&mut a, l, restore, l.string());
    s.load_vector = emit_load_vector(&mut a, l);
    s.gates = gates::emit(&mut a, l, &s);
    (a.buf.to_vec(), s)
}

fn emit_link(a: &mut Asm, l: &Layout, exit: usize) -> usize {
    let at = a.len();
    a.pop(T2);
    a.mem(false, op::MOV, T2, T2, None, 0);
    a.gs(false, op::MOV_STORE, T2, l.exit_site());
    let out = a.jmp();
    a.link(out, exit);
    at
}

/// The ways through the jump cache of `realm`.
fn emit_jumps(a: &mut Asm, l: &Layout, s: &mut Stubs, realm: usize) {
    let lookup = a.len();
    let miss = probe_other(a, l, realm);
    a.land(miss);
    a.gs(true, op::MOV_STORE, T0, l.rip);
    let out = a.jmp();
    a.link(out, s.slot_exits[ExitKind::Lookup as usize]);
    s.lookup[realm] = lookup;
    s.probe[realm] = a.len();
    let miss = probe(a, l, realm);
    a.land(miss);
    a.gs_store_imm(l.exit_site(), NO_BRANCH);
    let at = a.jmp();
    a.link(at, lookup);
    let branch = a.len();
    let miss = probe(a, l, realm);
    a.link(miss, lookup);
    s.probe_branch[realm] = branch;
    s.pop_return[realm] = returns::emit_pop(a, l, realm, branch);
}

fn emit_enter(a: &mut Asm, l: &Layout) -> usize {
    let at = a.len();
    for r in SAVED {
        a.push(r);
    }
    a.mem(true, op::LEA, RSP, RSP, None, -ALIGN);
    a.gs(true, op::MOV_STORE, RSP, l.host_rsp());
    a.gs(true, op::MOV, RSP, l.tlb);
    a.mem(true, op::LEA, RSP, RSP, None, -FRAME);
    a.gs(true, op::MOV_STORE, RSP, l.frame());
    a.rr(true, op::MOV, T1, RSI);
    a.gs(true, op::MOV, T0, l.rip); // as jumps through the jump cache have it
    a.gs(true, op::MOV, RAX, l.rflags);
    a.and_imm(RAX, ARITH);
    a.or_imm(RAX, IF);
    a.mem(true, op::MOV_STORE, RAX, RSP, None, 0);
    for (host, guest) in pinned() {
        a.gs(true, op::MOV, host, l.reg(guest));
    }
    a.jmp_reg(T1);
    at
}

/// Stores the pinned registers.
fn store_guest(a: &mut Asm, l: &Layout) {
    for (host, guest) in pinned() {
        a.gs(true, op::MOV_STORE, host, l.reg(guest));
    }
}

/// Registers and flags to memory, then return.
fn emit_exit(a: &mut Asm, l: &Layout, restore: usize) -> usize {
    let at = a.len();
    store_guest(a, l);
    a.buf.push(0x9c); // pushfq
    a.pop(RAX);
    a.and_imm(RAX, ARITH);
    a.gs(true, op::MOV, RCX, l.rflags);
    // and ecx, !ARITH would clear the upper half, which holds no flag
    a.and_imm(RCX, !ARITH);
    a.rr(true, op::OR, RAX, RCX);
    a.gs(true, op::MOV_STORE, RAX, l.rflags);
    let jump = a.jmp();
    a.link(jump, restore);
    at
}

/// Guest registers are in memory: put away vector state and return to Rust.
fn emit_return(a: &mut Asm, l: &Layout) -> usize {
    let at = a.len();
    save_vector(a, l);
    a.gs(true, op::MOV, RSP, l.host_rsp());
    a.mem(true, op::LEA, RSP, RSP, None, ALIGN);
    for r in SAVED.into_iter().rev() {
        a.pop(r);
    }
    a.buf.push(0xc3);
    at
}

/// If the guest's vector state is loaded: save it and load the state Rust
/// expects. Clobbers RAX, RCX, RDX and flags.
fn save_vector(a: &mut Asm, l: &Layout) {
    a.gs_cmp_imm8(l.vec_loaded(), 0);
    let skip = a.jcc(cc::E);
    a.gs_store_imm(l.vec_loaded(), 0);
    let this = l.this();
    vector_op(a, l, |a, wide| {
        a.gs(true, op::MOV, RCX, this);
        // xsave64 / fxsave64 [rcx + xsave]
        a.bytes(&[0x48, 0x0f, 0xae, if wide { 0xa1 } else { 0x81 }]);
        a.u32(l.xsave);
    });
    vector_op(a, l, |a, wide| {
        a.gs(true, op::MOV, RCX, l.host_xsave());
        // xrstor64 / fxrstor64 [rcx]
        a.bytes(&[0x48, 0x0f, 0xae, if wide { 0x29 } else { 0x09 }]);
    });
    a.land(skip);
}

/// Emits both the XSAVE and the FXSAVE form of an operation behind a test of
/// the mask. EDX:EAX is the mask in the former.
fn vector_op(a: &mut Asm, l: &Layout, f: impl Fn(&mut Asm, bool)) {
    a.gs(true, op::MOV, RAX, l.xsave_mask());
    a.rr(true, op::MOV, RCX, RAX);
    let none = a.jrcxz(false);
    a.bytes(&[0x31, 0xd2]); // xor edx, edx: no component above bit 31
    f(a, true);
    let end = a.jmp();
    a.land8(none);
    f(a, false);
    a.land(end);
}

/// A slow path, whose function's address is in field `function`. It keeps guest
/// state in memory around the call, so that either outcome is at hand.
fn emit_slow(a: &mut Asm, l: &Layout, restore: usize, function: u32) -> usize {
    let at = a.len();
    store_guest(a, l);
    set_vector_aside(a, l);
    a.gs(true, op::MOV, RDI, l.this());
    a.rr(true, op::MOV, RSI, T0);
    a.rr(false, op::MOV, RDX, T2);
    a.mem(true, op::MOV, RCX, RSP, None, 0);
    a.gs(true, op::MOV, RSP, l.host_rsp());
    a.gs(true, op::MOV, RAX, function);
    a.bytes(&[0xff, 0xd0]); // call rax
    // Below the frame there is but the return address.
    a.gs(true, op::MOV, RSP, l.frame());
    a.mem(true, op::LEA, RSP, RSP, None, -8);
    a.rr(false, op::MOV, T1, RAX);
    bring_vector_back(a, l);
    a.test_rr(false, T1, T1);
    let leave = a.jcc(cc::NE);
    a.link(leave, restore);
    a.gs(true, op::MOV, T1, l.found());
    a.mov_imm(T0, 0);
    for (host, guest) in pinned() {
        if !SAVED.contains(&host) {
            a.gs(true, op::MOV, host, l.reg(guest));
        }
    }
    a.buf.push(0xc3);
    at
}

/// If the guest's vector state is loaded: saves it in [`crate::JitCtx::aside`] and
/// gives Rust code of its own what that minds, which is MXCSR and the penalty for
/// mixing vector lengths. Clobbers RAX, RCX, RDX and flags.
fn set_vector_aside(a: &mut Asm, l: &Layout) {
    const MXCSR: i32 = 24;
    const AVX: u8 = 4; // in the mask
    a.gs_cmp_imm8(l.vec_loaded(), 0);
    let skip = a.jcc(cc::E);
    let optimized = std::arch::is_x86_feature_detected!("xsaveopt");
    vector_op(a, l, |a, wide| {
        a.gs(true, op::MOV, RCX, l.this());
        let form = match (wide, optimized) {
            (true, true) => 0xb1,  // xsaveopt64 [rcx + disp32]
            (true, false) => 0xa1, // xsave64
            (false, _) => 0x81,    // fxsave64
        };
        a.bytes(&[0x48, 0x0f, 0xae, form]);
        a.u32(l.aside());
    });
    a.test_imm8(RAX, AVX);
    let narrow = a.jcc(cc::E);
    a.bytes(&[0xc5, 0xf8, 0x77]); // vzeroupper
    a.land(narrow);
    a.gs(true, op::MOV, RCX, l.host_xsave());
    a.bytes(&[0x0f, 0xae, 0x51, MXCSR as u8]); // ldmxcsr [rcx + MXCSR]
    a.land(skip);
}

/// Undoes [`set_vector_aside`]. Clobbers RAX, RCX, RDX and flags.
fn bring_vector_back(a: &mut Asm, l: &Layout) {
    a.gs_cmp_imm8(l.vec_loaded(), 0);
    let skip = a.jcc(cc::E);
    restore_vector(a, l, l.aside());
    a.land(skip);
}

/// Clobbers RAX, RCX, RDX.
fn load_vector(a: &mut Asm, l: &Layout) {
    a.gs_store_imm(l.vec_loaded(), 1);
    restore_vector(a, l, l.xsave);
}

/// Loads vector state from an image of the vCPU's memory. Clobbers RAX, RCX, RDX.
fn restore_vector(a: &mut Asm, l: &Layout, image: u32) {
    vector_op_noflags(a, l, |a, wide| {
        a.gs(true, op::MOV, RCX, l.this());
        // xrstor64 / fxrstor64 [rcx + image]
        a.bytes(&[0x48, 0x0f, 0xae, if wide { 0xa9 } else { 0x89 }]);
        a.u32(image);
    });
}

/// As [`vector_op`] but leaves flags alone.
fn vector_op_noflags(a: &mut Asm, l: &Layout, f: impl Fn(&mut Asm, bool)) {
    a.gs(true, op::MOV, RAX, l.xsave_mask());
    a.rr(true, op::MOV, RCX, RAX);
    let none = a.jrcxz(false);
    a.mov_imm(RDX, 0);
    f(a, true);
    let end = a.jmp();
    a.land8(none);
    f(a, false);
    a.land(end);
}

/// Called from a block's head with guest registers live and flags unknown.
fn emit_load_vector(a: &mut Asm, l: &Layout) -> usize {
    let at = a.len();
    for (scratch, r) in [(T0, RAX), (T1, RCX), (T2, RDX)] {
        a.rr(true, op::MOV, scratch, r);
    }
    load_vector(a, l);
    for (scratch, r) in [(T0, RAX), (T1, RCX), (T2, RDX)] {
        a.rr(true, op::MOV, r, scratch);
    }
    a.buf.push(0xc3);
    at
}
