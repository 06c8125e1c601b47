//! String instructions (SDM vol 1, 7.3.9; vol 2, REP): MOVS, CMPS, SCAS,
//! LODS, STOS.
//!
//! Every iteration commits its registers and is a restart point. A `rep` runs
//! a bounded number of iterations per call so that interrupts are noticed.

use super::flags::sub;
use crate::env::{Access, Env, Stop};
use crate::operand::{Ctx, Handled, mask, seg_of, set_gpr};
use iced_x86::{Mnemonic as M, OpKind};
use x86::flags::{AC, ARITH, DF, TF, ZF};
use x86::{Seg, gpr};

/// Iterations of one call.
const MAX_ITERATIONS: u32 = 4096;

/// One string instruction's fixed parts.
#[derive(Clone, Copy)]
struct Form {
    op: Op,
    /// Element bytes.
    size: u32,
    /// Address bytes.
    addr: u32,
    /// Segment of the source.
    seg: Seg,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    Movs,
    Cmps,
    Scas,
    Lods,
    Stos,
}

/// Address size of an implicit string operand.
pub(super) fn address_bytes(k: OpKind) -> u32 {
    match k {
        OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => 2,
        OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => 4,
        _ => 8,
    }
}

fn form<E: Env>(ctx: &Ctx<E>) -> Form {
    let op = match ctx.insn.mnemonic() {
        M::Movsb | M::Movsw | M::Movsd | M::Movsq => Op::Movs,
        M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq => Op::Cmps,
        M::Scasb | M::Scasw | M::Scasd | M::Scasq => Op::Scas,
        M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => Op::Lods,
        _ => Op::Stos,
    };
    let memory = if matches!(op, Op::Lods | Op::Scas) {
        1
    } else {
        0
    };
    Form {
        op,
        size: ctx.op_size(memory),
        addr: address_bytes(ctx.insn.op_kind(memory)),
        seg: seg_of(ctx.insn.memory_segment()),
    }
}

impl<E: Env> Ctx<'_, E> {
    fn source(&mut self, f: Form) -> Result<u64, Stop> {
        let off = self.cpu.gpr[gpr::RSI] & mask(f.addr);
        self.read_mem(f.seg, off, f.size)
    }
    fn target_offset(&self, f: Form) -> u64 {
        self.cpu.gpr[gpr::RDI] & mask(f.addr)
    }
    /// Moves an index register by `bytes`, down if DF is set.
    fn advance(&mut self, n: usize, bytes: u64, addr: u32) {
        let v = self.cpu.gpr[n];
        let v = if self.cpu.rflags & DF != 0 {
            v.wrapping_sub(bytes)
        } else {
            v.wrapping_add(bytes)
        };
        set_gpr(self.cpu, n, addr, v);
    }
}

/// One iteration, registers and flags committed.
fn once<E: Env>(ctx: &mut Ctx<E>, f: Form) -> Result<(), Stop> {
    let acc = ctx.cpu.gpr[gpr::RAX] & mask(f.size);
    let dst = ctx.target_offset(f);
    match f.op {
        Op::Movs => {
            let v = ctx.source(f)?;
            ctx.write_mem(Seg::Es, dst, f.size, v)?;
        }
        Op::Stos => ctx.write_mem(Seg::Es, dst, f.size, acc)?,
        Op::Lods => {
            let v = ctx.source(f)?;
            set_gpr(ctx.cpu, gpr::RAX, f.size, v);
        }
        Op::Scas => {
            let v = ctx.read_mem(Seg::Es, dst, f.size)?;
            ctx.set_flags(ARITH, sub(acc, v, 0, f.size).1);
        }
        Op::Cmps => {
            // Where both fault, the target's fault is the one reported.
            let b = ctx.read_mem(Seg::Es, dst, f.size)?;
            let a = ctx.source(f)?;
            ctx.set_flags(ARITH, sub(a, b, 0, f.size).1);
        }
    }
    let bytes = u64::from(f.size);
    if !matches!(f.op, Op::Scas | Op::Stos) {
        ctx.advance(gpr::RSI, bytes, f.addr);
    }
    if f.op != Op::Lods {
        ctx.advance(gpr::RDI, bytes, f.addr);
    }
    Ok(())
}

/// Does the comparison just made end a REPE or REPNE?
fn ends<E: Env>(ctx: &Ctx<E>, f: Form) -> bool {
    let zero = ctx.cpu.rflags & ZF != 0;
    match f.op {
        Op::Cmps | Op::Scas => zero == ctx.insn.has_repne_prefix(),
        _ => false,
    }
}

/// Bytes of the next run of a forward MOVS or STOS that may be done at once:
/// both sides inside one page of plain memory, no breakpoint, alignment check or
/// trap.
fn bulk_bytes<E: Env>(ctx: &mut Ctx<E>, f: Form, count: u64) -> u64 {
    let quiet = ctx.cpu.rflags & (DF | TF) == 0
        && ctx.cpu.dr[7] & x86::dr::DR7_ENABLES == 0
        && (ctx.cpu.rflags & AC == 0 || ctx.cpu.cpl() != 3);
    if !quiet || !matches!(f.op, Op::Movs | Op::Stos) || count < 8 {
        return 0;
    }
    let size = u64::from(f.size);
    let dst = ctx.target_offset(f);
    let room = |off: u64| x86::paging::PAGE_SIZE - (off & x86::paging::PAGE_MASK);
    let mut n = (count.min(4096) * size).min(room(dst));
    if f.op == Op::Movs {
        let src = ctx.cpu.gpr[gpr::RSI] & mask(f.addr);
        n = n.min(room(src));
    }
    n - n % size
}

/// Does a run of iterations at once, if that is possible; returns how many.
/// Any fault is left to the iteration that causes it.
fn bulk<E: Env>(ctx: &mut Ctx<E>, f: Form, count: u64) -> Result<u64, Stop> {
    let n = bulk_bytes(ctx, f, count);
    if n < 16 {
        return Ok(0);
    }
    let dst = ctx.target_offset(f);
    let Ok(to) = ctx.linear(Seg::Es, dst, n as u32, Access::Write) else {
        return Ok(0);
    };
    // Segment bases move the page boundaries.
    if !in_page(to, n) || !ctx.env.plain(ctx.cpu, to, n as u32, Access::Write) {
        return Ok(0);
    }
    let mut buf = [0u8; 4096];
    let Some(buf) = buf.get_mut(..n as usize) else {
        return Ok(0);
    };
    if f.op == Op::Stos {
        let v = ctx.cpu.gpr[gpr::RAX].to_le_bytes();
        for chunk in buf.chunks_exact_mut(f.size as usize) {
            chunk.copy_from_slice(&v[..f.size as usize]);
        }
    } else {
        let src = ctx.cpu.gpr[gpr::RSI] & mask(f.addr);
        let Ok(from) = ctx.linear(f.seg, src, n as u32, Access::Read) else {
            return Ok(0);
        };
        // A target inside the source replicates bytes: only one by one.
        let replicates = to.wrapping_sub(from) < n && to != from;
        let plain = in_page(from, n) && ctx.env.plain(ctx.cpu, from, n as u32, Access::Read);
        if replicates || !plain {
            return Ok(0);
        }
        ctx.env.load_bytes(ctx.cpu, from, buf, Access::Read)?;
    }
    ctx.env.store_bytes(ctx.cpu, to, buf, Access::Write)?;
    if f.op == Op::Movs {
        ctx.advance(gpr::RSI, n, f.addr);
    }
    ctx.advance(gpr::RDI, n, f.addr);
    Ok(n / u64::from(f.size))
}

fn in_page(la: u64, n: u64) -> bool {
    (la & x86::paging::PAGE_MASK) + n <= x86::paging::PAGE_SIZE
}

/// Runs a string instruction, repeated or not.
pub(super) fn run<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    let f = form(ctx);
    if !ctx.insn.has_rep_prefix() && !ctx.insn.has_repne_prefix() {
        once(ctx, f)?;
        return Ok(Handled::Next);
    }
    let mut count = ctx.cpu.gpr[gpr::RCX] & mask(f.addr);
    let mut left = MAX_ITERATIONS;
    let before = ctx.cpu.rflags;
    while count != 0 {
        let run = bulk(ctx, f, count)?;
        if run == 0
            && let Err(stop) = once(ctx, f)
        {
            // A fault restores the flags from before the instruction (SDM
            // vol 2, REP).
            ctx.cpu.rflags = before;
            return Err(stop);
        }
        count -= run.max(1);
        set_gpr(ctx.cpu, gpr::RCX, f.addr, count);
        ctx.env.commit(ctx.cpu);
        if count == 0 || ends(ctx, f) {
            break;
        }
        left = left.saturating_sub(run.max(1) as u32);
        // Single-step and data breakpoints trap between iterations.
        if left == 0 || ctx.cpu.rflags & TF != 0 || ctx.db_hits != 0 {
            return Ok(Handled::Again);
        }
    }
    Ok(Handled::Next)
}
