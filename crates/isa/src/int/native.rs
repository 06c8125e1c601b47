//! Vector, x87 and MMX instructions: control-register checks, the memory
//! operand, then the host executes them.

use super::{gather, vector};
use crate::env::{Access, Env, Stop};
use crate::operand::{Ctx, Handled, mask};
use crate::table::{self, Unit};
use iced_x86::{Instruction, Mnemonic as M, Register};
use x86::cpu::XsaveArea;
use x86::{Exception, Seg, cr0, cr4, xstate};

const AVX_STATE: u64 = xstate::SSE | xstate::AVX;

/// #UD or #NM for a unit that is off (SDM vol 2, 2.4 to 2.8; vol 3, table 13-1
/// and 12-1).
fn check_unit<E: Env>(ctx: &Ctx<E>, unit: Unit) -> Result<(), Stop> {
    let cpu = &*ctx.cpu;
    let em = cpu.cr0 & cr0::EM != 0;
    let ts = cpu.cr0 & cr0::TS != 0;
    let enabled =
        |state: u64| cpu.protected() && cpu.cr4 & cr4::OSXSAVE != 0 && cpu.xcr0 & state == state;
    let offered = table::cpuid_ok(ctx.env, ctx.insn);
    let (ok, available) = match unit {
        Unit::X87 => (true, !em && !ts),
        Unit::Wait => (true, !(ts && cpu.cr0 & cr0::MP != 0)),
        Unit::Mmx => (!em, !ts),
        Unit::Sse => (!em && cpu.cr4 & cr4::OSFXSR != 0, !ts),
        Unit::Avx => (enabled(AVX_STATE), !ts),
        Unit::Avx512 => (enabled(AVX_STATE | xstate::AVX512), !ts),
    };
    if !ok || !offered {
        Err(Exception::UD.into())
    } else if !available {
        Err(Exception::NM.into())
    } else {
        Ok(())
    }
}

/// #MF for an error of an earlier x87 instruction, before anything that this
/// one's operand may raise. Control instructions do not wait for it (SDM vol 1,
/// 8.3.12; vol 3, table 6-2).
fn check_pending_error<E: Env>(ctx: &Ctx<E>, unit: Unit) -> Result<(), Stop> {
    use M::{Fnclex, Fndisi, Fneni, Fninit, Fnsetpm, Fnstcw, Fnstsw};
    let waits = matches!(unit, Unit::X87 | Unit::Mmx)
        && !matches!(
            ctx.insn.mnemonic(),
            Fnclex | Fndisi | Fneni | Fninit | Fnsetpm | Fnstcw | Fnstsw
        );
    if waits && ctx.cpu.xsave.x87_error_pending() {
        return Err(Exception::MF.into());
    }
    Ok(())
}

/// Does a misaligned memory operand of `len` bytes fault? Legacy SSE: all
/// 16-byte operands but a few; VEX and EVEX: only the explicitly aligned moves
/// (SDM vol 1, 14.9; vol 2, 2.4).
fn must_align(insn: &Instruction, unit: Unit, len: usize) -> bool {
    use M::*;
    match unit {
        Unit::Sse => {
            len == 16
                && !matches!(
                    insn.mnemonic(),
                    Movups
                        | Movupd
                        | Movdqu
                        | Lddqu
                        | Pcmpestri
                        | Pcmpestri64
                        | Pcmpestrm
                        | Pcmpestrm64
                        | Pcmpistri
                        | Pcmpistrm
                )
        }
        Unit::Avx | Unit::Avx512 => matches!(
            insn.mnemonic(),
            Vmovaps
                | Vmovapd
                | Vmovdqa
                | Vmovdqa32
                | Vmovdqa64
                | Vmovntps
                | Vmovntpd
                | Vmovntdq
                | Vmovntdqa
        ),
        _ => false,
    }
}

/// Compressing stores and expanding loads touch only as many elements as the
/// mask has bits (SDM vol 2, VPCOMPRESSB, VPEXPANDB).
fn is_packed(m: M) -> bool {
    use M::*;
    matches!(
        m,
        Vpcompressb
            | Vpcompressw
            | Vpcompressd
            | Vpcompressq
            | Vcompressps
            | Vcompresspd
            | Vpexpandb
            | Vpexpandw
            | Vpexpandd
            | Vpexpandq
            | Vexpandps
            | Vexpandpd
    )
}

/// Vector instructions whose masked-off elements still fault: exception types
/// with NF (SDM vol 2, 2.8).
const NO_SUPPRESSION: &[M] = {
    use M::*;
    &[
        Vmovddup,
        Vmovsldup,
        Vmovshdup,
        Vpunpckhbw,
        Vpunpckhwd,
        Vpunpckhdq,
        Vpunpckhqdq,
        Vpunpcklbw,
        Vpunpcklwd,
        Vpunpckldq,
        Vpunpcklqdq,
        Vunpckhps,
        Vunpckhpd,
        Vunpcklps,
        Vunpcklpd,
        Vpacksswb,
        Vpackssdw,
        Vpackuswb,
        Vpackusdw,
        Vpmaddwd,
        Vpmaddubsw,
        Vpshufb,
        Vpshufd,
        Vpshufhw,
        Vpshuflw,
        Vshufps,
        Vshufpd,
        Vshuff32x4,
        Vshuff64x2,
        Vshufi32x4,
        Vshufi64x2,
        Vpermb,
        Vpermw,
        Vpermd,
        Vpermq,
        Vpermps,
        Vpermpd,
        Vpermilps,
        Vpermilpd,
        Vpermi2b,
        Vpermi2w,
        Vpermi2d,
        Vpermi2q,
        Vpermi2ps,
        Vpermi2pd,
        Vpermt2b,
        Vpermt2w,
        Vpermt2d,
        Vpermt2q,
        Vpermt2ps,
        Vpermt2pd,
        Valignd,
        Valignq,
        Vpalignr,
        Vdbpsadbw,
        Vpsadbw,
        Vpmultishiftqb,
        Vgf2p8affineqb,
        Vgf2p8affineinvqb,
        Vinsertf32x4,
        Vinsertf64x2,
        Vinsertf32x8,
        Vinsertf64x4,
        Vinserti32x4,
        Vinserti64x2,
        Vinserti32x8,
        Vinserti64x4,
        Vcvtne2ps2bf16,
        Vpconflictd,
        Vpconflictq,
        Vp2intersectd,
        Vp2intersectq,
    ]
};

/// Do masked-off elements of operand `i` fault all the same? Shifts: if it is
/// the count.
fn never_suppresses(insn: &Instruction, i: u32) -> bool {
    use M::*;
    let shift = matches!(
        insn.mnemonic(),
        Vpsllw | Vpslld | Vpsllq | Vpsrlw | Vpsrld | Vpsrlq | Vpsraw | Vpsrad | Vpsraq
    );
    (shift && i == 2) || NO_SUPPRESSION.contains(&insn.mnemonic())
}

/// Masked stores that check their whole operand (type E6NF) but write only the
/// enabled elements.
fn checks_whole(m: M) -> bool {
    use M::*;
    matches!(
        m,
        Vextractf32x4
            | Vextractf64x2
            | Vextractf32x8
            | Vextractf64x4
            | Vextracti32x4
            | Vextracti64x2
            | Vextracti32x8
            | Vextracti64x4
    )
}

/// Bytes that one bit of the opmask stands for: of a broadcast element, where
/// the instruction has one (VPDPWSSD multiplies words but masks doublewords).
fn mask_element(insn: &Instruction) -> usize {
    use M::*;
    if matches!(
        insn.mnemonic(),
        Vfmaddcsh | Vfcmaddcsh | Vfmulcsh | Vfcmulcsh
    ) {
        return 4; // one complex number
    }
    let broadcast = insn.code().op_code().broadcast_memory_size().size();
    match broadcast {
        0 => insn.memory_size().element_size().max(1),
        n => n,
    }
}

/// Replicates one operand of `n` elements over a longer destination: the
/// elements that any enabled destination element uses.
fn fold(enabled: u64, n: usize) -> u64 {
    (0..64)
        .filter(|i| enabled >> i & 1 != 0)
        .fold(0, |all, i| all | 1 << (i % n.max(1)))
}

/// The mask of the elements in memory under opmask value `k`.
fn memory_mask(insn: &Instruction, k: u64, len: usize, element: usize) -> u64 {
    let whole = insn.code().op_code().memory_size().size();
    let destination = vector::vector_of(insn.op0_register()).1;
    let count = if insn.is_broadcast() {
        whole / element
    } else if is_broadcast(insn.mnemonic()) {
        destination / element
    } else {
        return k & mask_of(len / element);
    };
    fold(k & mask_of(count), len / element)
}

fn is_broadcast(m: M) -> bool {
    use M::*;
    matches!(
        m,
        Vbroadcastss
            | Vbroadcastsd
            | Vbroadcastf32x2
            | Vbroadcastf32x4
            | Vbroadcastf32x8
            | Vbroadcastf64x2
            | Vbroadcastf64x4
            | Vbroadcasti32x2
            | Vbroadcasti32x4
            | Vbroadcasti32x8
            | Vbroadcasti64x2
            | Vbroadcasti64x4
            | Vpbroadcastb
            | Vpbroadcastw
            | Vpbroadcastd
            | Vpbroadcastq
    )
}

/// The memory operand of one instruction.
struct Operand {
    seg: Seg,
    offset: u64,
    len: usize,
    /// Bytes of an element, for masking.
    element: usize,
    /// Enabled elements; all ones without a mask.
    enabled: u64,
    masked: bool,
    /// Checked as a whole although masked.
    whole: bool,
    wrap: u64,
    align: bool,
    reads: bool,
    writes: bool,
}

impl Operand {
    fn new<E: Env>(ctx: &Ctx<E>, i: u32, unit: Unit) -> Self {
        let insn = ctx.insn;
        let (seg, offset) = ctx.ea(i);
        let size = insn.memory_size();
        let len = size.size().min(64);
        let element = mask_element(insn).min(len.max(1));
        let (reads, writes) = table::memory_access(insn, i);
        let k = insn.op_mask();
        let masked = k != Register::None && !never_suppresses(insn, i);
        let mut o = Self {
            seg,
            offset,
            len,
            element,
            enabled: if masked {
                memory_mask(insn, vector::opmask(ctx.cpu, k), len, element)
            } else {
                u64::MAX
            },
            masked,
            whole: checks_whole(insn.mnemonic()),
            wrap: mask(ctx.address_size()),
            align: must_align(insn, unit, len),
            reads,
            writes,
        };
        if is_packed(insn.mnemonic()) {
            let n = (o.enabled & mask_of(len / element)).count_ones() as usize;
            (o.len, o.masked) = (n * element, false);
        }
        o
    }

    /// No element is enabled, so memory is not accessed.
    fn unused(&self) -> bool {
        self.len == 0 || (self.masked && !self.whole && self.enabled == 0)
    }

    /// #GP(0) for a misaligned operand, before any other fault of the address.
    fn check_aligned<E: Env>(&self, ctx: &Ctx<E>) -> Result<(), Stop> {
        if !self.align {
            return Ok(());
        }
        ctx.require_aligned(self.seg, self.offset, self.len.next_power_of_two() as u64)
    }

    /// Offsets and positions of the enabled elements.
    fn elements(&self) -> impl Iterator<Item = (u64, usize)> + use<> {
        let (offset, wrap, size) = (self.offset, self.wrap, self.element);
        let (enabled, n) = (self.enabled, (self.len / size).min(64));
        (0..n)
            .filter(move |i| enabled >> i & 1 != 0)
            .map(move |i| (offset.wrapping_add((i * size) as u64) & wrap, i * size))
    }

    fn read<E: Env>(&self, ctx: &mut Ctx<E>, buf: &mut [u8]) -> Result<(), Stop> {
        self.check_aligned(ctx)?;
        let whole = ctx
            .linear(self.seg, self.offset, self.len as u32, Access::Read)
            .and_then(|la| {
                ctx.env
                    .load_bytes(ctx.cpu, la, &mut buf[..self.len], Access::Read)
            });
        match whole {
            // Masked-off elements do not fault (SDM vol 2, 2.7.10).
            Err(Stop::Fault(_)) if self.masked => {
                for (offset, at) in self.elements() {
                    ctx.read_bytes(self.seg, offset, &mut buf[at..at + self.element])?;
                }
                Ok(())
            }
            other => other,
        }
    }

    /// Faults that the write will raise, before any register changes.
    fn check_write<E: Env>(&self, ctx: &mut Ctx<E>) -> Result<(), Stop> {
        self.check_aligned(ctx)?;
        if !self.masked || self.whole {
            let la = ctx.linear(self.seg, self.offset, self.len as u32, Access::Write)?;
            return ctx.env.probe(ctx.cpu, la, self.len as u32, Access::Write);
        }
        for (offset, _) in self.elements() {
            let la = ctx.linear(self.seg, offset, self.element as u32, Access::Write)?;
            ctx.env
                .probe(ctx.cpu, la, self.element as u32, Access::Write)?;
        }
        Ok(())
    }

    fn write<E: Env>(&self, ctx: &mut Ctx<E>, buf: &[u8]) -> Result<(), Stop> {
        if !self.masked {
            return ctx.write_bytes(self.seg, self.offset, &buf[..self.len]);
        }
        for (offset, at) in self.elements() {
            ctx.write_bytes(self.seg, offset, &buf[at..at + self.element])?;
        }
        Ok(())
    }
}

/// `n` low bits.
const fn mask_of(n: usize) -> u64 {
    if n >= 64 { u64::MAX } else { (1 << n) - 1 }
}

/// LDMXCSR: reserved bits raise #GP(0) (SDM vol 1, 10.2.3).
fn check_mxcsr(m: M, buf: &[u8]) -> Result<(), Stop> {
    let load = matches!(m, M::Ldmxcsr | M::Vldmxcsr);
    if load && (buf[2] != 0 || buf[3] != 0) {
        return Err(Exception::GP0.into());
    }
    Ok(())
}

/// Runs an instruction of `unit` with its memory operand `o`.
fn with_memory<E: Env>(ctx: &mut Ctx<E>, unit: Unit, o: &Operand) -> Result<(), Stop> {
    let mut buf = [0u8; 64];
    let full = ctx.insn.memory_size().size().min(64);
    if o.unused() {
        ctx.env.native(ctx.cpu, ctx.insn, &mut buf[..full])?;
        return Ok(());
    }
    if o.reads {
        o.read(ctx, &mut buf)?;
        check_mxcsr(ctx.insn.mnemonic(), &buf)?;
    }
    if !o.writes {
        ctx.env.native(ctx.cpu, ctx.insn, &mut buf[..full])?;
        return Ok(());
    }
    if unit == Unit::X87 || ctx.insn.mnemonic() == M::Vcvtps2ph {
        return store_result(ctx, unit, o, &mut buf[..full]);
    }
    o.check_write(ctx)?;
    ctx.env.native(ctx.cpu, ctx.insn, &mut buf[..full])?;
    o.write(ctx, &buf)
}

/// Stores what has to be computed first: the exception of the computation
/// comes before a fault of the store, and a store that faults has popped and
/// reported nothing.
fn store_result<E: Env>(
    ctx: &mut Ctx<E>,
    unit: Unit,
    o: &Operand,
    buf: &mut [u8],
) -> Result<(), Stop> {
    let before = ctx.cpu.xsave.clone();
    ctx.env.native(ctx.cpu, ctx.insn, buf)?;
    if unit == Unit::X87 && withheld(&before, &ctx.cpu.xsave) {
        return Ok(());
    }
    let done = o.check_write(ctx).and_then(|()| o.write(ctx, buf));
    if done.is_err() {
        ctx.cpu.xsave = before;
    }
    done
}

/// Did an unmasked x87 exception other than precision just keep a result from
/// being stored (SDM vol 1, 8.5)?
fn withheld(before: &XsaveArea, after: &XsaveArea) -> bool {
    const ES: u8 = 0x80;
    let (control, status) = (after.0[0], after.0[2]);
    before.0[2] & ES == 0 && status & ES != 0 && status & !control & 0x1f != 0
}

/// Executes a vector, MMX or x87 instruction.
pub(super) fn run<E: Env>(ctx: &mut Ctx<E>, unit: Unit) -> Result<Handled, Stop> {
    check_unit(ctx, unit)?;
    check_pending_error(ctx, unit)?;
    if gather::is_sparse(ctx.insn) {
        return gather::run(ctx);
    }
    match table::memory_operand(ctx.insn) {
        None => ctx.env.native(ctx.cpu, ctx.insn, &mut [])?,
        Some(i) => {
            let o = Operand::new(ctx, i, unit);
            with_memory(ctx, unit, &o)?;
        }
    }
    Ok(Handled::Next)
}
