//! Where the guest's arithmetic flags are at each point of a block.
//!
//! They live in the host's. A TLB check clobbers these, and yet an access that
//! faults shows the guest all flags as they were. Most are not worth keeping:
//! while the operands or the result of the instruction that set them are still
//! there, a [`Recipe`] sets them again where they are needed, which is in cold
//! code most of the time. Other flags are set aside in the slot at the host's
//! stack pointer ([`crate::JitCtx::flags_aside`]), and leave the block there if
//! nothing asks for them (see [`super::Entrance`]).

use super::Emitter;
use crate::asm::{Asm, op};
use crate::block::Step;
use crate::classify::{Treatment, may_raise};
use crate::layout::ExitKind;
use crate::regs::{Home, RSP, T2, home};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use x86::flags::ARITH;

/// Where the flags are, if any is live. All are live wherever a block may be left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// In the host's flags.
    Host,
    /// In the slot.
    Slot,
    /// The recipe sets them.
    Recipe,
}

/// Longest code of a recipe.
const LONGEST: usize = 16;

/// Code that sets the flags as an instruction did which has been executed.
/// Clobbers T2.
#[derive(Clone, Copy)]
pub(super) struct Recipe {
    code: [u8; LONGEST],
    len: usize,
    /// Guest registers that it reads, a bit each.
    reads: u16,
}

impl Recipe {
    fn new(code: &[u8], reads: u16) -> Option<Self> {
        let mut recipe = Self {
            code: [0; LONGEST],
            len: code.len(),
            reads,
        };
        recipe.code.get_mut(..code.len())?.copy_from_slice(code);
        Some(recipe)
    }

    /// For `insn`, of which `copy` is the copy just made.
    fn of(insn: &Instruction, copy: &[u8]) -> Option<Self> {
        let reads = (0..insn.op_count()).try_fold(0, |all, i| match insn.op_kind(i) {
            OpKind::Register => Some(all | 1 << pinned(insn.op_register(i))?.1),
            OpKind::Memory => None,
            _ => Some(all),
        });
        match insn.mnemonic() {
            Mnemonic::Cmp | Mnemonic::Test => Self::new(copy, reads?),
            Mnemonic::And | Mnemonic::Or | Mnemonic::Xor => Self::of_result(insn),
            Mnemonic::Add | Mnemonic::Sub => Self::of_sum(insn, reads?),
            _ => None,
        }
    }

    /// TEST of the result: CF, OF and AF are clear as well.
    fn of_result(insn: &Instruction) -> Option<Self> {
        let (result, guest) = pinned(insn.op0_register())?;
        let wide = word(insn)?;
        let mut a = Asm::default();
        a.test_rr(wide, result, result);
        Self::new(&a.buf, 1 << guest)
    }

    /// Undoes the operation in T2 and does it once more.
    fn of_sum(insn: &Instruction, reads: u16) -> Option<Self> {
        let (result, _) = pinned(insn.op0_register())?;
        let wide = word(insn)?;
        let add = insn.mnemonic() == Mnemonic::Add;
        let mut a = Asm::default();
        if insn.op1_kind() == OpKind::Register {
            let (by, _) = pinned(insn.op1_register()).filter(|by| by.0 != result)?;
            if add {
                a.rr(wide, op::MOV, T2, result);
                a.rr(wide, op::SUB, T2, by);
                a.rr(wide, op::ADD, T2, by);
            } else {
                a.mem(wide, op::LEA, T2, result, Some((by, 0)), 0);
                a.rr(wide, op::CMP, T2, by);
            }
        } else {
            let by = insn.immediate(1) as i32;
            let back = if add { by.checked_neg()? } else { by };
            a.mem(wide, op::LEA, T2, result, None, back);
            let again = if add { op::ADD } else { op::CMP };
            a.alu_imm(wide, again, T2, by.cast_unsigned());
        }
        Self::new(&a.buf, reads)
    }

    fn emit(&self, a: &mut Asm) {
        a.buf.extend_from_start(&self.code, self.len);
    }
}

/// Host and guest number of a general register that stays in one.
fn pinned(r: Register) -> Option<(u8, usize)> {
    if !r.is_gpr() {
        return None;
    }
    let guest = r.full_register().number();
    match home(guest) {
        Home::Host(host) => Some((host, guest)),
        Home::Slot(_) => None,
    }
}

/// Whether the first operand has 64 bits; none if it has not 32 either.
fn word(insn: &Instruction) -> Option<bool> {
    match insn.op0_register().size() {
        8 => Some(true),
        4 => Some(false),
        _ => None,
    }
}

/// The instruction reads or writes flags.
pub(super) fn touches_flags(insn: &Instruction) -> bool {
    insn.rflags_read() | insn.rflags_modified() != 0
}

impl Emitter<'_> {
    /// Before a step behind which flags `live` are live.
    pub(super) fn flags_before(&mut self, step: &Step, live: u64) {
        self.spoils = false;
        let Some(recipe) = self.recipe else {
            return;
        };
        let insn = &step.insn;
        let copy = step.treatment == Treatment::Copy;
        let mut spoils = false;
        self.access
            .changed(insn, |n| spoils |= recipe.reads & 1 << n != 0);
        // A copy that touches flags has them in the host's before it changes
        // anything. The table of faults knows no recipes.
        let early = spoils && live != 0 && !(copy && touches_flags(insn));
        if early || copy && may_raise(insn) {
            self.settle_flags();
            self.recipe = None;
        }
        self.spoils = spoils;
    }

    /// Behind a step.
    pub(super) fn flags_after(&mut self) {
        if !self.spoils {
            return;
        }
        self.recipe = None;
        if self.flags == Kept::Recipe {
            self.flags = Kept::Host; // dead
        }
    }

    /// Loads the flags that a copy needs; the hot offset behind that.
    pub(super) fn load_flags_for(&mut self, step: &Step) -> usize {
        if touches_flags(&step.insn) {
            self.load_flags(step.needed);
        }
        self.hot.len()
    }

    /// The copy of `insn` begins at hot offset `start`. The flags were where it
    /// wants them.
    pub(super) fn flags_copied(&mut self, insn: &Instruction, start: usize) {
        if !touches_flags(insn) {
            return;
        }
        self.flags = Kept::Host;
        if insn.rflags_modified() != 0 {
            self.recipe = Recipe::of(insn, &self.hot.buf[start..]);
            self.spoils = false;
        }
    }

    /// Other code than copies has set the flags.
    pub(super) fn flags_set(&mut self) {
        self.flags = Kept::Host;
        self.recipe = None;
    }

    /// Gives the host's flags free if any of the guest's is live.
    pub(super) fn save_flags(&mut self, live: u64) {
        if live == 0 || self.flags != Kept::Host {
            return;
        }
        if self.recipe.is_some() {
            self.flags = Kept::Recipe;
        } else {
            self.set_flags_aside();
            self.flags = Kept::Slot;
        }
    }

    /// Puts the host's flags into the slot as well.
    pub(super) fn set_flags_aside(&mut self) {
        set_aside(&mut self.hot);
    }

    /// Before a link: what only a recipe has goes to the host's flags.
    pub(super) fn flags_for_link(&mut self) {
        if self.flags == Kept::Recipe {
            self.restore_flags(ARITH);
        }
    }

    /// Before a jump through the jump cache, a return or a gate, which ends this
    /// path: the flags go to the slot.
    pub(super) fn flags_for_jump(&mut self) {
        if self.flags != Kept::Slot {
            self.load_flags(ARITH);
            self.set_flags_aside();
        }
    }

    /// The stub that leaves with the flags where they are, recipes apart.
    pub(super) fn exit(&self, kind: ExitKind) -> usize {
        match self.flags {
            Kept::Slot => self.stubs.slot_exits[kind as usize],
            _ => self.stubs.exits[kind as usize],
        }
    }

    /// Where there is but a recipe the flags go to the slot.
    fn settle_flags(&mut self) {
        if self.flags == Kept::Recipe {
            self.flags_for_jump();
            self.flags = Kept::Slot;
        }
    }

    /// Brings the flags back if any is live and the host's are not them.
    pub(super) fn restore_flags(&mut self, live: u64) {
        self.load_flags(live);
        self.flags = Kept::Host;
    }

    /// The same, and they stay where they are as well: what comes next may fault.
    pub(super) fn load_flags(&mut self, live: u64) {
        if live != 0 {
            load(self.flags, self.recipe.as_ref(), &mut self.hot);
        }
    }

    /// What only a recipe has goes to the host's flags, on a path in the cold
    /// stream.
    pub(super) fn follow_recipe_cold(&mut self) {
        if self.flags == Kept::Recipe {
            load(self.flags, self.recipe.as_ref(), &mut self.cold);
        }
    }

    /// Sees that the flags are in the slot on a path in the cold stream.
    pub(super) fn settle_flags_cold(&mut self) {
        if self.flags == Kept::Recipe {
            self.follow_recipe_cold();
            set_aside(&mut self.cold);
        }
    }
}

fn load(from: Kept, recipe: Option<&Recipe>, a: &mut Asm) {
    match (from, recipe) {
        (Kept::Slot, _) => restore_flags_from(a),
        (Kept::Recipe, Some(recipe)) => recipe.emit(a),
        _ => {}
    }
}

/// Puts the host's flags into the slot.
pub(crate) fn set_aside(a: &mut Asm) {
    a.mem(true, op::LEA, RSP, RSP, None, 8);
    a.buf.push(0x9c); // pushfq
}

/// Loads the host's flags from the slot. Clobbers T2.
pub(crate) fn restore_flags_from(a: &mut Asm) {
    a.rr(true, op::MOV, T2, 0);
    a.mem(false, op::MOV, 0, RSP, None, 0); // mov eax, [rsp]
    a.bytes(&[0x66, 0xc1, 0xc0, 0x08]); // rol ax, 8
    // AL holds bits 8..=15: IF, which is set, and OF. This overflows with OF.
    a.bytes(&[0x04, 0x76, 0x9e]); // add al, 0x76; sahf
    a.rr(true, op::MOV, 0, T2);
}
