//! Emission of one block into a hot and a cold stream.
//!
//! [`flags`] says where guest arithmetic flags are.

mod copy;
mod entry;
mod flags;
mod flow;
mod memory;
mod misses;
mod stack;
mod string;
mod system;

pub use entry::{Entrance, Entrances};
pub(crate) use flags::{restore_flags_from, set_aside};
pub use flow::stack_change;
pub(crate) use flow::{NO_BRANCH, probe, probe_other};
pub use memory::info;
pub(crate) use memory::{TlbField, find_entry, keeps_window, tlb_field};
pub use string::string_info;

use crate::asm::Asm;
use crate::block::{Block, Step};
use crate::buffer::Buffer;
use crate::classify::{AccessTable, Treatment, may_raise};
use crate::layout::{ExitKind, Layout};
use crate::regs::{T0, T2};
use crate::stubs::Stubs;
use crate::windows::Windows;
use flags::{Kept, Recipe};
use iced_x86::{Encoder, Instruction};
use memory::Place;
use misses::Misses;

/// What a translation knows of where its page is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// Kernel code: where it is, in every address space. Links may lead to
    /// other pages.
    Kernel,
    /// User code at one linear address. Links stay in the page.
    Fixed,
    /// User code wherever its page is mapped: its addresses are relative to
    /// [`crate::JitCtx::page`]. Links stay in the page.
    Anywhere,
}

/// Where the translation goes and what it may assume.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Arena offset of the hot stream.
    pub hot: usize,
    /// Arena offset of the cold stream.
    pub cold: usize,
    /// Number of the first link made.
    pub first_link: u32,
    /// Number of the first instruction that an exit names.
    pub first_exit: u32,
    /// TLB array of data accesses, and the [`crate::Realm`].
    pub bank: usize,
    /// Where its page is mapped.
    pub mapping: Mapping,
    /// The host has BMI2.
    pub bmi2: bool,
    /// 64-bit code.
    pub wide: bool,
    /// One check may cover several accesses; 64-bit code only.
    pub windows: bool,
    /// User code that no other processor looks at, see [`crate::block::Source`].
    pub alone: bool,
    /// A link led to it, so that its way in for links is the one to be short.
    pub linked: bool,
}

/// A direct jump that can be patched to its target's translation.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Arena offset of the 32-bit displacement.
    pub at: u32,
    /// Arena offset of the stub it leads to while unlinked.
    pub stub: u32,
    /// Guest linear address of the target, see [`Mapping`].
    pub target: u64,
    /// The target lies in another page.
    pub crosses: bool,
    /// It leads to a translation without windows.
    pub narrow: bool,
    /// The way by which it enters its target.
    pub entrance: Entrance,
    /// The guest's vector state is in the host's registers there.
    pub vector: bool,
    /// What its target is relative to.
    pub mapping: Mapping,
    /// [`Target::bank`] of the translation it is in.
    pub bank: usize,
    /// It is in 64-bit code.
    pub wide: bool,
    /// Mode of the translation it is in, see [`crate::cache::Key::mode`]; the
    /// cache fills it in.
    pub mode: u32,
}

/// A place in the code and the guest instruction it belongs to.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Site {
    /// Arena offset.
    pub at: u32,
    /// Flags are in the slot here.
    pub flags_in_slot: u16,
    /// The instruction has an operand in memory.
    pub memory: u16,
    /// Guest RIP, see [`Mapping`].
    pub rip: u64,
}

/// The product.
#[derive(Default)]
pub struct Output {
    /// Hot stream.
    pub hot: Buffer,
    /// Where links lead in it.
    pub entrances: Entrances,
    /// Cold stream.
    pub cold: Buffer,
    /// Links made, in the order of their numbers.
    pub links: Vec<Link>,
    /// Instructions that exits name, in the order of their numbers.
    pub exits: Vec<Instruction>,
    /// Return PCs of slow-path calls, ascending.
    pub accesses: Vec<Site>,
    /// Copied instructions that may raise a host exception, ascending.
    pub faults: Vec<Site>,
}

/// Translates blocks; keeps the tables and buffers between them.
pub struct Translator {
    layout: Layout,
    stubs: Stubs,
    access: AccessTable,
    windows: Windows,
    encoder: Encoder,
    misses: Misses,
    /// Buffers of an earlier product.
    spare: Output,
}

/// One block in the making.
struct Emitter<'a> {
    l: &'a Layout,
    stubs: &'a Stubs,
    /// The block uses vector registers.
    vector: bool,
    access: &'a mut AccessTable,
    encoder: &'a mut Encoder,
    misses: &'a mut Misses,
    to: Target,
    page: &'a [u8],
    hot: Asm,
    cold: Asm,
    out: Output,
    /// Where the flags are.
    flags: Kept,
    /// What sets them again.
    recipe: Option<Recipe>,
    /// The step changes what the recipe reads.
    spoils: bool,
    /// Where the operand is that was checked last.
    place: Place,
    /// The window whose host address is in T1.
    held: Option<u8>,
    /// Windows whose host addresses are in their slots, a bit each.
    stored: u32,
    /// What has to be added to the guest's RSP yet.
    rsp_behind: i32,
    /// Fields asked for are those of the stack's entry.
    stack: bool,
}

impl Translator {
    /// A translator for one layout and its stubs.
    pub fn new(layout: Layout, stubs: Stubs) -> Self {
        Self {
            layout,
            stubs,
            access: AccessTable::default(),
            windows: Windows::default(),
            encoder: Encoder::new(64),
            misses: Misses::default(),
            spare: Output::default(),
        }
    }

    /// Everything translated was dropped.
    pub fn flush(&mut self) {
        self.misses.clear();
    }

    /// Takes a product back, whose buffers the next one uses.
    pub fn recycle(&mut self, mut out: Output) {
        out.hot.clear();
        out.cold.clear();
        out.links.clear();
        out.exits.clear();
        out.accesses.clear();
        out.faults.clear();
        self.spare = out;
    }

    /// A way for `link` to code of another [`Mapping`]: through the jump cache.
    /// Its code goes to arena offset `at`.
    pub fn detour(&self, link: &Link, at: usize) -> Vec<u8> {
        let mut a = Asm::default();
        if link.entrance == Entrance::Host {
            set_aside(&mut a);
        }
        linear(
            &mut a,
            &self.layout,
            link.mapping,
            T0,
            link.wide,
            link.target,
        );
        let out = a.jmp();
        a.link_abs(out, at, self.stubs.probe[link.bank]);
        a.buf.to_vec()
    }

    /// Translates `block`, whose bytes are in `page`.
    pub fn translate(&mut self, block: &mut Block, page: &[u8], to: Target) -> Output {
        if to.windows {
            self.windows.find(&mut block.steps, &mut self.access);
        }
        block.find_live();
        let mut out = std::mem::take(&mut self.spare);
        let (hot, cold) = (take_asm(&mut out.hot), take_asm(&mut out.cold));
        let mut e = Emitter {
            l: &self.layout,
            stubs: &self.stubs,
            vector: false,
            access: &mut self.access,
            encoder: &mut self.encoder,
            misses: &mut self.misses,
            to,
            page,
            hot,
            cold,
            out,
            flags: Kept::Host,
            recipe: None,
            spoils: false,
            place: Place::INDEXED,
            held: None,
            stored: 0,
            rsp_behind: 0,
            stack: false,
        };
        e.block(block);
        e.emit_misses();
        Output {
            hot: e.hot.buf,
            cold: e.cold.buf,
            ..e.out
        }
    }
}

/// An assembler that writes to an empty buffer.
fn take_asm(buf: &mut Buffer) -> Asm {
    Asm {
        buf: std::mem::take(buf),
    }
}

impl Emitter<'_> {
    fn block(&mut self, block: &Block) {
        self.vector = block.vector;
        self.enter(block);
        let live_in = block.steps.iter().skip(1).map(|s| s.live_in);
        let live_out = live_in.chain([x86::flags::ARITH]);
        for (step, live) in block.steps.iter().zip(live_out) {
            if !stack::moves_with_stack(step) {
                self.settle_rsp();
            }
            self.flags_before(step, live);
            self.step(step);
            self.flags_after();
            if !keeps_window(step) {
                self.held = None;
            }
        }
        self.settle_rsp();
        if block.steps.last().is_none_or(|s| !s.treatment.ends_block()) {
            self.jump_to(block.end);
        }
    }

    fn step(&mut self, step: &Step) {
        match step.treatment {
            Treatment::Nothing => {}
            Treatment::Lea => self.lea(step),
            Treatment::Copy => self.copy(step),
            Treatment::Push => self.push(step),
            Treatment::Pop => self.pop(step),
            Treatment::Leave => self.leave(step),
            Treatment::Call => self.call(step),
            Treatment::CallIndirect => self.call_indirect(step),
            Treatment::Ret => self.ret(step),
            Treatment::Jump => self.jump(step),
            Treatment::JumpIndirect => self.jump_indirect(step),
            Treatment::Jcc => self.jcc(step),
            Treatment::PushFlags => self.push_flags(step),
            Treatment::Cli => self.cli(step),
            Treatment::Sti => self.sti(step),
            Treatment::ReadSelector => self.read_selector(step),
            Treatment::Direction => self.direction(step),
            Treatment::SwitchAc => self.switch_ac(step),
            Treatment::SwapGs => self.swap_gs(),
            Treatment::ReadBase => self.read_base(&step.insn),
            Treatment::WriteBase => self.write_base(step),
            Treatment::ReadControl => self.read_control(&step.insn),
            Treatment::ReadTsc => self.read_tsc(step),
            Treatment::Serialize => self.serialize(),
            Treatment::Gate => self.gate(step),
            Treatment::BitString => self.bit_string(step),
            Treatment::Prefetch => self.prefetch(&step.insn),
            Treatment::String => self.string(step),
            Treatment::RepString => self.rep_string(step),
            Treatment::Interp => self.interp(&step.insn),
        }
    }

    /// Leaves `insn` to the interpreter and ends the path.
    fn interp(&mut self, insn: &Instruction) {
        self.flags_for_link();
        let id = self.number(insn);
        self.hot.gs_store_imm(self.l.exit_site(), id);
        let at = self.hot.jmp();
        self.hot_to_stub(at, self.exit(ExitKind::Interp));
    }

    /// Points `jumps` at a cold path on which the interpreter executes `insn`.
    fn interp_from(&mut self, insn: &Instruction, jumps: &[usize]) {
        for at in jumps {
            self.hot_to_cold(*at);
        }
        let id = self.number(insn);
        self.follow_recipe_cold();
        self.cold.gs_store_imm(self.l.exit_site(), id);
        let out = self.cold.jmp();
        self.cold_to_stub(out, self.exit(ExitKind::Interp));
    }

    /// Number by which an exit names `insn`.
    fn number(&mut self, insn: &Instruction) -> u32 {
        let id = self.to.first_exit + self.out.exits.len() as u32;
        self.out.exits.push(*insn);
        id
    }

    fn hot_to_stub(&mut self, at: usize, stub: usize) {
        self.hot.link_abs(at, self.to.hot, stub);
    }

    fn cold_to_stub(&mut self, at: usize, stub: usize) {
        self.cold.link_abs(at, self.to.cold, stub);
    }

    /// Points a hot displacement at the cold stream's end.
    fn hot_to_cold(&mut self, at: usize) {
        let target = self.to.cold + self.cold.len();
        self.hot.link_abs(at, self.to.hot, target);
    }

    /// Points a cold displacement at a hot offset.
    fn cold_to_hot(&mut self, at: usize, hot: usize) {
        let target = self.to.hot + hot;
        self.cold.link_abs(at, self.to.cold, target);
    }

    /// Makes sure the guest's vector state is in the host's registers, and leaves
    /// the host's flags alone if they are `needed`.
    fn load_vector(&mut self, needed: bool) {
        let l = self.l;
        if !needed {
            self.hot.gs_cmp_imm8(l.vec_loaded(), 0);
            let at = self.hot.jcc(crate::asm::cc::E);
            self.hot_to_cold(at);
            let call = self.cold.call();
            self.cold_to_stub(call, self.stubs.load_vector);
            let back = self.cold.jmp();
            let here = self.hot.len();
            self.cold_to_hot(back, here);
            return;
        }
        let mov = crate::asm::op::MOV;
        self.hot.rr(true, mov, T2, 1);
        self.hot.gs(false, mov, 1, l.vec_loaded());
        let need = self.hot.jrcxz(true);
        self.hot.rr(true, mov, 1, T2);
        let over = self.hot.jmp();
        self.hot.land8(need);
        self.hot.rr(true, mov, 1, T2);
        let call = self.hot.call();
        self.hot_to_stub(call, self.stubs.load_vector);
        self.hot.land(over);
    }

    /// Remembers a copied instruction that may raise a host exception.
    fn note_fault_site(&mut self, insn: &Instruction) {
        if may_raise(insn) {
            self.out.faults.push(Site {
                at: (self.to.hot + self.hot.len()) as u32,
                flags_in_slot: (self.flags == Kept::Slot).into(),
                memory: crate::block::has_memory(insn).into(),
                rip: insn.ip(),
            });
        }
    }
}

/// `reg` = the linear address that the block's decoder called `value`, of 64 or
/// of 32 bits. Leaves flags alone.
fn linear(a: &mut Asm, l: &Layout, mapping: Mapping, reg: u8, wide: bool, value: u64) {
    if mapping != Mapping::Anywhere {
        return a.mov_imm(reg, if wide { value } else { value & 0xffff_ffff });
    }
    let offset = relative(wide, value);
    let first = offset.clamp(i32::MIN.into(), i32::MAX.into()) as i32;
    let rest = (offset - i64::from(first)) as i32;
    a.gs(true, crate::asm::op::MOV, reg, l.page());
    a.mem(wide, crate::asm::op::LEA, reg, reg, None, first);
    if rest != 0 {
        a.mem(wide, crate::asm::op::LEA, reg, reg, None, rest);
    }
}

/// A decoder's address as a distance from the start of the page.
fn relative(wide: bool, value: u64) -> i64 {
    if wide {
        value.cast_signed()
    } else {
        i64::from(value as i32)
    }
}
