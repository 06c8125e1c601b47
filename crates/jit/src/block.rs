//! Decoding a block and the liveness of flags in it.

use crate::classify::{
    Allowed, Copyable, Treatment, Vector, may_raise, normalise, treatment, vector_class,
};
use crate::windows::Check;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, RflagsBits};
use x86::flags;

const PAGE_SIZE: usize = x86::paging::PAGE_SIZE as usize;

/// Longest block in instructions. Longer ones gain nothing (measured by the
/// design's prototype) and delay the first execution.
pub const MAX_INSTRUCTIONS: usize = 96;

/// One decoded instruction with what the translator must know of it.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// The instruction; its IP is the guest linear address.
    pub insn: Instruction,
    /// How it is translated.
    pub treatment: Treatment,
    /// Arithmetic flags that must be right before it: those that are read later,
    /// or all where the block may be left, since the guest then sees them.
    pub live_in: u64,
    /// Those that its copy needs in the host's register: it reads them, or
    /// leaves them as they are for others.
    pub needed: u64,
    /// How its access is checked.
    pub check: Check,
}

/// A block: a run of instructions inside one page. It ends with an
/// unconditional transfer, an instruction for the interpreter, the end of the
/// page or the length limit. An instruction that runs over the page's end is a
/// block of its own.
#[derive(Debug, Default)]
pub struct Block {
    /// The instructions.
    pub steps: Vec<Step>,
    /// Linear address of the first one.
    pub start: u64,
    /// Linear address after the last one.
    pub end: u64,
    /// Some step uses vector or x87 registers.
    pub vector: bool,
    /// Some step is an x87 instruction, whose address the x87 remembers.
    pub x87: bool,
}

/// What decoding needs besides the bytes.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The whole guest page, or two of them for an instruction in both.
    pub page: &'a [u8],
    /// Linear address of its first byte.
    pub base: u64,
    /// Instructions that may be copied.
    pub copyable: &'a Copyable,
    /// Register files in use.
    pub allowed: Allowed,
    /// Longest block in instructions.
    pub most: usize,
    /// The VM has one vCPU, so that LOCK has nobody to lock out: no device changes
    /// by parts what a guest does. What is there for order only keeps the prefix,
    /// since devices do look.
    pub alone: bool,
    /// Offsets in pages of instructions that are the interpreter's, whatever they
    /// are: a debugger's breakpoints.
    pub stops: &'a [u16],
}

impl Source<'_> {
    fn decoder(&self, start: usize, rip: u64) -> Decoder<'_> {
        let bitness = if self.allowed.wide { 64 } else { 32 };
        Decoder::with_ip(bitness, &self.page[start..], rip, DecoderOptions::NONE)
    }

    fn stops_at(&self, insn: &Instruction) -> bool {
        let offset = insn.ip() as usize % PAGE_SIZE;
        self.stops.iter().any(|stop| usize::from(*stop) == offset)
    }

    /// Longest block in instructions.
    fn limit(&self) -> usize {
        if self.page.len() > PAGE_SIZE {
            1
        } else {
            self.most
        }
    }
}

/// True if the instruction that begins with `bytes`, the last ones of a page,
/// runs on into the next.
pub fn runs_over(bytes: &[u8], wide: bool) -> bool {
    let bitness = if wide { 64 } else { 32 };
    let mut decoder = Decoder::new(bitness, bytes, DecoderOptions::NONE);
    decoder.decode().is_invalid() && decoder.last_error() == iced_x86::DecoderError::NoMoreBytes
}

impl Block {
    /// Decodes the block at `rip`. Empty if the first instruction does not end
    /// in the bytes given.
    pub fn decode(source: &Source<'_>, rip: u64) -> Self {
        let mut block = Self::default();
        block.decode_again(source, rip);
        block
    }

    /// The same in place of another block, whose buffer it uses.
    pub fn decode_again(&mut self, source: &Source<'_>, rip: u64) {
        self.steps.clear();
        (self.vector, self.x87) = (false, false);
        let start = (rip - source.base) as usize;
        let mut decoder = source.decoder(start, rip);
        (self.start, self.end) = (rip, rip);
        self.decode_run(&mut decoder, source);
    }

    fn decode_run(&mut self, decoder: &mut Decoder<'_>, source: &Source<'_>) {
        while self.steps.len() < source.limit() && decoder.can_decode() {
            let mut insn = decoder.decode();
            normalise(&mut insn);
            if source.alone && insn.has_lock_prefix() && !orders_only(&insn) {
                insn.set_has_lock_prefix(false);
            }
            if decoder.last_error() == iced_x86::DecoderError::NoMoreBytes {
                break; // needs the next page, too
            }
            let treatment = match source.stops_at(&insn) {
                true => Treatment::Interp,
                false => treatment(&insn, source.copyable, source.allowed),
            };
            if treatment == Treatment::Copy {
                let class = vector_class(&insn);
                self.vector |= class != Vector::None;
                self.x87 |= class == Vector::X87;
            }
            self.end = insn.next_ip();
            self.steps.push(Step {
                insn,
                treatment,
                live_in: flags::ARITH,
                needed: flags::ARITH,
                check: Check::Alone,
            });
            if treatment.ends_block() {
                break;
            }
        }
    }

    /// Backward pass over the block. Whatever comes after it sees all flags.
    pub fn find_live(&mut self) {
        let mut live = flags::ARITH;
        for step in self.steps.iter_mut().rev() {
            let (read, kill) = effect(&step.insn);
            step.needed = live & !kill | read;
            live = if step.is_quiet() {
                step.needed
            } else {
                flags::ARITH
            };
            step.live_in = live;
        }
    }
}

impl Step {
    /// Another step's check covers its access.
    pub fn is_covered(&self) -> bool {
        matches!(self.check, Check::Covered { .. })
    }

    /// Its access is checked, which clobbers the host's flags and may leave the
    /// block. Of what always does something else besides, this says nothing.
    pub(crate) fn is_checked(&self) -> bool {
        use Treatment as T;
        match self.treatment {
            T::ReadSelector => has_memory(&self.insn),
            T::Copy => has_memory(&self.insn) && !self.is_covered(),
            T::Push | T::Pop | T::Leave => !self.is_covered(),
            _ => false,
        }
    }

    /// Execution surely goes on behind the instruction, so that nobody sees the
    /// flags before it but what follows.
    fn is_quiet(&self) -> bool {
        use Treatment as T;
        match self.treatment {
            T::Nothing | T::Lea | T::Cli | T::Direction => true,
            T::SwapGs | T::ReadBase | T::ReadControl | T::ReadTsc | T::Serialize => true,
            T::Copy => !self.is_checked() && !may_raise(&self.insn),
            T::ReadSelector | T::Push | T::Pop | T::Leave => !self.is_checked(),
            _ => false,
        }
    }
}

/// The instruction changes nothing: LOCK makes it a fence.
fn orders_only(insn: &Instruction) -> bool {
    let last = insn.op_count().saturating_sub(1);
    let nothing = match insn.mnemonic() {
        Mnemonic::Add | Mnemonic::Sub | Mnemonic::Or | Mnemonic::Xor => 0,
        Mnemonic::And => u64::MAX,
        _ => return false,
    };
    let immediate = insn.try_immediate(last);
    immediate.is_ok_and(|by| by == nothing)
}

/// An operand of the instruction is in memory.
pub fn has_memory(insn: &Instruction) -> bool {
    (0..insn.op_count()).any(|i| insn.op_kind(i) == OpKind::Memory)
}

/// Arithmetic flags an instruction reads, and those it surely overwrites.
fn effect(insn: &Instruction) -> (u64, u64) {
    let read = arith(insn.rflags_read());
    let kill = arith(insn.rflags_modified());
    if may_leave_flags(insn) {
        (read, 0)
    } else if writes_undefined(insn.mnemonic()) {
        (read, kill)
    } else {
        (read, kill & !arith(insn.rflags_undefined()))
    }
}

/// Processors give the flags that these leave undefined a value of the result;
/// other instructions leave undefined flags as they were.
fn writes_undefined(m: Mnemonic) -> bool {
    matches!(
        m,
        Mnemonic::And
            | Mnemonic::Or
            | Mnemonic::Xor
            | Mnemonic::Test
            | Mnemonic::Mul
            | Mnemonic::Imul
            | Mnemonic::Shl
            | Mnemonic::Sal
            | Mnemonic::Shr
            | Mnemonic::Sar
    )
}

/// Shifts by a zero count and repeated compares of nothing change no flag.
fn may_leave_flags(insn: &Instruction) -> bool {
    if insn.is_string_instruction() {
        return true;
    }
    let shift = matches!(
        insn.mnemonic(),
        Mnemonic::Shl
            | Mnemonic::Shr
            | Mnemonic::Sar
            | Mnemonic::Sal
            | Mnemonic::Rol
            | Mnemonic::Ror
            | Mnemonic::Rcl
            | Mnemonic::Rcr
            | Mnemonic::Shld
            | Mnemonic::Shrd
    );
    if !shift {
        return false;
    }
    let last = insn.op_count() - 1;
    match insn.op_kind(last) {
        OpKind::Immediate8 => {
            let wide = insn.op0_register().size() == 8 || insn.memory_size().size() == 8;
            insn.immediate8() & if wide { 0x3f } else { 0x1f } == 0
        }
        _ => true,
    }
}

/// The decoder's names of arithmetic flags as RFLAGS has them.
fn arith(bits: u32) -> u64 {
    const TABLE: [u64; 64] = {
        let mut table = [0; 64];
        let mut bits = 0;
        while bits < 64 {
            table[bits] = arith_by_bit(bits as u32);
            bits += 1;
        }
        table
    };
    TABLE[(bits & 63) as usize]
}

const fn arith_by_bit(bits: u32) -> u64 {
    let map = [
        (RflagsBits::CF, flags::CF),
        (RflagsBits::PF, flags::PF),
        (RflagsBits::AF, flags::AF),
        (RflagsBits::ZF, flags::ZF),
        (RflagsBits::SF, flags::SF),
        (RflagsBits::OF, flags::OF),
    ];
    let (mut sum, mut i) = (0, 0);
    while i < map.len() {
        assert!(map[i].0 < 64);
        if bits & map[i].0 != 0 {
            sum |= map[i].1;
        }
        i += 1;
    }
    sum
}
