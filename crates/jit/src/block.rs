//! Decoding a block and the liveness of flags in it.

use crate::classify::{Allowed, Copyable, Treatment, Vector, normalise, treatment, vector_class};
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
    /// Arithmetic flags that someone may still read before the instruction.
    pub live_in: u64,
    /// The same after it, on the fall-through path.
    pub live_out: u64,
    /// For a direct jump: flags its target may read.
    pub live_target: u64,
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
}

impl Source<'_> {
    fn decoder(&self, start: usize, rip: u64) -> Decoder<'_> {
        let bitness = if self.allowed.wide { 64 } else { 32 };
        Decoder::with_ip(bitness, &self.page[start..], rip, DecoderOptions::NONE)
    }

    /// Longest block in instructions.
    fn limit(&self) -> usize {
        if self.page.len() > PAGE_SIZE {
            1
        } else {
            MAX_INSTRUCTIONS
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
        block.fill(source, rip);
        block.find_live(source);
        block
    }

    fn fill(&mut self, source: &Source<'_>, rip: u64) {
        let start = (rip - source.base) as usize;
        let mut decoder = source.decoder(start, rip);
        (self.start, self.end) = (rip, rip);
        self.decode_run(&mut decoder, source);
    }

    fn decode_run(&mut self, decoder: &mut Decoder<'_>, source: &Source<'_>) {
        while self.steps.len() < source.limit() && decoder.can_decode() {
            let mut insn = decoder.decode();
            normalise(&mut insn);
            if decoder.last_error() == iced_x86::DecoderError::NoMoreBytes {
                break; // needs the next page, too
            }
            let treatment = treatment(&insn, source.copyable, source.allowed);
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
                live_out: flags::ARITH,
                live_target: flags::ARITH,
            });
            if treatment.ends_block() {
                break;
            }
        }
    }

    /// Backward pass over the block; what lies beyond a direct jump inside
    /// the page is looked at a few instructions deep.
    fn find_live(&mut self, source: &Source<'_>) {
        let mut live = match self.steps.last() {
            Some(s) if s.treatment == Treatment::Jump => 0, // set from its target
            Some(s) if s.treatment.ends_block() => flags::ARITH,
            _ => live_at(source, self.end),
        };
        for step in self.steps.iter_mut().rev() {
            step.live_out = live;
            if matches!(step.treatment, Treatment::Jcc | Treatment::Jump) {
                step.live_target = live_at(source, step.insn.near_branch_target());
                live |= step.live_target;
            }
            if matches!(step.treatment, Treatment::Interp | Treatment::RepString) {
                live = flags::ARITH;
            } else {
                let (read, kill) = effect(&step.insn);
                live = (live & !kill) | read;
            }
            step.live_in = live;
        }
    }
}

/// Instructions looked at beyond a jump.
const PEEK: usize = 5;

/// Flags that the code at `rip` may read before writing them; all of them if
/// that is unknown.
fn live_at(source: &Source<'_>, rip: u64) -> u64 {
    let Some(start) = rip
        .checked_sub(source.base)
        .filter(|o| *o < source.page.len() as u64)
    else {
        return flags::ARITH;
    };
    let mut decoder = source.decoder(start as usize, rip);
    let mut unknown = flags::ARITH;
    let mut read = 0;
    for _ in 0..PEEK {
        if !decoder.can_decode() {
            break;
        }
        let insn = decoder.decode();
        if insn.flow_control() != iced_x86::FlowControl::Next {
            break;
        }
        let (r, k) = effect(&insn);
        read |= r & unknown;
        unknown &= !k;
        if unknown == 0 {
            return read;
        }
    }
    read | unknown
}

/// Arithmetic flags an instruction reads, and those it surely overwrites.
pub fn effect(insn: &Instruction) -> (u64, u64) {
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

fn arith(bits: u32) -> u64 {
    let map = [
        (RflagsBits::CF, flags::CF),
        (RflagsBits::PF, flags::PF),
        (RflagsBits::AF, flags::AF),
        (RflagsBits::ZF, flags::ZF),
        (RflagsBits::SF, flags::SF),
        (RflagsBits::OF, flags::OF),
    ];
    map.iter()
        .filter(|(b, _)| bits & b != 0)
        .map(|(_, f)| f)
        .sum()
}
