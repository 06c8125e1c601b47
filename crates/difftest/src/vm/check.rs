//! Compares blocks with the host CPU.

use super::block::Block;
use crate::case::{Case, Executor, Outcome};
use crate::compare::differences;
use iced_x86::{Instruction, Register};
use x86::vector;

/// The x87's last opcode in the image.
const FOP: std::ops::Range<usize> = 6..8;

/// The address of its last operand.
const FDP: std::ops::Range<usize> = 16..24;

/// What differs between the host and `other` on `block`; empty if nothing does
/// or the block is not encodable.
pub fn compare(block: &Block, host: &mut dyn Executor, other: &mut dyn Executor) -> Vec<String> {
    let Some((mut case, insns)) = block.case() else {
        return Vec::new();
    };
    let Some(undefined) = block.undefined() else {
        return Vec::new();
    };
    let mut a = host.run(&case);
    let mut b = other.run(&case);
    let end = [&mut a, &mut b].map(normalise);
    for o in [&mut a, &mut b] {
        // The last opcode names the registers of the copy; the operand's
        // address is linear here and an offset there.
        o.xsave.0[FOP].fill(0);
        if insns.iter().any(|i| i.segment_prefix() == Register::GS) {
            o.xsave.0[FDP].fill(0);
        }
        o.rflags &= !undefined;
    }
    if !end[0] {
        blame(&mut case, &insns, &a);
    }
    differences(&case, &a, &b)
}

/// INT3 is the normal end; true if the block came to it.
fn normalise(o: &mut Outcome) -> bool {
    let end = o.fault.is_some_and(|f| f.vector == vector::BP);
    if end {
        o.fault = None;
    }
    end
}

/// The instruction that faults decides what is left to the processor.
fn blame(case: &mut Case, insns: &[Instruction], faulted: &Outcome) {
    if let Some(insn) = insns.iter().find(|i| i.ip() == faulted.rip) {
        case.insn = *insn;
    }
}

/// The smallest block found, by leaving out instructions, that still differs.
pub fn shrink(block: Block, host: &mut dyn Executor, other: &mut dyn Executor) -> Block {
    let mut best = block;
    let mut i = best.items.len();
    while i > 0 {
        i -= 1;
        let candidate = best.without(i);
        if !compare(&candidate, host, other).is_empty() {
            best = candidate;
            i = i.min(best.items.len());
        }
    }
    best
}
