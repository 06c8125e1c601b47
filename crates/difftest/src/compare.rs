//! What must agree between two outcomes.

use iced_x86::{Instruction, Mnemonic, OpKind, Register, RflagsBits};
use x86::{flags, vector};

use crate::amd;
use crate::case::{Case, Outcome};
use crate::layout::DATA;

/// Differences between the host's outcome and another's, one line each; empty
/// if they agree.
pub fn differences(case: &Case, host: &Outcome, other: &Outcome) -> Vec<String> {
    let mut out = Vec::new();
    if may_suppress(case, host, other) || amd::checks_alignment(case, host) {
        return out;
    }
    if fault_key(case, host) != fault_key(case, other) {
        out.push(format!(
            "fault: {:x?} instead of {:x?}",
            other.fault, host.fault
        ));
    }
    // POPA has loaded some registers when a later one faults; RSP is intact.
    let partial =
        host.fault.is_some() && matches!(case.insn.mnemonic(), Mnemonic::Popa | Mnemonic::Popad);
    for (i, (a, b)) in host.gpr.iter().zip(&other.gpr).enumerate() {
        if a != b && (!partial || i == 4) {
            let name = Register::RAX + i as u32;
            out.push(format!(
                "{name:?}: {b:#x} instead of {a:#x} (was {:#x})",
                case.gpr[i]
            ));
        }
    }
    if host.rip != other.rip {
        out.push(format!("RIP: {:#x} instead of {:#x}", other.rip, host.rip));
    }
    let undefined = if host.fault.is_some() {
        // Stepping through REP CMPS, the host writes the flags at the end only.
        if case.insn.is_string_instruction() {
            flags::ARITH
        } else {
            0
        }
    } else {
        undefined_flags(case)
    };
    let changed = (host.rflags ^ other.rflags) & !undefined & !flags::RF;
    if changed != 0 {
        out.push(format!(
            "RFLAGS: {:#x} instead of {:#x}, wrong bits {changed:#x} (was {:#x})",
            other.rflags, host.rflags, case.rflags
        ));
    }
    // FBSTP stores its ten bytes in two pieces; the first may be out already.
    let piecewise = case.insn.mnemonic() == Mnemonic::Fbstp && host.fault.is_some();
    if !piecewise
        && host.mem != other.mem
        && let Some(at) = host.mem.iter().zip(&other.mem).position(|(a, b)| a != b)
    {
        let line = |m: &[u8]| format!("{:02x?}", &m[at..(at + 16).min(m.len())]);
        out.push(format!(
            "memory at {:#x}: {} instead of {}",
            DATA + at as u64,
            line(&other.mem),
            line(&host.mem)
        ));
    }
    vector_state(case, host, other, &mut out);
    out
}

/// The part of a fault that must agree. The P bit of a page fault's error code
/// depends on whether the host kernel has a page-table entry.
fn fault_key(case: &Case, o: &Outcome) -> Option<(u8, Option<u32>, u64)> {
    o.fault.map(|f| match f.vector {
        vector::PF => (
            f.vector,
            f.error.map(|e| e & 6),
            page_fault_address(case, f.payload),
        ),
        _ => (f.vector, f.error, 0),
    })
}

/// CR2 is exact but for instructions that access their operand in pieces of a
/// size and order that no manual gives: there it is exact to the page.
fn page_fault_address(case: &Case, la: u64) -> u64 {
    use Mnemonic as M;
    let masked = case.insn.op_mask() != Register::None;
    let pieces = matches!(
        case.insn.mnemonic(),
        M::Fnsave
            | M::Fnstenv
            | M::Frstor
            | M::Fldenv
            | M::Fbld
            | M::Fbstp
            | M::Fld
            | M::Fstp
            | M::Vmaskmovps
            | M::Vmaskmovpd
            | M::Vpmaskmovd
            | M::Vpmaskmovq
    );
    // MASKMOVDQU may report the second page although the first faults as well.
    if matches!(
        case.insn.mnemonic(),
        M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu
    ) {
        return 0;
    }
    if pieces || masked { la & !0xfff } else { la }
}

/// Whether disabled bytes fault is left to the processor for MASKMOVDQU (SDM
/// vol 2).
fn may_suppress(case: &Case, host: &Outcome, other: &Outcome) -> bool {
    use Mnemonic as M;
    let left_open = matches!(
        case.insn.mnemonic(),
        M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu
    );
    left_open && host.fault.is_some() && other.fault.is_none()
}

/// A store that faults has already set TOP to 0 (MMX) or the sticky exception
/// flags (SSE) on some CPUs; restarting the instruction sets them again.
fn early_effect(case: &Case, host: &Outcome, part: &str) -> bool {
    let faulted = host
        .fault
        .is_some_and(|f| f.vector != vector::XM && f.vector != vector::MF);
    let mmx = (0..case.insn.op_count()).any(|i| case.insn.op_register(i).is_mm());
    faulted
        && (part == "MXCSR" || mmx && matches!(part, "FCW, FSW" | "FTW" | "FOP" | "x87 registers"))
}

fn vector_state(case: &Case, host: &Outcome, other: &Outcome, out: &mut Vec<String>) {
    let l = crate::state::layout();
    let parts: [(&str, std::ops::Range<usize>); 12] = [
        ("FCW, FSW", 0..4),
        ("FTW", 4..6),
        ("FOP", 6..8),
        ("FIP", 8..16),
        ("FDP", 16..24),
        ("MXCSR", 24..28),
        ("x87 registers", 32..160),
        ("XMM", 160..416),
        ("YMM", l.avx..l.avx + 256),
        ("opmask", l.opmask..l.opmask + 64),
        ("ZMM0 to 15", l.zmm_hi256..l.zmm_hi256 + 512),
        ("ZMM16 to 31", l.hi16_zmm..l.hi16_zmm + 1024),
    ];
    let (a, b) = (&host.xsave.0, &other.xsave.0);
    for (name, range) in parts {
        if a[range.clone()] == b[range.clone()]
            || early_effect(case, host, name)
            || amd::leaves_out(name)
        {
            continue;
        }
        if let Some(at) = range.clone().find(|&i| a[i] != b[i]) {
            let at = at & !7;
            let end = (at + 8).min(range.end);
            out.push(format!(
                "{name} at image offset {at}: {:02x?} instead of {:02x?}",
                &b[at..end],
                &a[at..end]
            ));
        }
    }
}

/// RFLAGS bits that the SDM leaves undefined after the instruction.
pub fn undefined_flags(case: &Case) -> u64 {
    let insn = &case.insn;
    if let Some(bits) = shift_undefined(insn, case.gpr[1]) {
        return bits;
    }
    let u = insn.rflags_undefined();
    [
        (RflagsBits::OF, flags::OF),
        (RflagsBits::SF, flags::SF),
        (RflagsBits::ZF, flags::ZF),
        (RflagsBits::AF, flags::AF),
        (RflagsBits::CF, flags::CF),
        (RflagsBits::PF, flags::PF),
    ]
    .into_iter()
    .filter(|(bit, _)| u & bit != 0)
    .fold(0, |all, (_, flag)| all | flag)
}

/// Shifts and rotates: what is undefined depends on the count (SDM vol 2,
/// RCL/SAL/SHLD).
fn shift_undefined(insn: &Instruction, rcx: u64) -> Option<u64> {
    use Mnemonic as M;
    let rotate = matches!(insn.mnemonic(), M::Rcl | M::Rcr | M::Rol | M::Ror);
    let double = matches!(insn.mnemonic(), M::Shld | M::Shrd);
    if !rotate && !double && !matches!(insn.mnemonic(), M::Shl | M::Sal | M::Shr | M::Sar) {
        return None;
    }
    let last = insn.op_count() - 1;
    let count = match insn.op_kind(last) {
        OpKind::Immediate8 => u64::from(insn.immediate8()),
        _ => rcx & 0xff,
    };
    let size = match insn.op0_kind() {
        OpKind::Memory => insn.memory_size().size(),
        _ => insn.op0_register().size(),
    } as u64;
    let count = count & if size == 8 { 63 } else { 31 };
    let mut bits = 0;
    if count > 1 {
        bits |= flags::OF;
    }
    if count > 0 && !rotate {
        bits |= flags::AF;
    }
    if double && count > size * 8 {
        bits |= flags::ARITH;
    }
    if !rotate && !double && count >= size * 8 && insn.mnemonic() != M::Sar {
        bits |= flags::CF;
    }
    Some(bits)
}
