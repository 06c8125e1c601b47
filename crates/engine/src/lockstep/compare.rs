//! What must agree between a rehearsal and its translation.

use super::Lockstep;
use super::overlay::AD;
use super::plan::{End, Plan, Rehearsal};
use jit::ExitKind;
use std::ops::Range;
use x86::cpu::XsaveArea;
use x86::{CpuState, Exception, flags};

/// What a translation did, registers and memory aside.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// How it was left.
    pub kind: ExitKind,
    /// The exception it raised.
    pub fault: Option<Exception>,
    /// Where it left.
    pub rip: u64,
    /// To go on at this instruction without windows: nothing behind it was done.
    pub narrow: bool,
}

/// What differs.
pub enum What {
    /// A register or something else with a name.
    Named(String),
    /// Guest memory at this host address.
    Memory(u64),
}

/// One difference: what, the interpreter's and the translation's.
pub struct Difference {
    /// Register or address.
    pub what: What,
    /// By the interpreter.
    pub interpreted: String,
    /// By the translation.
    pub translated: String,
}

fn difference(what: &str, interpreted: String, translated: String) -> Difference {
    Difference {
        what: What::Named(what.to_owned()),
        interpreted,
        translated,
    }
}

fn hex(value: u64) -> String {
    format!("{value:#x}")
}

/// RFLAGS and the names of the arithmetic flags in it.
fn flag_text(value: u64) -> String {
    let names = [
        (flags::CF, "CF"),
        (flags::PF, "PF"),
        (flags::AF, "AF"),
        (flags::ZF, "ZF"),
        (flags::SF, "SF"),
        (flags::OF, "OF"),
    ];
    let set = names.iter().filter(|(bit, _)| value & bit != 0);
    set.fold(hex(value), |text, (_, name)| text + " " + name)
}

/// Names of the general registers by number.
pub const GPR: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

/// Everything that differs after `done` instructions; `None`: the translation
/// stands where the rehearsal did not come by.
pub fn differences(
    real: &CpuState,
    lockstep: &Lockstep,
    plan: &Plan,
    rehearsal: &Rehearsal,
    outcome: &Outcome,
    done: Option<usize>,
) -> Vec<Difference> {
    let rehearsed = &lockstep.rehearsed;
    let mut out = Vec::new();
    if done != Some(rehearsal.done) {
        let end = match rehearsal.end {
            End::Fault(e) => format!("{:#x}, {}", rehearsed.rip, fault_text(Some(e))),
            _ => hex(rehearsed.rip),
        };
        out.push(difference("rip", end, hex(real.rip)));
        return out;
    }
    if outcome.fault.is_some() {
        faults(rehearsal, outcome, &mut out);
    }
    let pairs = rehearsed.gpr.iter().zip(&real.gpr).zip(GPR);
    for ((a, b), name) in pairs.filter(|((a, b), _)| a != b) {
        out.push(difference(name, hex(*a), hex(*b)));
    }
    if rehearsed.rip != real.rip {
        out.push(difference("rip", hex(rehearsed.rip), hex(real.rip)));
    }
    let (a, b) = (rehearsed.rflags, real.rflags);
    if a != b {
        out.push(difference("rflags", flag_text(a), flag_text(b)));
    }
    if !same_system_state(rehearsed, real) {
        out.push(difference(
            "system registers",
            "one state".into(),
            "another".into(),
        ));
    }
    if plan.vector {
        vector_state(&rehearsed.xsave, &real.xsave, &mut out);
    }
    out.extend(memory(lockstep));
    out
}

fn fault_text(e: Option<Exception>) -> String {
    match e {
        None => "no exception".into(),
        Some(e) => {
            let code = e
                .error
                .map_or(String::new(), |c| format!(", error code {c:#x}"));
            format!("exception {}{code}, payload {:#x}", e.vector, e.payload)
        }
    }
}

fn faults(rehearsal: &Rehearsal, outcome: &Outcome, out: &mut Vec<Difference>) {
    let own = match rehearsal.end {
        End::Fault(e) => Some(e),
        _ => None,
    };
    if own != outcome.fault {
        out.push(difference(
            "exception",
            fault_text(own),
            fault_text(outcome.fault),
        ));
    }
}

/// Registers that translations hardly ever change. The interrupt shadow is the
/// interpreter's alone: a translation never ends inside one.
fn same_system_state(a: &CpuState, b: &CpuState) -> bool {
    a.seg == b.seg
        && (a.gdtr, a.idtr) == (b.gdtr, b.idtr)
        && (a.cr0, a.cr2, a.cr3, a.cr4) == (b.cr0, b.cr2, b.cr3, b.cr4)
        && (a.efer, a.xcr0, a.dr) == (b.efer, b.xcr0, b.dr)
        && a.msr == b.msr
        && (a.events.pending, a.events.nmi_blocked) == (b.events.pending, b.events.nmi_blocked)
}

/// Parts of the XSAVE image: name, bytes, bit of XSTATE_BV (SDM vol 1, 13.4).
const PARTS: [(&str, Range<usize>, u8); 8] = [
    ("x87 control and status", 0..5, 0),
    ("x87 instruction pointer", 8..16, 0),
    ("x87 data pointer", 16..24, 0),
    ("x87 registers", 32..160, 0),
    ("mxcsr", 24..28, 1),
    ("xmm", 160..416, 1),
    ("upper ymm", 576..832, 2),
    ("opmask and zmm", 1088..2688, 5),
];

/// A part as the processor sees it: a component that XSTATE_BV does not name is
/// in its initial state.
fn part(area: &XsaveArea, range: Range<usize>, bit: u8) -> Vec<u8> {
    let in_use = area.0[512] >> bit & 1 != 0;
    // MXCSR lies in the SSE part but belongs to AVX as well.
    let own = in_use || range.start == 24 && area.0[512] & 6 != 0;
    if own || bit == 5 && area.0[512] & 0xe0 != 0 {
        return area.0[range].to_vec();
    }
    let mut initial = vec![0; range.len()];
    match range.start {
        0 => initial[..2].copy_from_slice(&0x37fu16.to_le_bytes()),
        24 => initial[..4].copy_from_slice(&0x1f80u32.to_le_bytes()),
        _ => {}
    }
    initial
}

fn vector_state(a: &XsaveArea, b: &XsaveArea, out: &mut Vec<Difference>) {
    if a == b {
        return;
    }
    for (name, range, bit) in PARTS {
        let (x, y) = (part(a, range.clone(), bit), part(b, range.clone(), bit));
        if let Some(at) = x.iter().zip(&y).position(|(a, b)| a != b) {
            let at = at & !7;
            let end = (at + 8).min(x.len());
            let what = format!("{name}, image byte {}", range.start + at);
            let show = |p: &[u8]| bytes(p[at..end].iter().copied());
            out.push(difference(&what, show(&x), show(&y)));
        }
    }
}

/// Bytes of the written pages, without the accessed and dirty bits of entries
/// that the rehearsal's walks touched: the translation may stop before or after
/// the access that needs them. Neighbours share a line of the report.
fn memory(lockstep: &Lockstep) -> Vec<Difference> {
    let mut runs: Vec<(u64, Vec<(u8, u8)>)> = Vec::new();
    for page in lockstep.overlay.pages() {
        for (offset, expected, actual) in page.differences() {
            let host = page.host + offset as u64;
            let only_ad = (expected ^ actual) & !AD == 0;
            if only_ad && lockstep.overlay.is_entry(host) {
                continue;
            }
            match runs.last_mut() {
                Some((start, run)) if *start + run.len() as u64 == host && run.len() < 8 => {
                    run.push((expected, actual));
                }
                _ => runs.push((host, vec![(expected, actual)])),
            }
        }
    }
    let show = |(host, run): (u64, Vec<(u8, u8)>)| Difference {
        what: What::Memory(host),
        interpreted: bytes(run.iter().map(|b| b.0)),
        translated: bytes(run.iter().map(|b| b.1)),
    };
    runs.into_iter().map(show).collect()
}

fn bytes(list: impl Iterator<Item = u8>) -> String {
    let list: Vec<String> = list.map(|b| format!("{b:02x}")).collect();
    list.join(" ")
}
