//! FXRSTOR, XRSTOR, XRSTORS: loading the guest's state image from memory
//! (SDM vol 1, 10.5, 13.8 and 13.12).

use super::x87;
use super::xsave::{copy_x87, fx_available, operand, xs_available};
use super::xstate::{
    Areas, BUFFER, EXTENDED, HEADER, MXCSR, MXCSR_INIT, check_mxcsr, edx_eax, initialize,
    materialize, read_u32, read_u64, set_xstate_bv, xmm, xstate_bv,
};
use crate::operand::{Ctx, Handled};
use crate::{Access, Env, Stop};
use x86::cpu::XsaveArea;
use x86::{Exception, xstate as x};

/// Loads the x87 piece; reserved bytes read back as zero, the summary bits
/// follow the loaded exceptions and masks.
fn load_x87(image: &mut XsaveArea, from: &[u8], wide: bool) {
    copy_x87(&mut image.0, from, wide);
    image.0[5] = 0;
    image.0[7] &= 7;
    for st in image.0[32..160].chunks_exact_mut(16) {
        st[10..].fill(0);
    }
    x87::normalize_words(image);
}

/// FXRSTOR; `wide` with REX.W.
pub(super) fn fxrstor<E: Env>(ctx: &mut Ctx<'_, E>, wide: bool) -> Result<Handled, Stop> {
    fx_available(ctx)?;
    let la = operand(ctx, 512, 16, Access::Read)?;
    let mut buffer = [0u8; 512];
    ctx.env.load_bytes(ctx.cpu, la, &mut buffer, Access::Read)?;
    check_mxcsr(&ctx.cpu.xsave, read_u32(&buffer, MXCSR.start))?;
    let areas = ctx.env.xsave_areas(ctx.cpu);
    let image = &mut ctx.cpu.xsave;
    let bv = xstate_bv(image);
    materialize(image, &areas);
    load_x87(image, &buffer, wide);
    image.0[MXCSR].copy_from_slice(&buffer[MXCSR]);
    let p = xmm(ctx.long);
    image.0[p.clone()].copy_from_slice(&buffer[p]);
    set_xstate_bv(image, bv | x::X87 | x::SSE);
    Ok(Handled::Next)
}

/// XRSTOR, or XRSTORS with `supervisor`; `wide` with REX.W.
pub(super) fn xrstor<E: Env>(
    ctx: &mut Ctx<'_, E>,
    supervisor: bool,
    wide: bool,
) -> Result<Handled, Stop> {
    xs_available(ctx, supervisor.then_some(3), supervisor)?;
    let mut enabled = ctx.cpu.xcr0;
    if supervisor {
        enabled |= ctx.cpu.msr.xss;
    }
    let la = operand(ctx, EXTENDED, 64, Access::Read)?;
    let mut buffer = [0u8; BUFFER];
    ctx.env
        .load_bytes(ctx.cpu, la, &mut buffer[..EXTENDED], Access::Read)?;
    let compaction = supervisor || ctx.env.xsave_areas(ctx.cpu).offers(1);
    let header = Header::parse(&buffer, enabled, supervisor, compaction)?;
    let reader = Reader {
        wide,
        long: ctx.long,
        requested: edx_eax(ctx.cpu) & enabled,
        areas: ctx.env.xsave_areas(ctx.cpu),
        header,
    };
    let len = reader.len();
    if len > EXTENDED {
        let la = operand(ctx, len, 64, Access::Read)?;
        ctx.env
            .load_bytes(ctx.cpu, la, &mut buffer[..len], Access::Read)?;
    }
    if reader.loads_mxcsr() {
        check_mxcsr(&ctx.cpu.xsave, read_u32(&buffer, MXCSR.start))?;
    }
    reader.apply(&buffer, &mut ctx.cpu.xsave);
    Ok(Handled::Next)
}

/// A checked XSAVE header.
#[derive(Clone, Copy, Debug)]
struct Header {
    xstate_bv: u64,
    /// The compacted format's components, without bit 63.
    compacted: Option<u64>,
}

impl Header {
    /// #GP(0) for what SDM vol 1, 13.8.1 and 13.8.2 reject.
    fn parse(
        area: &[u8; BUFFER],
        enabled: u64,
        supervisor: bool,
        compaction: bool,
    ) -> Result<Self, Stop> {
        let xstate_bv = read_u64(area, HEADER);
        let xcomp_bv = read_u64(area, HEADER + 8);
        let components = xcomp_bv & !(1 << 63);
        let is_compacted = xcomp_bv >> 63 != 0;
        let zero =
            |from: usize, to: usize| area[HEADER + from..HEADER + to].iter().all(|&b| b == 0);
        let valid = if is_compacted {
            compaction && components & !enabled == 0 && xstate_bv & !components == 0 && zero(16, 64)
        } else {
            !supervisor && xstate_bv & !enabled == 0 && zero(8, 24)
        };
        if !valid {
            return Err(Exception::GP0.into());
        }
        Ok(Self {
            xstate_bv,
            compacted: is_compacted.then_some(components),
        })
    }
}

/// One restore in progress.
struct Reader {
    wide: bool,
    long: bool,
    /// RFBM.
    requested: u64,
    areas: Areas,
    header: Header,
}

impl Reader {
    /// Components loaded from memory; the other requested ones are
    /// initialized.
    fn loaded(&self) -> u64 {
        self.requested & self.header.xstate_bv
    }

    fn offset(&self, i: usize, standard: usize) -> usize {
        match self.header.compacted {
            Some(components) => self.areas.compacted(components).0[i],
            None => standard,
        }
    }

    /// Bytes of memory that take part.
    fn len(&self) -> usize {
        self.areas
            .of(self.loaded())
            .map(|(i, a)| self.offset(i, a.offset) + a.size)
            .max()
            .unwrap_or(EXTENDED)
    }

    /// The standard format loads MXCSR with SSE or AVX whatever XSTATE_BV
    /// says; the compacted format only as part of SSE.
    fn loads_mxcsr(&self) -> bool {
        match self.header.compacted {
            Some(_) => self.loaded() & x::SSE != 0,
            None => self.requested & (x::SSE | x::AVX) != 0,
        }
    }

    fn apply(&self, area: &[u8; BUFFER], image: &mut XsaveArea) {
        let loaded = self.loaded();
        let bv = xstate_bv(image);
        // Registers 8 and up keep their values outside 64-bit mode, so bytes
        // of a component that was initial must first say so.
        initialize(image, &self.areas, !bv);
        if self.long {
            initialize(image, &self.areas, self.requested & !loaded);
        } else {
            self.initialize_low(image, self.requested & !loaded);
        }
        if loaded & x::X87 != 0 {
            load_x87(image, area, self.wide);
        }
        if loaded & x::SSE != 0 {
            let p = xmm(self.long);
            image.0[p.clone()].copy_from_slice(&area[p]);
        }
        for (i, a) in self.areas.of(loaded) {
            let (at, n) = (self.offset(i, a.offset), self.areas.moved(i, a, self.long));
            image.0[a.image..a.image + n].copy_from_slice(&area[at..at + n]);
        }
        if self.loads_mxcsr() {
            image.0[MXCSR].copy_from_slice(&area[MXCSR]);
        } else if self.requested & x::SSE != 0 {
            image.0[MXCSR].copy_from_slice(&MXCSR_INIT.to_le_bytes());
        }
        let cleared = if self.long {
            self.requested & !loaded
        } else {
            0
        };
        set_xstate_bv(image, (bv & !cleared) | loaded);
    }

    /// Initializes only the registers that exist outside 64-bit mode.
    fn initialize_low(&self, image: &mut XsaveArea, mask: u64) {
        let halves = x::SSE | x::AVX | x::ZMM_HI256 | x::HI16_ZMM;
        initialize(image, &self.areas, mask & !halves);
        if mask & x::SSE != 0 {
            image.0[xmm(false)].fill(0);
        }
        for (i, a) in self.areas.of(mask & halves) {
            let n = self.areas.moved(i, a, false);
            image.0[a.image..a.image + n].fill(0);
        }
    }
}
