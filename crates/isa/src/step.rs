//! One instruction from fetch to traps.

use crate::operand::{Ctx, Handled};
use crate::sys::{self, Event, deliver};
use crate::{Env, Stop, int};
use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction, Mnemonic};
use x86::{
    CpuState, Exception, LONGEST_INSTRUCTION as MAX_LEN, MpState, Seg, Shadow, canonical48, dr,
    flags,
};
use x86::{Pending, paging};

/// What the vCPU does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on at RIP. After a `rep` iteration that left more to do, RIP is
    /// still at the instruction.
    Next,
    /// HLT was executed: `mp_state` is Halted and RIP is after it.
    Halt,
}

/// Delivers what is due ([`x86::Events::due`]), else executes the instruction
/// at CS:RIP, delivering what it raises.
///
/// # Errors
/// [`Stop::Suspend`]: call it again once the environment can answer.
/// [`Stop::Shutdown`]: triple fault. Never [`Stop::Fault`].
pub fn step<E: Env>(cpu: &mut CpuState, env: &mut E) -> Result<Flow, Stop> {
    resume(cpu, env, &mut None)
}

/// As [`step`], but an instruction that was fetched before and is `kept` is
/// executed again as it was; one that suspends is kept.
///
/// # Errors
/// As [`step`].
pub fn resume<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    kept: &mut Option<Instruction>,
) -> Result<Flow, Stop> {
    if deliver_pending(cpu, env)? {
        return Ok(Flow::Next);
    }
    let insn = match kept.take() {
        Some(insn) => insn,
        None => match fetch(cpu, env) {
            Ok(insn) => insn,
            Err(Stop::Fault(e)) => {
                deliver(cpu, env, Event::Exception(e))?;
                return Ok(Flow::Next);
            }
            Err(stop) => return Err(stop),
        },
    };
    let result = step_decoded(cpu, env, &insn);
    if result == Err(Stop::Suspend) {
        *kept = Some(insn);
    }
    result
}

/// As [`step`] for an instruction that was decoded at the current CS:RIP
/// (with that RIP as the decoder's IP), without instruction breakpoints.
///
/// # Errors
/// As [`step`].
pub fn step_decoded<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    insn: &Instruction,
) -> Result<Flow, Stop> {
    match execute_only(cpu, env, insn) {
        Ok(Flow::Next) => {
            deliver_pending(cpu, env)?;
            Ok(Flow::Next)
        }
        Ok(flow) => Ok(flow),
        Err(Stop::Fault(e)) => {
            deliver(cpu, env, Event::Exception(e))?;
            Ok(Flow::Next)
        }
        Err(stop) => Err(stop),
    }
}

/// Executes an instruction without delivering what it raises: a fault is
/// returned; a trap (single step, data breakpoint) is left in
/// [`x86::Events::pending`] with RIP after the instruction. INT n and its kin
/// do deliver.
///
/// # Errors
/// A fault, with registers as before the instruction (after a task switch: as
/// of the new task), or [`Stop::Suspend`], [`Stop::Shutdown`].
pub fn execute_only<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    insn: &Instruction,
) -> Result<Flow, Stop> {
    let tf = cpu.rflags & flags::TF;
    let rf = cpu.rflags & flags::RF;
    let before = cpu.events;
    let held = before.held();
    if held.is_some() {
        cpu.events.pending = None;
    }
    env.executing(cpu, insn);
    // An instruction runs with RF clear, so that what it saves and what IRET
    // and task switches load need no exception (SDM vol 3, 17.3.1.1).
    cpu.rflags &= !flags::RF;
    cpu.events.shadow = Shadow::None;
    let mut ctx = Ctx::new(cpu, env, insn);
    let next = ctx.next_rip();
    let result = match int::execute(&mut ctx) {
        Ok(Handled::No) => sys::execute(&mut ctx),
        other => other,
    };
    let hits = ctx.db_hits;
    match result {
        Ok(Handled::Next) => cpu.rip = next,
        Ok(Handled::Jump) => {}
        Ok(Handled::Again) => cpu.rflags |= rf,
        stopped => {
            cpu.rflags |= rf;
            // The delivery of a fault ends the shadow.
            (cpu.events.shadow, cpu.events.pending) = (before.shadow, before.pending);
            return Err(stopped.err().unwrap_or(Exception::UD.into()));
        }
    }
    if before.shadow == Shadow::MovSs && cpu.events.shadow == Shadow::MovSs {
        // Of consecutive loads of SS only the first one inhibits.
        cpu.events.shadow = Shadow::None;
    }
    finish(cpu, env, insn.mnemonic(), tf, hits | held.unwrap_or(0));
    Ok(match cpu.mp_state {
        MpState::Halted => Flow::Halt,
        _ => Flow::Next,
    })
}

/// Raises the traps of a completed instruction (SDM vol 3, 17.3.1.2 and
/// 17.3.1.4). MOV SS and POP SS suppress the single step and hold data
/// breakpoints back ([`x86::Events::held`]).
fn finish<E: Env>(cpu: &mut CpuState, env: &mut E, m: Mnemonic, tf: u64, hits: u64) {
    let stepping = match m {
        // SYSCALL and SYSRET obey the TF they load, INT n cleared it.
        Mnemonic::Syscall | Mnemonic::Sysret | Mnemonic::Sysretq => cpu.rflags & flags::TF != 0,
        Mnemonic::Int | Mnemonic::Int3 | Mnemonic::Into | Mnemonic::Int1 => {
            tf & cpu.rflags & flags::TF != 0
        }
        _ => tf != 0,
    };
    let inhibited = cpu.events.shadow == Shadow::MovSs;
    let step = stepping && !inhibited;
    let payload = hits | if step { dr::DR6_BS } else { 0 };
    if payload == 0 {
        return;
    }
    cpu.mp_state = MpState::Runnable;
    cpu.events.pending = Some(Pending::Exception(Exception::db(payload)));
    env.commit(cpu);
}

/// Delivers the pending event, if one is due; it stays pending if the environment
/// suspends.
fn deliver_pending<E: Env>(cpu: &mut CpuState, env: &mut E) -> Result<bool, Stop> {
    let Some(pending) = cpu.events.due() else {
        return Ok(false);
    };
    let event = match pending {
        Pending::Exception(e) => Event::Exception(e),
        Pending::Interrupt(vector) => Event::Interrupt(vector),
        Pending::Nmi => Event::Nmi,
    };
    deliver(cpu, env, event)?;
    cpu.events.pending = None;
    Ok(true)
}

/// Fetches and decodes the instruction at CS:RIP.
///
/// # Errors
/// #DB for an instruction breakpoint, #PF, #GP(0) beyond the CS limit or for
/// more than 15 bytes, #UD for what is no instruction; [`Stop::Suspend`].
pub fn fetch<E: Env>(cpu: &mut CpuState, env: &mut E) -> Result<Instruction, Stop> {
    let la = code_address(cpu, 0)?;
    let shown = cpu.rflags & flags::RF != 0 || cpu.events.shadow == Shadow::MovSs;
    if cpu.dr[7] & dr::DR7_ENABLES != 0 && !shown {
        let hits = sys::instruction_hits(cpu, la);
        if hits != 0 {
            return Err(Exception::db(hits).into());
        }
    }
    let mut bytes = [0u8; MAX_LEN];
    let mut have = 0;
    loop {
        let la = code_address(cpu, have)?;
        let in_page = (paging::PAGE_SIZE - (la & paging::PAGE_MASK)) as usize;
        let more = in_page.min(MAX_LEN - have).min(within_limit(cpu, have));
        env.fetch(cpu, la, &mut bytes[have..have + more])?;
        have += more;
        let (insn, error) = decode(cpu, &bytes[..have]);
        if error == DecoderError::None {
            return Ok(insn);
        }
        if have == MAX_LEN {
            // The decoder calls too long an instruction invalid, too.
            let (_, shorter) = decode(cpu, &bytes[..MAX_LEN - 1]);
            let too_long = shorter == DecoderError::NoMoreBytes;
            let fault = if too_long {
                Exception::GP0
            } else {
                Exception::UD
            };
            return Err(fault.into());
        }
        if error != DecoderError::NoMoreBytes {
            return Err(Exception::UD.into());
        }
    }
}

fn decode(cpu: &CpuState, bytes: &[u8]) -> (Instruction, DecoderError) {
    let mut decoder = Decoder::with_ip(cpu.bitness(), bytes, cpu.rip, DecoderOptions::NONE);
    let insn = decoder.decode();
    (insn, decoder.last_error())
}

/// Linear address of the code byte `ahead` of RIP; #GP(0) outside the segment
/// or the canonical range.
fn code_address(cpu: &CpuState, ahead: usize) -> Result<u64, Stop> {
    let cs = cpu.seg(Seg::Cs);
    if cpu.code64() {
        let la = cpu.rip.wrapping_add(ahead as u64);
        return if canonical48(la) {
            Ok(la)
        } else {
            Err(Exception::GP0.into())
        };
    }
    let offset = cpu.rip.saturating_add(ahead as u64);
    if offset > u64::from(cs.limit) {
        return Err(Exception::GP0.into());
    }
    Ok(cs.base.wrapping_add(offset) & 0xffff_ffff)
}

/// Code bytes from `ahead` of RIP to the end of the segment.
fn within_limit(cpu: &CpuState, ahead: usize) -> usize {
    if cpu.code64() {
        return MAX_LEN;
    }
    let left = u64::from(cpu.seg(Seg::Cs).limit) + 1 - (cpu.rip + ahead as u64);
    left.min(MAX_LEN as u64) as usize
}
