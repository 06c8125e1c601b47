//! A difference as text.

use super::Lockstep;
use super::compare::{Difference, GPR, Outcome, What};
use super::plan::Plan;
use crate::vcpu::SoftVcpu;
use std::fmt::Write;
use x86::CpuState;
use x86::paging::PAGE_MASK;

/// Differences shown.
const SHOWN: usize = 24;

impl SoftVcpu {
    /// Everything one needs to see what went wrong.
    pub(super) fn report(
        &self,
        lockstep: &Lockstep,
        plan: &Plan,
        outcome: &Outcome,
        done: Option<usize>,
        found: &[Difference],
    ) -> String {
        let before = &lockstep.before;
        let ctx = self.ctx_mut();
        let page = softmmu::walk::peek(before, &self.map, before.rip, ctx.tlb.roots());
        let mut text = format!(
            "lockstep: interpreter and translation differ after block {}\n  at {:#x} (gpa {:#x}), \
             {}-bit code, CPL {}, left by {:?} at {:#x}\n",
            self.vm
                .counters
                .lockstep_blocks
                .load(std::sync::atomic::Ordering::Relaxed),
            before.rip,
            page.unwrap_or(0),
            before.bitness(),
            before.cpl(),
            outcome.kind,
            outcome.rip,
        );
        disassembly(&mut text, plan, done);
        registers(&mut text, before);
        let _ = writeln!(
            text,
            "  {:<28}{:<28}translation",
            "difference", "interpreter"
        );
        for d in found.iter().take(SHOWN) {
            let what = self.place(&d.what);
            let _ = writeln!(text, "  {what:<28}{:<28}{}", d.interpreted, d.translated);
        }
        if found.len() > SHOWN {
            let _ = writeln!(text, "  and {} more", found.len() - SHOWN);
        }
        text
    }

    /// The first column.
    fn place(&self, what: &What) -> String {
        match what {
            What::Named(name) => name.clone(),
            What::Memory(host) => {
                format!("memory gpa {:#x}", self.gpa_of(*host) | host & PAGE_MASK)
            }
        }
    }
}

/// The block; an arrow shows where the translation stands.
fn disassembly(text: &mut String, plan: &Plan, done: Option<usize>) {
    for (i, step) in plan.steps.iter().enumerate() {
        let mark = if done == Some(i) { "->" } else { "  " };
        let _ = writeln!(text, "  {mark} {:#018x}  {}", step.insn.ip(), step.insn);
    }
}

fn registers(text: &mut String, cpu: &CpuState) {
    text.push_str("  registers before:\n");
    for (i, (value, name)) in cpu.gpr.iter().zip(GPR).enumerate() {
        let end = if i % 4 == 3 { "\n" } else { "" };
        let _ = write!(text, "    {name:>3} {value:016x}{end}");
    }
    let _ = writeln!(text, "    rflags {:#x}, cr3 {:#x}", cpu.rflags, cpu.cr3);
}
