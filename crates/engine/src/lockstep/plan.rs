//! What a block consists of, and the rehearsal of it.
#![allow(unsafe_code, reason = "reads host pages of guest RAM")]

use super::overlay::Overlay;
use super::shadow::Shadow;
use crate::translated::mode_of;
use iced_x86::{Decoder, DecoderOptions, Instruction, OpKind};
use isa::Stop;
use jit::block::{Block, Source};
use jit::classify::{Copyable, Treatment};
use std::cell::RefCell;
use x86::paging::{PAGE_MASK, PAGE_SIZE};
use x86::{CpuState, Exception, gpr};

/// One instruction of the block.
#[derive(Clone, Copy)]
pub struct Step {
    /// As the guest's bytes say, not as the translator simplified it.
    pub insn: Instruction,
    /// The translation leaves it to the interpreter.
    left: bool,
}

/// A block.
pub struct Plan {
    /// Its instructions.
    pub steps: Vec<Step>,
    /// It uses vector or x87 registers.
    pub vector: bool,
    /// The bytes it was decoded from.
    bytes: Vec<u8>,
}

impl Plan {
    /// Decodes the block at RIP, whose page is `page` (or pages), as the
    /// translator does, which makes blocks of at most `most` instructions.
    pub fn new(cpu: &CpuState, page: &[u8], copyable: &Copyable, most: usize) -> Self {
        let (_, _, allowed) = mode_of(cpu);
        let base = cpu.rip & !PAGE_MASK;
        let source = Source {
            page,
            base,
            copyable,
            allowed,
            most,
            alone: true,
            stops: &[],
        };
        let block = Block::decode(&source, cpu.rip);
        let steps = block.steps.iter().map(|s| {
            let ip = s.insn.ip();
            let bytes = &page[(ip - base) as usize..];
            let insn = Decoder::with_ip(cpu.bitness(), bytes, ip, DecoderOptions::NONE).decode();
            Step {
                insn,
                // A branch to an address that is not canonical is the
                // translation's where that may be mapped anywhere.
                left: s.treatment == Treatment::Interp && insn.op0_kind() != OpKind::NearBranch64,
            }
        });
        let start = (cpu.rip - base) as usize;
        let end = start + block.end.wrapping_sub(cpu.rip) as usize;
        Self {
            steps: steps.collect(),
            vector: block.vector,
            bytes: page[start..end].to_vec(),
        }
    }

    /// True if guest memory still holds the block; `host` is where it lies. A
    /// block in two pages lies elsewhere, too: that is not looked for.
    pub fn is_current(&self, host: u64) -> bool {
        if (host & PAGE_MASK) + self.bytes.len() as u64 > PAGE_SIZE {
            return false;
        }
        let mut chunk = [0; 64];
        let mut at = host;
        self.bytes.chunks(chunk.len()).all(|bytes| {
            let now = &mut chunk[..bytes.len()];
            // SAFETY: the block lies inside one page of a slot.
            unsafe { softmmu::host_read(at, now) };
            at += bytes.len() as u64;
            *now == *bytes
        })
    }

    /// True if it is the block at `rip`: one translation may run at several
    /// addresses.
    pub fn begins_at(&self, rip: u64) -> bool {
        self.steps.first().is_some_and(|s| s.insn.ip() == rip)
    }

    /// The instruction at `rip`.
    pub fn at(&self, rip: u64) -> Option<usize> {
        self.steps.iter().position(|s| s.insn.ip() == rip)
    }
}

/// How a rehearsal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All that was asked for was executed, or a jump left the block.
    Done,
    /// The next instruction is not the translation's: it is left to the
    /// interpreter, or touches a device.
    Left,
    /// The next instruction raises this.
    Fault(Exception),
}

/// A rehearsed run.
#[derive(Clone, Copy, Debug)]
pub struct Rehearsal {
    /// Instructions executed.
    pub done: usize,
    /// Why no more.
    pub end: End,
    /// The instruction that was not executed has left traces: iterations of a
    /// `rep`.
    pub torn: bool,
}

impl Rehearsal {
    fn done(done: usize) -> Self {
        Self {
            done,
            end: End::Done,
            torn: false,
        }
    }
}

/// Elements that a translated `rep` handles at most; with more it is left to
/// the interpreter.
const ELEMENTS: u64 = PAGE_SIZE;

/// Executes at most `limit` instructions of `plan` on `cpu`.
pub fn rehearse(
    plan: &Plan,
    limit: usize,
    cpu: &mut CpuState,
    shadow: &mut Shadow<'_>,
) -> Rehearsal {
    for (done, step) in plan.steps.iter().take(limit).enumerate() {
        let result = match step.left {
            true => Err(End::Left),
            false => execute(cpu, shadow, &step.insn),
        };
        if let Err(end) = result {
            let torn = repeats(&step.insn);
            return Rehearsal { done, end, torn };
        }
        let follows = plan.steps.get(done + 1).map(|s| s.insn.ip());
        if follows != Some(cpu.rip) {
            return Rehearsal::done(done + 1);
        }
    }
    Rehearsal::done(plan.steps.len().min(limit))
}

/// The instruction has iterations.
fn repeats(insn: &Instruction) -> bool {
    insn.is_string_instruction() && (insn.has_rep_prefix() || insn.has_repne_prefix())
}

/// One instruction, with all its iterations.
fn execute(cpu: &mut CpuState, shadow: &mut Shadow<'_>, insn: &Instruction) -> Result<(), End> {
    let repeated = repeats(insn);
    if repeated && cpu.gpr[gpr::RCX] > ELEMENTS {
        return Err(End::Left);
    }
    let (ip, before) = (cpu.rip, cpu.gpr);
    loop {
        let failed = match isa::execute_only(cpu, shadow, insn) {
            Ok(_) if repeated && cpu.rip == ip => continue,
            Ok(_) => return Ok(()),
            Err(Stop::Fault(e)) => End::Fault(e),
            Err(_) => End::Left,
        };
        // The translation leaves such a `rep` to the interpreter as a whole.
        cpu.gpr = before;
        return Err(failed);
    }
}

/// Makes the world of a rehearsal.
pub fn shadow<'a>(
    world: crate::world::World<'a>,
    overlay: &'a RefCell<&'a mut Overlay>,
) -> Shadow<'a> {
    Shadow {
        map: world.map,
        tlb: world.tlb,
        overlay,
        native: world.native,
        features: &world.local.features,
        walks: Vec::new(),
    }
}
