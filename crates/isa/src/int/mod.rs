//! Unprivileged instructions: integer ones are executed here, vector and x87
//! ones are checked here and executed by the host ([`native`]).

mod alu;
mod bcd;
mod bits;
mod branch;
mod data;
mod flags;
mod gather;
mod hints;
mod muldiv;
mod native;
mod shift;
mod stack;
mod string;
mod vector;

#[cfg(test)]
mod tests;

use crate::env::{Env, Stop};
use crate::operand::{Ctx, Handled};
use crate::table::{self, Class, Int};
use x86::Exception;

impl<E: Env> Ctx<'_, E> {
    /// #UD unless the guest is offered what the instruction needs; VEX-encoded
    /// instructions also need protected mode (SDM vol 2, 2.3.5).
    pub(crate) fn require_features(&self) -> Result<(), Stop> {
        let vex = self.insn.encoding() != iced_x86::EncodingKind::Legacy;
        if vex && !self.cpu.protected() {
            return Err(Exception::UD.into());
        }
        if table::cpuid_ok(self.env, self.insn) {
            Ok(())
        } else {
            Err(Exception::UD.into())
        }
    }
}

/// Executes the instruction of `ctx` if it is not a system instruction.
/// Excluded instructions raise #UD.
pub(crate) fn execute<E: Env>(ctx: &mut Ctx<E>) -> Result<Handled, Stop> {
    match table::class(ctx.insn.code()) {
        Class::Int(kind) => integer(ctx, kind),
        Class::Branch => branch::run(ctx),
        Class::String => string::run(ctx),
        Class::Native(unit) => native::run(ctx, unit),
        Class::System => Ok(Handled::No),
        Class::Excluded(_) => Err(Exception::UD.into()),
    }
}

fn integer<E: Env>(ctx: &mut Ctx<E>, kind: Int) -> Result<Handled, Stop> {
    match kind {
        Int::Mov => data::mov(ctx),
        Int::Binary => alu::binary(ctx),
        Int::Unary => alu::unary(ctx),
        Int::Lea => data::lea(ctx),
        Int::Stack => stack::run(ctx),
        Int::Shift => shift::run(ctx),
        Int::Movsx => data::movsx(ctx),
        Int::Setcc => data::setcc(ctx),
        Int::Cmov => data::cmov(ctx),
        Int::Nop => {
            if ctx.insn.mnemonic() == iced_x86::Mnemonic::Pause {
                ctx.env.pause();
            }
            Ok(Handled::Next)
        }
        Int::MulDiv => muldiv::run(ctx),
        Int::BitTest => bits::test(ctx),
        Int::BitScan => bits::scan(ctx),
        Int::Bmi => bits::bmi(ctx),
        Int::Crc32 => bits::crc32(ctx),
        Int::Adx => alu::adx(ctx),
        Int::Movbe => data::movbe(ctx),
        Int::Movnti => ctx.require_features().and_then(|()| data::mov(ctx)),
        Int::Bswap => data::bswap(ctx),
        Int::Convert => data::convert(ctx),
        Int::Xchg => data::xchg(ctx),
        Int::Xadd => data::xadd(ctx),
        Int::Cmpxchg => data::cmpxchg(ctx),
        Int::CmpxchgPair => data::cmpxchg_pair(ctx),
        Int::Xlat => data::xlat(ctx),
        Int::Bound => data::bound(ctx),
        Int::Bcd => bcd::run(ctx),
        Int::FlagsByte => stack::flags_byte(ctx),
        Int::Flag => hints::flag(ctx),
        Int::Fence => hints::fence(ctx),
        Int::FlushLine => hints::flush_line(ctx),
        Int::Random => hints::random(ctx),
    }
}
