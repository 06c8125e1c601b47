//! FXSAVE and the XSAVE family: writing the guest's state image to memory
//! (SDM vol 1, 10.5 and 13.7 to 13.11).

use super::control::privileged;
use super::xstate::{
    Areas, BUFFER, EXTENDED, HEADER, MXCSR, MXCSR_INIT, X87, available, edx_eax, initialize,
    materialize, read_u32, read_u64, xmm, xstate_bv,
};
use crate::operand::{Ctx, Handled};
use crate::{Access, Env, Stop};
use std::borrow::Cow;
use x86::cpu::XsaveArea;
use x86::{Exception, cr0, cr4, xstate as x};

/// The members of the family that write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// XSAVE.
    Plain,
    /// XSAVEOPT.
    Opt,
    /// XSAVEC.
    Compact,
    /// XSAVES.
    Supervisor,
}

impl Form {
    /// Bit of CPUID 0DH.1:EAX that offers it; XSAVE needs none.
    const fn offer(self) -> Option<u32> {
        match self {
            Self::Plain => None,
            Self::Opt => Some(0),
            Self::Compact => Some(1),
            Self::Supervisor => Some(3),
        }
    }
    const fn compacts(self) -> bool {
        matches!(self, Self::Compact | Self::Supervisor)
    }
}

/// Linear address of the operand of `len` bytes, aligned to `align`.
pub(super) fn operand<E: Env>(
    ctx: &mut Ctx<'_, E>,
    len: usize,
    align: u64,
    how: Access,
) -> Result<u64, Stop> {
    let (seg, ea) = ctx.ea(0);
    let la = ctx.linear(seg, ea, len as u32, how)?;
    if la & (align - 1) != 0 {
        return Err(Exception::GP0.into());
    }
    Ok(la)
}

/// Copies the x87 piece of the image; the 32-bit form has FIP and FDP as
/// 32-bit offsets with zero selectors (SDM vol 1, table 10-2).
pub(super) fn copy_x87(to: &mut [u8], from: &[u8], wide: bool) {
    for p in X87 {
        to[p.clone()].copy_from_slice(&from[p]);
    }
    if !wide {
        to[12..16].fill(0);
        to[20..24].fill(0);
    }
}

/// FXSAVE; `wide` with REX.W. Only the registers the mode has are written.
pub(super) fn fxsave<E: Env>(ctx: &mut Ctx<'_, E>, wide: bool) -> Result<Handled, Stop> {
    fx_available(ctx)?;
    let la = operand(ctx, 512, 16, Access::Write)?;
    let areas = ctx.env.xsave_areas(ctx.cpu);
    let mut image = ctx.cpu.xsave.clone();
    materialize(&mut image, &areas);
    let mut buffer = [0u8; 416];
    buffer[24..416].copy_from_slice(&image.0[24..416]);
    copy_x87(&mut buffer, &image.0, wide);
    let end = xmm(ctx.long).end;
    ctx.env
        .store_bytes(ctx.cpu, la, &buffer[..end], Access::Write)?;
    Ok(Handled::Next)
}

/// FXSAVE and FXRSTOR: CR0.EM is #UD (SDM vol 3, table 2-2: #NM for TS).
pub(super) fn fx_available<E: Env>(ctx: &Ctx<'_, E>) -> Result<(), Stop> {
    if ctx.cpu.cr0 & cr0::EM != 0 {
        return Err(Exception::UD.into());
    }
    available(ctx.cpu, cr0::TS)
}

/// #UD, #NM and #GP(0) common to the XSAVE family; `offer` is the bit of
/// CPUID 0DH.1:EAX.
pub(super) fn xs_available<E: Env>(
    ctx: &mut Ctx<'_, E>,
    offer: Option<u32>,
    supervisor: bool,
) -> Result<(), Stop> {
    let offered = match offer {
        Some(bit) => ctx.env.xsave_areas(ctx.cpu).offers(bit),
        None => true,
    };
    if ctx.cpu.cr4 & cr4::OSXSAVE == 0 || !offered {
        return Err(Exception::UD.into());
    }
    if supervisor {
        privileged(ctx.cpu)?;
    }
    available(ctx.cpu, cr0::TS)
}

/// XSAVE, XSAVEOPT, XSAVEC, XSAVES; `wide` with REX.W.
pub(super) fn xsave<E: Env>(ctx: &mut Ctx<'_, E>, form: Form, wide: bool) -> Result<Handled, Stop> {
    let supervisor = form == Form::Supervisor;
    xs_available(ctx, form.offer(), supervisor)?;
    let mut enabled = ctx.cpu.xcr0;
    if supervisor {
        enabled |= ctx.cpu.msr.xss;
    }
    let requested = edx_eax(ctx.cpu) & enabled;
    let areas = ctx.env.xsave_areas(ctx.cpu);
    let writer = Writer {
        form,
        wide,
        long: ctx.long,
        requested,
        areas,
    };
    let len = writer.len();
    let la = operand(ctx, len, 64, Access::ReadModify)?;
    let mut buffer = [0u8; BUFFER];
    let area = &mut buffer[..len];
    ctx.env.load_bytes(ctx.cpu, la, area, Access::ReadModify)?;
    writer.fill(&ctx.cpu.xsave, area);
    ctx.env.store_bytes(ctx.cpu, la, area, Access::Write)?;
    Ok(Handled::Next)
}

/// One save in progress.
struct Writer {
    form: Form,
    wide: bool,
    long: bool,
    /// RFBM.
    requested: u64,
    areas: Areas,
}

impl Writer {
    /// Bytes the instruction may touch.
    fn len(&self) -> usize {
        if self.form.compacts() {
            return self.areas.compacted(self.requested).1;
        }
        self.areas
            .of(self.requested)
            .map(|(_, a)| a.offset + a.size)
            .max()
            .unwrap_or(EXTENDED)
    }

    /// Updates `area`, which holds what memory holds.
    fn fill(&self, state: &XsaveArea, area: &mut [u8]) {
        let mut in_use = self.areas.in_use(state);
        let mxcsr = read_u32(&state.0, MXCSR.start);
        if self.form.compacts() && mxcsr != MXCSR_INIT {
            in_use |= x::SSE;
        }
        let saved = in_use & self.requested;
        // The init optimization leaves initial components unwritten.
        let written = if self.form == Form::Plain {
            self.requested
        } else {
            saved
        };
        let initial = written & !xstate_bv(state);
        let image = match initial {
            0 => Cow::Borrowed(state),
            _ => {
                let mut image = state.clone();
                initialize(&mut image, &self.areas, initial);
                Cow::Owned(image)
            }
        };
        if written & x::X87 != 0 {
            copy_x87(area, &image.0, self.wide);
        }
        if written & x::SSE != 0 {
            let p = xmm(self.long);
            area[p.clone()].copy_from_slice(&image.0[p]);
        }
        let mxcsr_with = if self.form.compacts() {
            written & x::SSE
        } else {
            self.requested & (x::SSE | x::AVX)
        };
        if mxcsr_with != 0 {
            area[24..32].copy_from_slice(&image.0[24..32]);
        }
        self.fill_extended(&image, area, written);
        self.fill_header(area, saved);
    }

    fn fill_extended(&self, image: &XsaveArea, area: &mut [u8], written: u64) {
        let (compacted, _) = self.areas.compacted(self.requested);
        for (i, a) in self.areas.of(written) {
            let at = if self.form.compacts() {
                compacted[i]
            } else {
                a.offset
            };
            let n = self.areas.moved(i, a, self.long);
            area[at..at + n].copy_from_slice(&image.0[a.image..a.image + n]);
        }
    }

    fn fill_header(&self, area: &mut [u8], saved: u64) {
        if self.form.compacts() {
            area[HEADER..HEADER + 8].copy_from_slice(&saved.to_le_bytes());
            let xcomp_bv = self.requested | 1 << 63;
            area[HEADER + 8..HEADER + 16].copy_from_slice(&xcomp_bv.to_le_bytes());
        } else {
            let old = read_u64(area, HEADER);
            let bv = (old & !self.requested) | saved;
            area[HEADER..HEADER + 8].copy_from_slice(&bv.to_le_bytes());
        }
    }
}
