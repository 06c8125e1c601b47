//! The table of cases, one file a group.

/// Declares a group's table: name of the function, source of its expectation.
macro_rules! group {
    ($group:literal: $($name:ident $manual:literal),* $(,)?) => {
        pub static CASES: &[crate::conformance::Case] = &[$(
            crate::conformance::Case {
                name: stringify!($name),
                group: $group,
                manual: $manual,
                run: $name,
            }
        ),*];
    };
}

mod branch;
mod code;
mod control;
mod debug;
mod delivery;
mod escape;
mod far;
mod fault;
mod fpstate;
mod images;
mod interrupt;
mod irqchip;
mod masks;
mod mmio;
mod neighbours;
mod offered;
mod pio;
mod places;
mod privilege;
mod processor;
mod refusals;
mod regs;
mod remap;
mod segment;
mod slots;
mod smp;
mod strings;
mod syscall;
mod tables;
mod task;
mod tlb;

use super::guest::{Guest, Mode};
use super::{Case, Failure};
use crate::Hypervisor;
use iced_x86::{Code, IcedError, Instruction, MemoryOperand, Register};

/// Every group's cases.
pub static GROUPS: &[&[Case]] = &[
    pio::CASES,
    mmio::CASES,
    fault::CASES,
    delivery::CASES,
    refusals::CASES,
    slots::CASES,
    smp::CASES,
    regs::CASES,
    tlb::CASES,
    interrupt::CASES,
    irqchip::CASES,
    debug::CASES,
    code::CASES,
    branch::CASES,
    strings::CASES,
    syscall::CASES,
    privilege::CASES,
    control::CASES,
    fpstate::CASES,
    offered::CASES,
    segment::CASES,
    task::CASES,
    far::CASES,
    tables::CASES,
    images::CASES,
    masks::CASES,
    neighbours::CASES,
    processor::CASES,
    remap::CASES,
    places::CASES,
    escape::CASES,
];

/// Runs a check in each of several modes, naming the modes that fail.
fn in_modes(
    hv: &dyn Hypervisor,
    modes: &[Mode],
    check: impl Fn(&mut Guest) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut wrong = Vec::new();
    for mode in modes {
        match Guest::new(hv, *mode).and_then(|mut guest| check(&mut guest)) {
            Err(Failure::Wrong(why)) => wrong.push(format!("{mode:?}: {why}")),
            other => other?,
        }
    }
    if !wrong.is_empty() {
        return Err(Failure::Wrong(wrong.join("; ")));
    }
    Ok(())
}

/// An instruction of exactly this code, without operands.
fn bare(code: Code) -> Instruction {
    Instruction::with(code)
}

/// An instruction of exactly this code with a register operand.
fn on(code: Code, register: Register) -> Result<Instruction, IcedError> {
    Instruction::with1(code, register)
}

/// An instruction of exactly this code with a memory operand at `offset`, in
/// the address size of code of `bits`.
fn at(code: Code, bits: u32, offset: u64) -> Result<Instruction, IcedError> {
    Instruction::with1(code, absolute(bits, offset))
}

/// A memory operand without registers.
fn absolute(bits: u32, offset: u64) -> MemoryOperand {
    MemoryOperand::with_displ(offset, bits / 8)
}
