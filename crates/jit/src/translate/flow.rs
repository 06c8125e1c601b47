//! Control flow: links, the jump cache, polls.

use super::flags::{Kept, set_aside};
use super::memory::Operand;
use super::{Emitter, Entrance, Link, Mapping, linear};
use crate::asm::{Asm, cc, op};
use crate::block::Step;
use crate::cache::{MIX_SHIFT, OTHER_SHIFT, mixes};
use crate::layout::{ExitKind, Layout};
use crate::regs::{GUEST_RSP, Home, T0, T1, T2, home};
use crate::returns;
use iced_x86::{FlowControl, Instruction, OpKind};
use x86::{LONGEST_INSTRUCTION, flags};

const RCX: u8 = 1;

/// What a link leads to.
enum Leads {
    /// The target of a jump, perhaps in another page.
    Jump { crosses: bool, entrance: Entrance },
    /// The translation without windows of the instruction itself.
    Narrow,
    /// What follows a call, for the return.
    Return,
}

/// Number of no branch: the address in T0 is one that execution runs on to.
pub(crate) const NO_BRANCH: u32 = u32::MAX;

impl Emitter<'_> {
    fn same_page(&self, from: u64, to: u64) -> bool {
        from >> 12 == to >> 12
    }

    /// Registers a link whose displacement is at hot offset `at`; its stub
    /// goes to the cold stream.
    fn add_link(&mut self, at: usize, target: u64, crosses: bool) {
        self.hot_to_cold(at);
        let entrance = match self.flags {
            Kept::Slot => Entrance::Slot,
            _ => Entrance::Host,
        };
        let stub = self.link_stub(entrance);
        let leads = Leads::Jump { crosses, entrance };
        self.note_link(self.to.hot + at, target, stub, leads);
    }

    /// Goes on in the cold stream in the translation of the instruction at
    /// `target`, of the same page, that has no windows. The flags are in the slot.
    pub(super) fn narrow_link(&mut self, target: u64) {
        let before = self.to.cold + self.cold.len();
        self.cold.bytes(padding(before + 1));
        let at = self.cold.jmp();
        self.cold.land(at);
        let stub = self.link_stub(Entrance::Slot);
        self.note_link(self.to.cold + at, target, stub, Leads::Narrow);
    }

    /// Where the stub of the next link is, which goes to the cold stream's end.
    fn link_stub(&mut self, entrance: Entrance) -> usize {
        let at = self.to.cold + self.cold.len();
        let id = self.next_link();
        let call = self.cold.call();
        let stub = match entrance {
            Entrance::Slot => self.stubs.slot_link,
            _ => self.stubs.link,
        };
        self.cold_to_stub(call, stub);
        self.cold.u32(id);
        at
    }

    fn next_link(&self) -> u32 {
        self.to.first_link + self.out.links.len() as u32
    }

    /// Registers the next link, whose displacement is at arena offset `at` and
    /// leads to `stub`.
    fn note_link(&mut self, at: usize, target: u64, stub: usize, leads: Leads) {
        let (crosses, entrance) = match leads {
            Leads::Jump { crosses, entrance } => (crosses, entrance),
            Leads::Narrow => (false, Entrance::Slot),
            Leads::Return => (false, Entrance::Address),
        };
        self.out.links.push(Link {
            at: at as u32,
            stub: stub as u32,
            target,
            crosses,
            narrow: matches!(leads, Leads::Narrow),
            entrance,
            vector: self.vector,
            mapping: self.to.mapping,
            bank: self.to.bank,
            wide: self.to.wide,
            mode: 0,
        });
    }

    /// Notes where the return from the call `insn` leads, whose address may be in
    /// T2. Clobbers T1 and T2.
    fn expect_return(&mut self, insn: &Instruction, known: bool) {
        let next = insn.next_ip();
        if !self.linkable(insn.ip(), next) || !self.same_page(insn.ip(), next) {
            return;
        }
        self.save_flags(flags::ARITH);
        if !known {
            self.linear(T2, next);
        }
        let (l, bank) = (self.l, self.to.bank);
        returns::remember_address(&mut self.hot, l, bank);
        self.align_link(3);
        let at = self.hot.lea_rip(T2);
        let probe = self.stubs.probe[bank];
        self.hot_to_stub(at, probe);
        self.note_link(self.to.hot + at, next, probe, Leads::Return);
        returns::remember_code(&mut self.hot, l, bank);
    }

    /// Pads what comes next so that the displacement behind `opcode` bytes lies in
    /// one aligned quadword: other vCPUs may execute a link while it is patched and
    /// must fetch the old or the new displacement whole.
    fn align_link(&mut self, opcode: usize) {
        let at = self.to.hot + self.hot.len() + opcode;
        self.hot.bytes(padding(at));
    }

    /// True if a direct jump from this block to `target` may be patched. What
    /// an instruction in two pages says depends on both mappings, and only the
    /// jump cache's addresses follow them.
    pub(super) fn linkable(&self, from: u64, target: u64) -> bool {
        let in_one_page = target & 0xfff <= 0x1000 - LONGEST_INSTRUCTION as u64;
        in_one_page
            && match self.to.mapping {
                Mapping::Kernel => true,
                Mapping::Fixed => self.same_page(from, target),
                Mapping::Anywhere => self.same_page(0, target),
            }
    }

    /// `reg` = a linear address, see [`Mapping`].
    pub(super) fn linear(&mut self, reg: u8, value: u64) {
        let to = self.to;
        linear(&mut self.hot, self.l, to.mapping, reg, to.wide, value);
    }

    /// Unconditional jump to a known address.
    pub(super) fn jump_to(&mut self, target: u64) {
        // `target` follows or belongs to the block, so its own page tells
        // whether the jump leaves it only together with the block's start.
        self.jump_from(target.wrapping_sub(1), target, None);
    }

    /// To a known address, from `branch` or because execution runs on to it.
    fn jump_from(&mut self, from: u64, target: u64, branch: Option<&Instruction>) {
        if self.linkable(from, target) {
            self.flags_for_link();
            if target <= from {
                self.poll(target);
            }
            self.align_link(1);
            let at = self.hot.jmp();
            let crosses = !self.same_page(from, target);
            self.add_link(at, target, crosses);
        } else {
            self.linear(T0, target);
            self.jump_to_t0(branch);
        }
    }

    /// Through the jump cache to the known address in T0.
    fn jump_to_t0(&mut self, branch: Option<&Instruction>) {
        let branch = branch.filter(|_| self.may_be_refused());
        let branch = branch.map_or(NO_BRANCH, |insn| self.number(insn));
        self.flags_for_jump();
        self.probe(branch);
    }

    /// Leaves for `rip` with [`ExitKind::Poll`] if the poll word is set. A loop
    /// of links has one that leads back; jumps through the jump cache miss it
    /// when the vCPU is to leave. The flags are where links want them.
    pub(super) fn poll(&mut self, rip: u64) {
        let asked = match self.flags {
            Kept::Slot => {
                self.hot.gs_cmp_imm8(self.l.poll(), 0);
                self.hot.jcc(cc::NE)
            }
            _ => self.look_at_poll(),
        };
        self.hot_to_cold(asked);
        let to = self.to;
        linear(&mut self.cold, self.l, to.mapping, T0, to.wide, rip);
        self.cold.gs(true, op::MOV_STORE, T0, self.l.rip);
        let out = self.cold.jmp();
        self.cold_to_stub(out, self.exit(ExitKind::Poll));
    }

    /// Jumps if the poll word is set; where the displacement of that is. Leaves
    /// flags alone.
    fn look_at_poll(&mut self) -> usize {
        self.hot.rr(true, op::MOV, T2, RCX);
        self.hot.gs(false, op::MOV, RCX, self.l.poll());
        let clear = self.hot.jrcxz(true);
        self.hot.rr(true, op::MOV, RCX, T2);
        let asked = self.hot.jmp();
        self.hot.land8(clear);
        self.hot.rr(true, op::MOV, RCX, T2);
        asked
    }

    /// Jumps to the guest address in T0 through the jump cache, with the flags in
    /// the slot. A branch to a non-canonical address always misses: its number
    /// tells the engine whose fault that is.
    fn probe(&mut self, branch: u32) {
        let bank = self.to.bank;
        let miss = probe(&mut self.hot, self.l, bank);
        self.hot_to_cold(miss);
        self.cold.gs_store_imm(self.l.exit_site(), branch);
        let out = self.cold.jmp();
        self.cold_to_stub(out, self.stubs.lookup[bank]);
    }

    /// Direct JMP.
    pub(super) fn jump(&mut self, step: &Step) {
        let (ip, target) = (step.insn.ip(), step.insn.near_branch_target());
        self.jump_from(ip, target, Some(&step.insn));
    }

    /// Jcc: the taken edge leaves the block, the other stays in it.
    pub(super) fn jcc(&mut self, step: &Step) {
        self.restore_flags(flags::ARITH);
        let (ip, target) = (step.insn.ip(), step.insn.near_branch_target());
        let cond = condition(&step.insn);
        if target > ip && self.linkable(ip, target) {
            self.align_link(2);
            let at = self.hot.jcc(cond);
            let crosses = !self.same_page(ip, target);
            return self.add_link(at, target, crosses);
        }
        if !self.linkable(ip, target) {
            let at = self.hot.jcc(cond);
            return self.far_jump(at, &step.insn);
        }
        let skip = self.hot.jcc(cond ^ 1);
        self.jump_from(ip, target, Some(&step.insn));
        self.hot.land(skip);
    }

    /// Where the jump with its displacement at hot offset `at` leads, through the
    /// jump cache: the cold stream has the way, the stubs the probe. Most such
    /// branches are not taken, and hot code is the better the denser it is.
    fn far_jump(&mut self, at: usize, insn: &Instruction) {
        self.hot_to_cold(at);
        set_aside(&mut self.cold);
        let (to, target) = (self.to, insn.near_branch_target());
        linear(&mut self.cold, self.l, to.mapping, T0, to.wide, target);
        let stub = if self.may_be_refused() {
            let branch = self.number(insn);
            self.cold.gs_store_imm(self.l.exit_site(), branch);
            self.stubs.probe_branch[to.bank]
        } else {
            self.stubs.probe[to.bank]
        };
        let out = self.cold.jmp();
        self.cold_to_stub(out, stub);
    }

    /// Where the page is mapped decides whether what a branch leads to is
    /// canonical.
    fn may_be_refused(&self) -> bool {
        self.to.mapping == Mapping::Anywhere && self.to.wide
    }

    /// Near CALL of a known address.
    pub(super) fn call(&mut self, step: &Step) {
        let insn = &step.insn;
        let known = self.push_return(step);
        let (ip, target) = (insn.ip(), insn.near_branch_target());
        let distance = target.wrapping_sub(insn.next_ip()).cast_signed();
        let near = i32::try_from(distance).ok().filter(|_| known);
        match near.filter(|_| !self.linkable(ip, target)) {
            Some(distance) => {
                self.hot.mem(self.to.wide, op::LEA, T0, T2, None, distance);
                self.expect_return(insn, known);
                self.jump_to_t0(Some(insn));
            }
            None => {
                self.expect_return(insn, known);
                self.jump_from(ip, target, Some(insn));
            }
        }
    }

    /// T0 = the target operand of an indirect branch.
    fn branch_operand(&mut self, step: &Step) {
        let insn = &step.insn;
        if insn.op0_kind() == OpKind::Memory {
            self.linear_address(insn);
            self.check(insn.ip(), Operand::read(self.word()));
            self.load_top(T0);
        } else {
            let r = self.fetch(insn.op0_register(), T0);
            if r != T0 {
                self.hot.rr(self.to.wide, op::MOV, T0, r);
            }
        }
    }

    /// Near indirect CALL.
    pub(super) fn call_indirect(&mut self, step: &Step) {
        let kept = self.kept_target(&step.insn);
        if kept.is_none() {
            self.branch_operand(step);
            self.hot.gs(true, op::MOV_STORE, T0, self.l.temp());
        }
        let known = self.push_return(step);
        self.expect_return(&step.insn, known);
        match kept {
            Some(register) => self.hot.rr(self.to.wide, op::MOV, T0, register),
            None => self.hot.gs(true, op::MOV, T0, self.l.temp()),
        }
        self.indirect(&step.insn);
    }

    /// Host register of a call's target if pushing the return address leaves it as
    /// it is.
    fn kept_target(&self, insn: &Instruction) -> Option<u8> {
        if insn.op0_kind() != OpKind::Register {
            return None;
        }
        match home(insn.op0_register().full_register().number()) {
            Home::Host(GUEST_RSP) | Home::Slot(_) => None,
            Home::Host(register) => Some(register),
        }
    }

    /// Near indirect JMP.
    pub(super) fn jump_indirect(&mut self, step: &Step) {
        self.branch_operand(step);
        self.indirect(&step.insn);
    }

    /// Near RET.
    pub(super) fn ret(&mut self, step: &Step) {
        let extra = ret_bytes(&step.insn);
        self.pop_return(step, extra);
        let branch = self.number(&step.insn);
        self.flags_for_jump();
        let slot = -self.word() - extra;
        self.hot.mem(false, op::LEA, T2, GUEST_RSP, None, slot);
        self.hot.mov_imm(T1, branch.into());
        let pop = self.hot.jmp();
        self.hot_to_stub(pop, self.stubs.pop_return[self.to.bank]);
    }

    /// To the address in T0.
    fn indirect(&mut self, insn: &Instruction) {
        let branch = self.number(insn);
        self.flags_for_jump();
        self.probe(branch);
    }
}

/// Prefixes that a direct branch and LEA ignore, as many as bring what would be at
/// arena offset `at` into an aligned quadword. They cost no instruction and leave
/// comparison and branch one operation of the host's.
fn padding(at: usize) -> &'static [u8] {
    const CS: [u8; 3] = [0x2e; 3];
    match at & 7 {
        0..=4 => &[],
        within => &CS[..8 - within],
    }
}

/// Jumps to the guest address in T0 through the jump cache of `realm`; where the
/// displacement of the jump taken on a miss is. The guest's flags are in the slot.
pub(crate) fn probe(a: &mut Asm, l: &Layout, realm: usize) -> usize {
    if mixes() {
        a.rorx(T1, T0, MIX_SHIFT);
        a.rr(true, op::ADD, T1, T0);
    } else {
        a.rr(true, op::MOV, T1, T0);
    }
    probe_at(a, l, realm)
}

/// Jumps to the guest address in T0 if it is in its other place; as [`probe`]
/// otherwise.
pub(crate) fn probe_other(a: &mut Asm, l: &Layout, realm: usize) -> usize {
    a.rr(true, op::MOV, T1, T0);
    a.shr_imm(T1, 16);
    a.mem(true, op::LEA, T1, T0, Some((T1, OTHER_SHIFT)), 0);
    probe_at(a, l, realm)
}

/// As [`probe`] for the entry that the low 16 bits of T1 name. Clobbers T1, T2 and
/// the host's flags.
fn probe_at(a: &mut Asm, l: &Layout, realm: usize) -> usize {
    const EIGHTH: (u8, u8) = (T1, 3);
    a.movzx16(T1, T1);
    a.rr(false, op::ADD, T1, T1);
    a.gs(true, op::MOV, T2, l.jump_cache(realm));
    a.mem(true, op::CMP, T0, T2, Some(EIGHTH), 0);
    let miss = a.jcc(cc::NE);
    a.jmp_mem(T2, EIGHTH, 8);
    miss
}

/// Bytes of parameters that a near return releases.
fn ret_bytes(insn: &Instruction) -> i32 {
    if insn.op_count() == 1 {
        i32::from(insn.immediate16())
    } else {
        0
    }
}

/// What a 64-bit branch has added to RSP when its target turns out
/// to be wrong: a fault there is the branch's own and takes that back.
pub fn stack_change(insn: &Instruction) -> i64 {
    match insn.flow_control() {
        FlowControl::Return => 8 + i64::from(ret_bytes(insn)),
        FlowControl::Call | FlowControl::IndirectCall => -8,
        _ => 0,
    }
}

/// Condition number as Jcc encodes it.
fn condition(insn: &Instruction) -> u8 {
    use iced_x86::ConditionCode as C;
    match insn.condition_code() {
        C::o => 0,
        C::no => 1,
        C::b => 2,
        C::ae => 3,
        C::e => 4,
        C::ne => 5,
        C::be => 6,
        C::a => 7,
        C::s => 8,
        C::ns => 9,
        C::p => 10,
        C::np => 11,
        C::l => 12,
        C::ge => 13,
        C::le => 14,
        _ => 15,
    }
}
