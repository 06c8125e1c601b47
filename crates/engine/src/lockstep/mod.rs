//! Lockstep: every block is executed both ways, and the first difference stops
//! the vCPU.
//!
//! The interpreter goes first, in a *rehearsal*: it executes the block's
//! instructions on a copy of the registers, reads guest memory and the TLBs as
//! they are, and writes to an overlay ([`overlay`]). Then the translation runs
//! for real. Registers must agree, and every page that the rehearsal wrote must
//! hold what it held before plus what the overlay says, accessed and dirty bits
//! of page tables included.
//!
//! * A translation that leaves in its middle (a device, a page fault, a page of
//!   code) is compared at that instruction: the rehearsal is run again that far
//!   on what the pages held before.
//! * Ports, device memory, time, MSRs, CPUID and random numbers never occur in
//!   a translation of this mode; they happen once, between blocks.
//! * Interrupts come between blocks, since nothing is linked: every jump leaves
//!   generated code, which looks at its poll word as always.
//! * Guest memory that others write between the two runs (the clock's page,
//!   DMA) shows as a difference that a second rehearsal does not have: that is
//!   counted, not reported.
//!
//! The x87's last opcode need not agree: the translator gives it up.

mod compare;
mod overlay;
mod plan;
mod report;
mod shadow;
#[cfg(test)]
mod tests;

use crate::counters::bump;
use crate::translated::{Ended, Found, Left};
use crate::vcpu::SoftVcpu;
use compare::{Outcome, differences};
use isa::Stop;
use jit::ExitKind;
use jit::block::runs_over;
use jit::cache::{JumpCache, KeyHasher};
use overlay::Overlay;
use plan::{End, Plan, Rehearsal, rehearse};
use softmmu::walk::Need;
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use x86::paging::{PAGE_MASK, PAGE_SIZE};
use x86::{CpuState, flags};

/// What the mode keeps.
pub struct Lockstep {
    overlay: Overlay,
    /// Registers before the block.
    before: Box<CpuState>,
    /// Registers as the rehearsal has them.
    rehearsed: Box<CpuState>,
    /// Decoded blocks by the address of their translation.
    plans: HashMap<u64, Arc<Plan>, BuildHasherDefault<KeyHasher>>,
    /// The code cache's generation that `plans` belongs to.
    generation: u64,
    /// The first difference.
    difference: Option<String>,
}

impl Lockstep {
    /// Nothing compared yet.
    pub fn new() -> Box<Self> {
        Box::new(Self {
            overlay: Overlay::default(),
            before: Box::default(),
            rehearsed: Box::default(),
            plans: HashMap::default(),
            generation: 0,
            difference: None,
        })
    }

    /// The first difference, once.
    pub fn take_difference(&mut self) -> Option<String> {
        self.difference.take()
    }
}

impl SoftVcpu {
    /// As [`Self::run_translated`], comparing each block. `None`: they differ.
    pub(crate) fn run_lockstep(&mut self, lockstep: &mut Lockstep) -> Option<Ended> {
        loop {
            let code = match self.block_at_rip(None) {
                Ok(Found::Code(code)) => code,
                Ok(Found::LookAgain) => return Some(Ended::Continue),
                Err(Stop::Fault(e)) => return Some(Ended::Fault(e)),
                Ok(Found::Nothing) | Err(_) => return Some(Ended::InterpretHere),
            };
            let Some(plan) = self.plan(lockstep, code) else {
                return Some(Ended::InterpretHere);
            };
            self.cpu_mut().rflags &= !flags::RF; // as `enter` does
            copy_state(&mut lockstep.before, self.cpu(), plan.vector);
            lockstep.overlay.clear();
            let rehearsal = self.rehearse(lockstep, &plan, plan.steps.len());
            lockstep.overlay.keep_contents();
            let jit = &mut self.ctx_mut().jit;
            // Indirect jumps leave generated code.
            JumpCache::lead_nowhere(&jit.jump_caches);
            let left = self.enter(code);
            bump(&self.vm.counters.lockstep_blocks);
            let outcome = self.outcome(&left);
            if let Some(text) = self.compare(lockstep, &plan, rehearsal, &outcome) {
                lockstep.difference = Some(text);
                return None;
            }
            if let Left::Ended(ended) = left {
                return Some(ended);
            }
        }
    }

    /// The block at RIP as guest memory has it now, whatever its translation at
    /// `code` was made from.
    fn plan(&mut self, lockstep: &mut Lockstep, code: u64) -> Option<Arc<Plan>> {
        let generation = self.vm.code.lock().generation();
        if lockstep.generation != generation {
            lockstep.generation = generation;
            lockstep.plans.clear();
        }
        let ctx = self.ctx_mut();
        let need = Need {
            write: false,
            exec: true,
            user: ctx.cpu.cpl() == 3,
            implicit: false,
        };
        let rip = ctx.cpu.rip;
        let page = ctx.tlb.resolve(&ctx.cpu, &self.map, rip, need).ok()?;
        let host = page.host? + (rip & PAGE_MASK);
        let known = lockstep.plans.get(&code);
        if let Some(plan) = known.filter(|p| p.begins_at(rip) && p.is_current(host)) {
            return Some(plan.clone());
        }
        let mut bytes = vec![0; PAGE_SIZE as usize];
        self.map.read(page.gpa, &mut bytes).then_some(())?;
        if runs_over(&bytes[(rip & PAGE_MASK) as usize..], ctx.cpu.code64()) {
            let next = (rip | PAGE_MASK).wrapping_add(1);
            let page = ctx.tlb.resolve(&ctx.cpu, &self.map, next, need).ok()?;
            bytes.resize(2 * PAGE_SIZE as usize, 0);
            let second = &mut bytes[PAGE_SIZE as usize..];
            self.map.read(page.gpa, second).then_some(())?;
        }
        let most = self.vm.options.stress.longest_block();
        let plan = Arc::new(Plan::new(&ctx.cpu, &bytes, &self.copyable, most));
        lockstep.plans.insert(code, plan.clone());
        Some(plan)
    }

    /// Lets the interpreter execute `limit` instructions from the registers
    /// before the block.
    fn rehearse(&mut self, lockstep: &mut Lockstep, plan: &Plan, limit: usize) -> Rehearsal {
        copy_state(&mut lockstep.rehearsed, &lockstep.before, plan.vector);
        let (_, world) = self.parts();
        let overlay = RefCell::new(&mut lockstep.overlay);
        let mut shadow = plan::shadow(world, &overlay);
        rehearse(plan, limit, &mut lockstep.rehearsed, &mut shadow)
    }

    /// What the translation did.
    fn outcome(&self, left: &Left) -> Outcome {
        let ctx = self.ctx_mut();
        Outcome {
            kind: ExitKind::from_raw(ctx.jit.exit_kind),
            fault: match left {
                Left::Ended(Ended::Fault(e)) => Some(*e),
                _ => None,
            },
            rip: ctx.cpu.rip,
            narrow: self.local.narrow_at.is_some(),
        }
    }

    /// A description of the difference, if there is one.
    fn compare(
        &mut self,
        lockstep: &mut Lockstep,
        plan: &Plan,
        first: Rehearsal,
        outcome: &Outcome,
    ) -> Option<String> {
        let mut rehearsal = first;
        let done = outcome.instructions(plan, &rehearsal, lockstep.rehearsed.rip);
        if let Some(done) = done
            && (done < rehearsal.done || rehearsal.torn)
        {
            rehearsal = self.again(lockstep, plan, done);
        }
        let found = differences(self.cpu(), lockstep, plan, &rehearsal, outcome, done);
        if found.is_empty() {
            return None;
        }
        // Did others write what the rehearsal read? Then it agrees now.
        let second = self.again(lockstep, plan, done.unwrap_or(plan.steps.len()));
        let done = outcome.instructions(plan, &second, lockstep.rehearsed.rip);
        let found = differences(self.cpu(), lockstep, plan, &second, outcome, done);
        if found.is_empty() {
            bump(&self.vm.counters.lockstep_races);
            return None;
        }
        Some(self.report(lockstep, plan, outcome, done, &found))
    }

    /// Another rehearsal, on what the pages held before.
    fn again(&mut self, lockstep: &mut Lockstep, plan: &Plan, limit: usize) -> Rehearsal {
        lockstep.overlay.rewind();
        self.rehearse(lockstep, plan, limit)
    }

    /// Host address to guest-physical address.
    fn gpa_of(&self, host: u64) -> u64 {
        let mut slots = self.map.iter();
        let slot = slots.find(|s| host.wrapping_sub(s.hva) < s.size);
        slot.map_or(0, |s| s.gpa + (host - s.hva)) & !PAGE_MASK
    }
}

/// Copies the registers; vector and x87 state only if it matters.
fn copy_state(to: &mut CpuState, from: &CpuState, vector: bool) {
    if vector {
        to.xsave.0.copy_from_slice(&from.xsave.0);
    }
    (to.gpr, to.rip, to.rflags, to.seg) = (from.gpr, from.rip, from.rflags, from.seg);
    (to.gdtr, to.idtr) = (from.gdtr, from.idtr);
    (to.cr0, to.cr2, to.cr3, to.cr4) = (from.cr0, from.cr2, from.cr3, from.cr4);
    (to.cr8, to.efer, to.xcr0, to.dr) = (from.cr8, from.efer, from.xcr0, from.dr);
    to.msr.clone_from(&from.msr);
    (to.events, to.mp_state) = (from.events, from.mp_state);
}

impl Outcome {
    /// How many of the block's instructions the translation executed; `None` if
    /// it stands where the rehearsal never came by.
    fn instructions(&self, plan: &Plan, rehearsal: &Rehearsal, end: u64) -> Option<usize> {
        let jumped = matches!(
            self.kind,
            ExitKind::Link | ExitKind::Lookup | ExitKind::Poll
        );
        if jumped
            && !self.narrow
            && self.fault.is_none()
            && rehearsal.end == End::Done
            && end == self.rip
        {
            return Some(rehearsal.done);
        }
        plan.at(self.rip).filter(|&i| i <= rehearsal.done)
    }
}

#[cfg(test)]
thread_local! {
    /// Bytes that the translator gets instead of the guest's, on this thread.
    static SABOTAGE: std::cell::Cell<Option<(u8, u8)>> = const { std::cell::Cell::new(None) };
}

/// Makes the next translations wrong, where a test asked for that.
#[cfg(test)]
pub fn sabotage(page: &mut [u8]) {
    if let Some((from, to)) = SABOTAGE.get() {
        page.iter_mut()
            .filter(|b| **b == from)
            .for_each(|b| *b = to);
    }
}
