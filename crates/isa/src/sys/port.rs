//! IN, OUT, INS, OUTS (SDM vol 1, chapter 18).

use super::descriptor::{kind, linear};
use crate::operand::{Ctx, Handled, mask, next_rip, set_gpr};
use crate::{Access, Env, Stop};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use x86::{CpuState, Exception, Seg, flags, gpr};

/// #GP(0) unless IOPL or the TSS's I/O permission bitmap allows all `size`
/// ports from `port` (SDM vol 1, 18.5).
fn permit<E: Env>(cpu: &mut CpuState, env: &mut E, port: u16, size: u32) -> Result<(), Stop> {
    if unconditional(cpu) || bitmap_allows(cpu, env, port, size)? {
        Ok(())
    } else {
        Err(Exception::GP0.into())
    }
}

/// True if every port is allowed.
fn unconditional(cpu: &CpuState) -> bool {
    let iopl = ((cpu.rflags & flags::IOPL) >> flags::IOPL_SHIFT) as u8;
    cpu.cr0 & x86::cr0::PE == 0 || cpu.rflags & flags::VM == 0 && cpu.cpl() <= iopl
}

fn bitmap_allows<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    port: u16,
    size: u32,
) -> Result<bool, Stop> {
    let tr = *cpu.seg(Seg::Tr);
    if !tr.present() || tr.type_bits() & !2 != kind::TSS || tr.limit < 0x67 {
        return Ok(false);
    }
    let map_la = linear(cpu, tr.base.wrapping_add(0x66));
    let map = env.load(cpu, map_la, 2, Access::SystemRead)? as u32;
    // Two bytes are always read, so the byte after the port's must exist.
    let byte = map + u32::from(port) / 8;
    if byte + 1 > tr.limit {
        return Ok(false);
    }
    let la = linear(cpu, tr.base.wrapping_add(u64::from(byte)));
    let bits = env.load(cpu, la, 2, Access::SystemRead)? >> (port % 8);
    Ok(bits & ((1 << size) - 1) == 0)
}

/// The port operand: an immediate byte or DX.
fn port(cpu: &CpuState, insn: &Instruction, i: u32) -> u16 {
    if insn.op_kind(i) == OpKind::Immediate8 {
        u16::from(insn.immediate8())
    } else {
        cpu.gpr[gpr::RDX] as u16
    }
}

/// An IN or OUT that IOPL allows: all it does is one access, and then it is
/// over. Who makes the access himself spares the instruction's execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainPort {
    /// The first port.
    pub port: u16,
    /// Bytes: 1, 2 or 4.
    pub size: u8,
    /// What OUT writes; `None` for IN.
    pub written: Option<u32>,
    next_rip: u64,
}

impl PlainPort {
    /// `insn`, which is to be executed, if it is one.
    pub fn of(cpu: &CpuState, insn: &Instruction) -> Option<Self> {
        Self::decode(cpu, insn).filter(|_| unconditional(cpu))
    }

    /// The same whatever IOPL says.
    fn decode(cpu: &CpuState, insn: &Instruction) -> Option<Self> {
        let (out, operand, accumulator) = match insn.mnemonic() {
            Mnemonic::In => (false, 1, insn.op0_register()),
            Mnemonic::Out => (true, 0, insn.op1_register()),
            _ => return None,
        };
        let size = width(accumulator);
        Some(Self {
            port: port(cpu, insn, operand),
            size: size as u8,
            written: out.then_some((cpu.gpr[gpr::RAX] & mask(size)) as u32),
            next_rip: next_rip(cpu, insn),
        })
    }

    /// The access was made; IN read `value`. The instruction is over, without
    /// the traps that TF and DR7 may ask for.
    pub fn complete(&self, cpu: &mut CpuState, value: u64) {
        if self.written.is_none() {
            set_gpr(cpu, gpr::RAX, self.size.into(), value);
        }
        cpu.rip = self.next_rip;
    }
}

/// Access size by the accumulator that takes part.
fn width(r: Register) -> u32 {
    match r {
        Register::AL => 1,
        Register::AX => 2,
        _ => 4,
    }
}

/// IN and OUT.
pub(super) fn transfer<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    let Some(access) = PlainPort::decode(ctx.cpu, ctx.insn) else {
        return Ok(Handled::No);
    };
    let (port, size) = (access.port, access.size.into());
    permit(ctx.cpu, ctx.env, port, size)?;
    let value = match access.written {
        Some(value) => ctx.env.io_out(ctx.cpu, port, size, value).map(|()| 0)?,
        None => ctx.env.io_in(ctx.cpu, port, size)?,
    };
    access.complete(ctx.cpu, value.into());
    Ok(Handled::Next)
}

/// INS and OUTS: one element; with `rep` the instruction comes back for the
/// next one, so interrupts are taken between elements.
pub(super) fn string<E: Env>(
    ctx: &mut Ctx<'_, E>,
    size: u32,
    output: bool,
) -> Result<Handled, Stop> {
    let memory = u32::from(output); // INS: op0 is memory; OUTS: op1
    let address = pointer_size(ctx.insn.op_kind(memory));
    let repeat = ctx.insn.has_rep_prefix() || ctx.insn.has_repne_prefix();
    let count = ctx.cpu.gpr[gpr::RCX] & mask(address);
    let port = ctx.cpu.gpr[gpr::RDX] as u16;
    permit(ctx.cpu, ctx.env, port, size)?;
    if repeat && count == 0 {
        return Ok(Handled::Next);
    }
    let (seg, offset) = ctx.ea(memory);
    if output {
        let value = ctx.read_mem(seg, offset, size)?;
        ctx.env.io_out(ctx.cpu, port, size, value as u32)?;
    } else {
        // The port is read only once it is certain that memory takes it.
        let la = ctx.linear(seg, offset, size, Access::Write)?;
        ctx.env.probe(ctx.cpu, la, size, Access::Write)?;
        let value = ctx.env.io_in(ctx.cpu, port, size)?;
        ctx.env
            .store(ctx.cpu, la, size, u64::from(value), Access::Write)?;
    }
    advance(
        ctx.cpu,
        if output { gpr::RSI } else { gpr::RDI },
        address,
        size,
    );
    if !repeat {
        return Ok(Handled::Next);
    }
    set_gpr(ctx.cpu, gpr::RCX, address, count - 1);
    ctx.env.commit(ctx.cpu);
    Ok(if count == 1 {
        Handled::Next
    } else {
        Handled::Again
    })
}

fn pointer_size(kind: OpKind) -> u32 {
    match kind {
        OpKind::MemorySegSI | OpKind::MemoryESDI => 2,
        OpKind::MemorySegESI | OpKind::MemoryESEDI => 4,
        _ => 8,
    }
}

fn advance(cpu: &mut CpuState, n: usize, address: u32, size: u32) {
    let step = i64::from(size);
    let delta = if cpu.rflags & flags::DF != 0 {
        -step
    } else {
        step
    };
    let value = cpu.gpr[n].wrapping_add_signed(delta);
    set_gpr(cpu, n, address, value);
}
