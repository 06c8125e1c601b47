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
mod fault;
mod fpstate;
mod interrupt;
mod irqchip;
mod mmio;
mod offered;
mod pio;
mod regs;
mod segment;
mod slots;
mod syscall;
mod task;
mod tlb;

use super::guest::{Guest, Mode};
use super::{Case, Failure};
use crate::Hypervisor;

/// Every group's cases.
pub static GROUPS: &[&[Case]] = &[
    pio::CASES,
    mmio::CASES,
    fault::CASES,
    delivery::CASES,
    slots::CASES,
    regs::CASES,
    tlb::CASES,
    interrupt::CASES,
    irqchip::CASES,
    debug::CASES,
    code::CASES,
    branch::CASES,
    syscall::CASES,
    control::CASES,
    fpstate::CASES,
    offered::CASES,
    segment::CASES,
    task::CASES,
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
