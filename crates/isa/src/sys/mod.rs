//! System instructions and the delivery of exceptions and interrupts.
//!
//! Every instruction computes first and changes registers last; what may still
//! fail after that point is documented at the function (only the second half
//! of a task switch, whose faults belong to the new task).

mod control;
mod debug;
mod deliver;
mod descriptor;
mod eflags;
mod fastcall;
mod gate;
mod iret;
mod load;
mod msr;
mod port;
mod processor;
mod segment;
mod soft;
mod stack;
mod tables;
mod task;
#[cfg(test)]
mod tests;
mod transfer;
mod x87;
mod xrstor;
mod xsave;
mod xstate;

pub use control::xcr0_valid;
pub(crate) use debug::instruction_hits;
pub use deliver::{Event, deliver};
pub use fastcall::is_amd;
pub use msr::{read_plain as read_msr, write_plain as write_msr};
pub use port::PlainPort;
pub use xstate::{Areas as XsaveAreas, xcr0_supported};

use crate::operand::{Ctx, Handled};
use crate::{Env, Stop};
use iced_x86::{Code, Mnemonic as M};
use tables::Table;
use x86::{Exception, Seg, vector};

/// Executes a system instruction; one that is none raises #UD.
pub(crate) fn execute<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    match ctx.insn.mnemonic() {
        M::Mov => mov(ctx),
        M::Hlt => processor::hlt(ctx),
        M::Cli => eflags::cli(ctx),
        M::Sti => eflags::sti(ctx),
        M::Clac => eflags::set_ac(ctx, false),
        M::Stac => eflags::set_ac(ctx, true),
        M::Pushf => eflags::pushf(ctx, 2),
        M::Pushfd => eflags::pushf(ctx, 4),
        M::Pushfq => eflags::pushf(ctx, 8),
        M::Popf => eflags::popf(ctx, 2),
        M::Popfd => eflags::popf(ctx, 4),
        M::Popfq => eflags::popf(ctx, 8),
        M::In | M::Out => port::transfer(ctx),
        M::Insb => port::string(ctx, 1, false),
        M::Insw => port::string(ctx, 2, false),
        M::Insd => port::string(ctx, 4, false),
        M::Outsb => port::string(ctx, 1, true),
        M::Outsw => port::string(ctx, 2, true),
        M::Outsd => port::string(ctx, 4, true),
        M::Cpuid => processor::cpuid(ctx),
        M::Rdtsc => processor::rdtsc(ctx, false),
        M::Rdtscp => processor::rdtsc(ctx, true),
        M::Rdpid => processor::rdpid(ctx),
        M::Rdpmc => processor::rdpmc(),
        M::Serialize => processor::serialize(ctx),
        M::Invd | M::Wbinvd | M::Wbnoinvd => processor::cache(ctx),
        M::Invlpg => processor::invlpg(ctx),
        M::Invpcid => processor::invpcid(ctx),
        M::Monitor | M::Mwait => processor::monitor(ctx),
        M::Vmcall | M::Vmmcall => processor::hypercall(ctx),
        _ => transfers(ctx),
    }
}

/// MOV to and from control, debug and segment registers.
fn mov<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    match ctx.insn.code() {
        Code::Mov_r32_cr | Code::Mov_r64_cr => control::read(ctx),
        Code::Mov_cr_r32 | Code::Mov_cr_r64 => control::write(ctx),
        Code::Mov_r32_dr | Code::Mov_r64_dr => debug::read(ctx),
        Code::Mov_dr_r32 | Code::Mov_dr_r64 => debug::write(ctx),
        Code::Mov_Sreg_rm16 | Code::Mov_Sreg_r32m16 | Code::Mov_Sreg_r64m16 => {
            segment::load_mov(ctx)
        }
        _ => Err(Exception::UD.into()),
    }
}

/// Far control transfers and software interrupts.
fn transfers<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    match ctx.insn.mnemonic() {
        M::Syscall => fastcall::syscall(ctx),
        M::Sysret => fastcall::sysret(ctx, false),
        M::Sysretq => fastcall::sysret(ctx, true),
        M::Sysenter => fastcall::sysenter(ctx),
        M::Sysexit => fastcall::sysexit(ctx, false),
        M::Sysexitq => fastcall::sysexit(ctx, true),
        M::Iret => iret::execute(ctx, 2),
        M::Iretd => iret::execute(ctx, 4),
        M::Iretq => iret::execute(ctx, 8),
        M::Jmp => transfer::jump(ctx, false),
        M::Call => transfer::jump(ctx, true),
        M::Retf => {
            let bytes = if ctx.insn.op_count() > 0 {
                ctx.insn.immediate16()
            } else {
                0
            };
            transfer::ret(ctx, retf_size(ctx.insn.code()), bytes)
        }
        M::Int => {
            let n = ctx.insn.immediate8();
            soft::int(ctx, n)
        }
        M::Int3 => soft::trap(ctx, vector::BP),
        M::Into => soft::into(ctx),
        M::Int1 => soft::icebp(ctx),
        _ => registers(ctx),
    }
}

fn retf_size(code: Code) -> u32 {
    match code {
        Code::Retfw | Code::Retfw_imm16 => 2,
        Code::Retfd | Code::Retfd_imm16 => 4,
        _ => 8,
    }
}

fn pop_size(code: Code) -> u32 {
    match code {
        Code::Popq_FS | Code::Popq_GS => 8,
        Code::Popd_ES | Code::Popd_SS | Code::Popd_DS | Code::Popd_FS | Code::Popd_GS => 4,
        _ => 2,
    }
}

/// Segment, table, control and model-specific registers.
fn registers<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    match ctx.insn.mnemonic() {
        M::Pop => segment::pop(ctx, pop_size(ctx.insn.code())),
        M::Les => segment::load_pointer(ctx, Seg::Es),
        M::Lds => segment::load_pointer(ctx, Seg::Ds),
        M::Lss => segment::load_pointer(ctx, Seg::Ss),
        M::Lfs => segment::load_pointer(ctx, Seg::Fs),
        M::Lgs => segment::load_pointer(ctx, Seg::Gs),
        M::Swapgs => segment::swapgs(ctx),
        M::Rdfsbase => segment::read_base(ctx, Seg::Fs),
        M::Rdgsbase => segment::read_base(ctx, Seg::Gs),
        M::Wrfsbase => segment::write_base(ctx, Seg::Fs),
        M::Wrgsbase => segment::write_base(ctx, Seg::Gs),
        M::Lgdt => tables::load(ctx, Table::Gdt),
        M::Lidt => tables::load(ctx, Table::Idt),
        M::Sgdt => tables::store(ctx, Table::Gdt),
        M::Sidt => tables::store(ctx, Table::Idt),
        M::Lldt => tables::lldt(ctx),
        M::Ltr => tables::ltr(ctx),
        M::Sldt => tables::store_selector(ctx, Seg::Ldtr),
        M::Str => tables::store_selector(ctx, Seg::Tr),
        M::Verr => tables::verify(ctx, false),
        M::Verw => tables::verify(ctx, true),
        M::Lar => tables::lar(ctx),
        M::Lsl => tables::lsl(ctx),
        M::Arpl => tables::arpl(ctx),
        M::Clts => control::clts(ctx),
        M::Lmsw => control::lmsw(ctx),
        M::Smsw => control::smsw(ctx),
        M::Xgetbv => control::xgetbv(ctx),
        M::Xsetbv => control::xsetbv(ctx),
        M::Rdmsr => msr::rdmsr(ctx),
        M::Wrmsr => msr::wrmsr(ctx),
        _ => images(ctx),
    }
}

/// Saving and restoring x87 and vector state.
fn images<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    match ctx.insn.mnemonic() {
        M::Fxsave => xsave::fxsave(ctx, false),
        M::Fxsave64 => xsave::fxsave(ctx, true),
        M::Fxrstor => xrstor::fxrstor(ctx, false),
        M::Fxrstor64 => xrstor::fxrstor(ctx, true),
        M::Xsave => xsave::xsave(ctx, xsave::Form::Plain, false),
        M::Xsave64 => xsave::xsave(ctx, xsave::Form::Plain, true),
        M::Xsaveopt => xsave::xsave(ctx, xsave::Form::Opt, false),
        M::Xsaveopt64 => xsave::xsave(ctx, xsave::Form::Opt, true),
        M::Xsavec => xsave::xsave(ctx, xsave::Form::Compact, false),
        M::Xsavec64 => xsave::xsave(ctx, xsave::Form::Compact, true),
        M::Xsaves => xsave::xsave(ctx, xsave::Form::Supervisor, false),
        M::Xsaves64 => xsave::xsave(ctx, xsave::Form::Supervisor, true),
        M::Xrstor => xrstor::xrstor(ctx, false, false),
        M::Xrstor64 => xrstor::xrstor(ctx, false, true),
        M::Xrstors => xrstor::xrstor(ctx, true, false),
        M::Xrstors64 => xrstor::xrstor(ctx, true, true),
        M::Fnstenv | M::Fnsave => x87::store(ctx),
        M::Fldenv | M::Frstor => x87::load(ctx),
        _ => Err(Exception::UD.into()),
    }
}
