//! The three ways into a block, by where the guest's flags are.
//!
//! Jumps through the jump cache and returns come with T0 = the linear address and
//! the flags in the slot. Links come without T0, and with the flags in the host's
//! if that is where they were last set, else in the slot: most blocks begin with a
//! check that clobbers the host's, and what comes with the flags in the slot needs
//! not bring them back only to have them set aside again.

use super::flags::{Kept, set_aside};
use super::{Emitter, Mapping};
use crate::asm::op;
use crate::block::{Block, Step};
use crate::classify::Treatment;
use crate::regs::T0;

/// A way into a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// T0 = linear address, flags in the slot.
    Address,
    /// Flags in the host's.
    Host,
    /// Flags in the slot.
    Slot,
}

/// Where a block's entrances are: arena offsets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entrances {
    address: usize,
    host: usize,
    slot: usize,
    /// The same for who knows that the guest's vector state is in the host's registers.
    host_loaded: usize,
    slot_loaded: usize,
}

impl Entrances {
    /// Where one of them is.
    pub fn get(&self, which: Entrance) -> usize {
        match which {
            Entrance::Address => self.address,
            Entrance::Host => self.host,
            Entrance::Slot => self.slot,
        }
    }

    /// Where a link leads from a block that uses vector registers, or does not.
    pub fn for_link(&self, which: Entrance, vector: bool) -> usize {
        match which {
            Entrance::Host if vector => self.host_loaded,
            Entrance::Slot if vector => self.slot_loaded,
            _ => self.get(which),
        }
    }
}

/// Where a block wants the flags.
enum Wanted {
    /// It overwrites all before anyone sees them.
    Nowhere,
    /// It begins with what clobbers the host's.
    Slot,
    /// It begins with what reads or changes some.
    Host,
}

impl Emitter<'_> {
    /// Emits the entrances.
    pub(super) fn enter(&mut self, block: &Block) {
        self.set_page(block.start);
        let behind_page = self.hot.len();
        let here = |e: &Self| e.to.hot + e.hot.len();
        let mut at = Entrances {
            address: self.to.hot,
            host: here(self),
            slot: here(self),
            ..Entrances::default()
        };
        match self.wanted(block) {
            Wanted::Nowhere => {}
            Wanted::Slot if behind_page == 0 => {
                self.set_flags_aside();
                (at.address, at.slot) = (here(self), here(self));
                self.flags = Kept::Slot;
            }
            Wanted::Slot if self.to.linked => {
                let over = self.hot.jmp8();
                at.host = here(self);
                self.set_flags_aside();
                self.hot.land8(over);
                at.slot = here(self);
                self.flags = Kept::Slot;
            }
            Wanted::Slot => {
                at.host = self.to.cold + self.cold.len();
                set_aside(&mut self.cold);
                let over = self.cold.jmp();
                self.cold_to_hot(over, behind_page);
                self.flags = Kept::Slot;
            }
            Wanted::Host => {
                self.flags = Kept::Slot;
                self.restore_flags(x86::flags::ARITH);
                at.host = here(self);
            }
        }
        (at.host_loaded, at.slot_loaded) = (at.host, at.slot);
        self.out.entrances = at;
        if block.vector {
            self.enter_loaded(block);
        }
    }

    /// Sees that the guest's vector state is in the host's registers; links from where
    /// it is lead behind that if they bring the flags to where they are now.
    fn enter_loaded(&mut self, block: &Block) {
        let dead = block.steps[0].live_in == 0;
        self.load_vector(self.flags == Kept::Host && !dead);
        let here = self.to.hot + self.hot.len();
        let at = &mut self.out.entrances;
        if dead || self.flags == Kept::Host {
            at.host_loaded = here;
        }
        if dead || self.flags == Kept::Slot {
            at.slot_loaded = here;
        }
    }

    /// Sets [`crate::JitCtx::page`], which is 0 in kernel code and on entry. T0
    /// is the linear address of the block.
    fn set_page(&mut self, start: u64) {
        let page = self.l.page();
        match self.to.mapping {
            Mapping::Kernel => {}
            Mapping::Fixed => self.hot.gs_store_zero(page),
            Mapping::Anywhere => {
                let back = -(start as i32);
                self.hot.mem(true, op::LEA, T0, T0, None, back);
                self.hot.gs(true, op::MOV_STORE, T0, page);
            }
        }
    }

    fn wanted(&self, block: &Block) -> Wanted {
        if block.steps[0].live_in == 0 {
            return Wanted::Nowhere;
        }
        let first = block.steps.iter().find_map(|step| self.wanted_by(step));
        first.unwrap_or(Wanted::Host)
    }

    /// What the step makes of the flags, if anything.
    fn wanted_by(&self, step: &Step) -> Option<Wanted> {
        use Treatment as T;
        let insn = &step.insn;
        match step.treatment {
            _ if step.is_checked() => Some(Wanted::Slot),
            T::Copy if super::flags::touches_flags(insn) => Some(Wanted::Host),
            T::Copy | T::ReadSelector | T::Push | T::Pop | T::Leave => None,
            T::Nothing | T::Lea | T::SwapGs | T::ReadBase | T::ReadControl | T::Serialize => None,
            T::Jcc | T::PushFlags => Some(Wanted::Host),
            T::Jump if self.linkable(insn.ip(), insn.near_branch_target()) => Some(Wanted::Host),
            _ => Some(Wanted::Slot),
        }
    }
}
