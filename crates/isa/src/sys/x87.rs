//! FNSTENV, FLDENV, FNSAVE, FRSTOR in their four layouts (SDM vol 1, 8.1.10
//! and figures 8-9 to 8-12), as data of the state image.

use super::xstate::{self, available, materialize, set_xstate_bv, xstate_bv};
use crate::operand::{Ctx, Handled};
use crate::{Access, Env, Stop};
use iced_x86::Code;
use x86::cpu::XsaveArea;
use x86::{Exception, cr0, xstate as x};

/// Control word, status word, abridged tag, opcode, FIP, FDP in the image.
const FCW: usize = 0;
const FSW: usize = 2;
const FTW: usize = 4;
const FOP: usize = 6;
const FIP: usize = 8;
const FDP: usize = 16;
/// ST0; registers are 16 bytes apart.
const ST: usize = 32;

/// Status word: error summary, busy, exceptions.
const ES: u16 = 0x80;
const BUSY: u16 = 0x8000;
const EXCEPTIONS: u16 = 0x3f;

/// The environment of the image in architectural form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Environment {
    fcw: u16,
    fsw: u16,
    /// Two bits a physical register.
    tag: u16,
    fop: u16,
    fip: u32,
    fcs: u16,
    fdp: u32,
    fds: u16,
}

fn word(image: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([image[at], image[at + 1]])
}

fn set_word(image: &mut [u8], at: usize, value: u16) {
    image[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

const fn top(fsw: u16) -> usize {
    (fsw >> 11 & 7) as usize
}

/// The tag a register's contents give: valid, zero or special (SDM vol 1,
/// 8.1.7).
fn tag_of(register: &[u8]) -> u16 {
    let mantissa = xstate::read_u64(register, 0);
    let exponent = word(register, 8) & 0x7fff;
    match (exponent, mantissa) {
        (0, 0) => 1,
        (0 | 0x7fff, _) => 2,
        (_, m) if m >> 63 == 0 => 2,
        _ => 0,
    }
}

/// The full tag word of the image.
fn full_tag(image: &[u8]) -> u16 {
    let top = top(word(image, FSW));
    (0..8).fold(0, |tag, physical| {
        let st = ST + 16 * ((physical + 8 - top) & 7);
        let bits = if image[FTW] >> physical & 1 == 0 {
            3
        } else {
            tag_of(&image[st..st + 10])
        };
        tag | bits << (2 * physical)
    })
}

/// The abridged tag byte of a full tag word.
fn abridged(tag: u16) -> u8 {
    (0..8).fold(0, |byte, i| byte | u8::from(tag >> (2 * i) & 3 != 3) << i)
}

impl Environment {
    fn of(image: &[u8]) -> Self {
        Self {
            fcw: word(image, FCW),
            fsw: word(image, FSW),
            tag: full_tag(image),
            fop: word(image, FOP) & 0x7ff,
            fip: xstate::read_u32(image, FIP),
            fcs: 0,
            fdp: xstate::read_u32(image, FDP),
            fds: 0,
        }
    }

    /// The seven words or doublewords of the layout.
    fn fields(&self, wide: bool, real: bool) -> [u32; 7] {
        let (fop, fip, fdp) = (u32::from(self.fop), self.fip, self.fdp);
        let head = [self.fcw, self.fsw, self.tag].map(u32::from);
        let tail = match (wide, real) {
            (true, false) => [
                fip,
                u32::from(self.fcs) | fop << 16,
                fdp,
                u32::from(self.fds),
            ],
            (true, true) => [
                fip & 0xffff,
                (fip >> 16) << 12 | fop,
                fdp & 0xffff,
                (fdp >> 16) << 12,
            ],
            (false, false) => [
                fip & 0xffff,
                u32::from(self.fcs),
                fdp & 0xffff,
                u32::from(self.fds),
            ],
            (false, true) => [
                fip & 0xffff,
                (fip >> 4) & 0xf000 | fop,
                fdp & 0xffff,
                (fdp >> 4) & 0xf000,
            ],
        };
        let mut all = [0; 7];
        all[..3].copy_from_slice(&head);
        all[3..].copy_from_slice(&tail);
        if wide {
            // The unused upper halves are stored as ones.
            for i in [0, 1, 2] {
                all[i] |= 0xffff_0000;
            }
            let upper = if real {
                [3, 5].as_slice()
            } else {
                [6].as_slice()
            };
            for &i in upper {
                all[i] |= 0xffff_0000;
            }
        }
        all
    }

    fn parse(fields: &[u32; 7], wide: bool, real: bool) -> Self {
        let [fcw, fsw, tag, a, b, c, d] = *fields;
        let (fop, fip, fcs, fdp, fds) = match (wide, real) {
            (true, false) => (b >> 16, a, b, c, d),
            (true, true) => (
                b,
                a & 0xffff | (b >> 12) << 16,
                0,
                c & 0xffff | (d >> 12) << 16,
                0,
            ),
            (false, false) => (0, a, b, c, d),
            (false, true) => (b, a | (b & 0xf000) << 4, 0, c | (d & 0xf000) << 4, 0),
        };
        Self {
            fcw: fcw as u16,
            fsw: fsw as u16,
            tag: tag as u16,
            fop: fop as u16 & 0x7ff,
            fip,
            fcs: fcs as u16,
            fdp,
            fds: fds as u16,
        }
    }

    /// Puts the environment into the image; registers are kept by physical
    /// number, so they rotate if TOP changes.
    fn apply(&self, image: &mut XsaveArea) {
        let bytes = &mut image.0;
        let turn = top(self.fsw) + 8 - top(word(bytes, FSW));
        let mut registers = [0u8; 128];
        for i in 0..8 {
            let from = ST + 16 * ((i + turn) & 7);
            registers[16 * i..16 * i + 16].copy_from_slice(&bytes[from..from + 16]);
        }
        bytes[ST..ST + 128].copy_from_slice(&registers);
        set_word(bytes, FCW, self.fcw);
        set_word(bytes, FSW, self.fsw);
        bytes[FTW] = abridged(self.tag);
        set_word(bytes, FOP, self.fop);
        bytes[FIP..FIP + 8].copy_from_slice(&u64::from(self.fip).to_le_bytes());
        bytes[FDP..FDP + 8].copy_from_slice(&u64::from(self.fdp).to_le_bytes());
        normalize_words(image);
    }
}

/// What the unit makes of freshly loaded control and status words: reserved
/// control bits are fixed, ES and B say whether an unmasked exception waits
/// (SDM vol 1, 8.1.3.3).
pub(super) fn normalize_words(image: &mut XsaveArea) {
    let fcw = (word(&image.0, FCW) & 0x1f7f) | 0x40;
    let fsw = word(&image.0, FSW) & !(ES | BUSY);
    let pending = fsw & EXCEPTIONS & !fcw != 0;
    let summary = if pending { ES | BUSY } else { 0 };
    set_word(&mut image.0, FCW, fcw);
    set_word(&mut image.0, FSW, fsw | summary);
}

/// Form of the operand: 32-bit layout, real-mode layout, with registers.
struct Layout {
    wide: bool,
    real: bool,
    registers: bool,
}

impl Layout {
    fn of<E: Env>(ctx: &Ctx<'_, E>) -> Self {
        let code = ctx.insn.code();
        Self {
            wide: matches!(
                code,
                Code::Fnstenv_m28byte
                    | Code::Fldenv_m28byte
                    | Code::Fnsave_m108byte
                    | Code::Frstor_m108byte
            ),
            real: !ctx.cpu.protected(),
            registers: matches!(
                code,
                Code::Fnsave_m94byte
                    | Code::Fnsave_m108byte
                    | Code::Frstor_m94byte
                    | Code::Frstor_m108byte
            ),
        }
    }
    /// Bytes of the environment.
    fn environment(&self) -> usize {
        if self.wide { 28 } else { 14 }
    }
    fn len(&self) -> usize {
        self.environment() + if self.registers { 80 } else { 0 }
    }
}

/// The guest's image with the x87 bytes made explicit.
fn explicit<E: Env>(ctx: &mut Ctx<'_, E>) -> XsaveArea {
    let areas = ctx.env.xsave_areas(ctx.cpu);
    let mut image = ctx.cpu.xsave.clone();
    materialize(&mut image, &areas);
    let bv = xstate_bv(&image) | x::X87;
    set_xstate_bv(&mut image, bv);
    image
}

/// FNSTENV (masks all exceptions) and FNSAVE (initializes the unit).
pub(super) fn store<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    available(ctx.cpu, cr0::TS | cr0::EM)?;
    let layout = Layout::of(ctx);
    let mut image = explicit(ctx);
    let mut buffer = [0u8; 108];
    let step = layout.environment() / 7;
    let fields = Environment::of(&image.0).fields(layout.wide, layout.real);
    for (slot, field) in buffer.chunks_exact_mut(step).zip(fields) {
        slot.copy_from_slice(&field.to_le_bytes()[..step]);
    }
    if layout.registers {
        for i in 0..8 {
            let to = layout.environment() + 10 * i;
            buffer[to..to + 10].copy_from_slice(&image.0[ST + 16 * i..ST + 16 * i + 10]);
        }
    }
    let (seg, ea) = ctx.ea(0);
    ctx.write_bytes(seg, ea, &buffer[..layout.len()])?;
    if layout.registers {
        initialize(&mut image);
    } else {
        let masked = word(&image.0, FCW) | EXCEPTIONS;
        set_word(&mut image.0, FCW, masked);
        let quiet = word(&image.0, FSW) & !(ES | BUSY);
        set_word(&mut image.0, FSW, quiet);
    }
    ctx.cpu.xsave = image;
    Ok(Handled::Next)
}

/// FNINIT: the registers keep their contents, all are tagged empty.
fn initialize(image: &mut XsaveArea) {
    let init = Environment {
        fcw: 0x37f,
        tag: 0xffff,
        ..Environment::default()
    };
    init.apply(image);
}

/// FLDENV and FRSTOR; both first report pending unmasked exceptions.
pub(super) fn load<E: Env>(ctx: &mut Ctx<'_, E>) -> Result<Handled, Stop> {
    available(ctx.cpu, cr0::TS | cr0::EM)?;
    let mut image = explicit(ctx);
    if word(&image.0, FSW) & ES != 0 {
        return Err(Exception::MF.into());
    }
    let layout = Layout::of(ctx);
    let mut buffer = [0u8; 108];
    let (seg, ea) = ctx.ea(0);
    let len = layout.len();
    let la = ctx.linear(seg, ea, len as u32, Access::Read)?;
    ctx.env
        .load_bytes(ctx.cpu, la, &mut buffer[..len], Access::Read)?;
    let step = layout.environment() / 7;
    let mut fields = [0u32; 7];
    for (field, slot) in fields.iter_mut().zip(buffer.chunks_exact(step)) {
        let mut bytes = [0; 4];
        bytes[..step].copy_from_slice(slot);
        *field = u32::from_le_bytes(bytes);
    }
    Environment::parse(&fields, layout.wide, layout.real).apply(&mut image);
    if layout.registers {
        for i in 0..8 {
            let from = layout.environment() + 10 * i;
            let to = ST + 16 * i;
            image.0[to..to + 10].copy_from_slice(&buffer[from..from + 10]);
            image.0[to + 10..to + 16].fill(0);
        }
    }
    ctx.cpu.xsave = image;
    Ok(Handled::Next)
}
