//! What AMD's processors do otherwise than Intel's, which the engine follows:
//! on such a host these are not compared with it. Each was seen on family 26;
//! the manuals allow both where they say anything.

use crate::case::{Case, Outcome};
use iced_x86::{Code, Mnemonic as M};
use std::sync::OnceLock;
use x86::vector;

/// The host is one.
fn host() -> bool {
    static IS: OnceLock<bool> = OnceLock::new();
    *IS.get_or_init(jit::native::host_is_amd)
}

/// Such a processor does something else with `code`.
pub fn other(code: Code) -> bool {
    host() && (OTHER.contains(&code) || FAMILIES.contains(&code.mnemonic()))
}

const OTHER: [Code; 16] = [
    // Four bytes are written, and the upper two are zero.
    Code::Pushd_ES,
    Code::Pushd_CS,
    Code::Pushd_SS,
    Code::Pushd_DS,
    Code::Pushd_FS,
    Code::Pushd_GS,
    // The form with a register is undefined.
    Code::Reservednop_rm16_r16_0F0D,
    Code::Reservednop_rm32_r32_0F0D,
    Code::Reservednop_rm64_r64_0F0D,
    // A count above the operand's size: the result is undefined.
    Code::Shld_rm16_r16_imm8,
    Code::Shld_rm16_r16_CL,
    Code::Shrd_rm16_r16_imm8,
    Code::Shrd_rm16_r16_CL,
    // A target that is not canonical faults before the push.
    Code::Call_rm64,
    // The other operand's fault comes first.
    Code::Cmpsw_m16_m16,
    Code::Cmpsq_m64_m64,
];

const FAMILIES: [M; 15] = [
    // A fault leaves the mask as it was, without widening its signs.
    M::Vgatherdps,
    M::Vgatherdpd,
    M::Vgatherqps,
    M::Vgatherqpd,
    M::Vpgatherdd,
    M::Vpgatherdq,
    M::Vpgatherqd,
    M::Vpgatherqq,
    // An operand in memory need not be aligned.
    M::Sha1msg1,
    M::Sha1msg2,
    M::Sha1nexte,
    M::Sha1rnds4,
    M::Sha256msg1,
    M::Sha256msg2,
    M::Sha256rnds2,
];

/// Alignment is checked for operands of 16 bytes and more that need none.
pub fn checks_alignment(case: &Case, outcome: &Outcome) -> bool {
    let checked = outcome.fault.is_some_and(|f| f.vector == vector::AC);
    host() && checked && case.insn.memory_size().size() >= 16
}

/// The image has these parts only while an exception is pending, and the kernel
/// that saves it leaves out the selectors.
pub fn leaves_out(part: &str) -> bool {
    host() && matches!(part, "FOP" | "FIP" | "FDP")
}
