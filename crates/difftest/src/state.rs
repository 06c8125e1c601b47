//! Random x87 and vector state, and lanes of it.

use iced_x86::Register;
use std::sync::OnceLock;
use x86::cpu::XsaveArea;
use x86::xstate::Layout;

use crate::rng::Rng;

// The legacy region (SDM vol 1, 13.4); the rest is where the host has it.
const ST: usize = 32;
const XMM: usize = 160;

/// Where this host's XSAVE puts the extended components.
pub fn layout() -> Layout {
    static LAYOUT: OnceLock<Layout> = OnceLock::new();
    *LAYOUT.get_or_init(|| jit::native::components().1)
}

/// A random image with every component in use.
pub fn random(rng: &mut Rng) -> XsaveArea {
    let mut a = XsaveArea::default();
    let (b, l) = (&mut a.0, layout());
    for at in (XMM..XMM + 256)
        .chain(l.avx..l.avx + 256)
        .chain(l.zmm_hi256..l.zmm_hi256 + 512)
        .chain(l.hi16_zmm..l.hi16_zmm + 1024)
        .step_by(8)
    {
        b[at..at + 8].copy_from_slice(&lane(rng).to_le_bytes());
    }
    for k in 0..8 {
        let mask = rng.word() >> rng.below(64);
        let at = l.opmask + k * 8;
        b[at..at + 8].copy_from_slice(&mask.to_le_bytes());
    }
    for i in 0..8 {
        let at = ST + i * 16;
        let (mantissa, exponent) = extended(rng);
        b[at..at + 8].copy_from_slice(&mantissa.to_le_bytes());
        b[at + 8..at + 10].copy_from_slice(&exponent.to_le_bytes());
    }
    let unmasked = rng.chance(3);
    let rounding = rng.below(4) as u16;
    let precision = rng.pick(&[0u16, 2, 3, 3, 3, 3]);
    let masks = if unmasked { rng.below(64) as u16 } else { 0x3f };
    let fcw = 0x40 | masks | precision << 8 | rounding << 10;
    b[0..2].copy_from_slice(&fcw.to_le_bytes());
    let fsw = rng.word() as u16 & 0x7f00; // TOP and condition codes
    b[2..4].copy_from_slice(&(fsw & 0x7f00).to_le_bytes());
    b[4] = if rng.chance(50) {
        0xff
    } else {
        rng.word() as u8
    };
    let mut mxcsr = (rng.below(4) as u32) << 13 | u32::from(masks) << 7;
    if rng.chance(20) {
        mxcsr |= 0x8000; // flush to zero
    }
    if rng.chance(20) {
        mxcsr |= 0x40; // denormals are zeros
    }
    b[24..28].copy_from_slice(&mxcsr.to_le_bytes());
    b[512] = 0xe7;
    a
}

/// Eight bytes that are an interesting f64, two interesting f32, small
/// integers or anything.
fn lane(rng: &mut Rng) -> u64 {
    let single = |rng: &mut Rng| -> u64 {
        u64::from(match rng.below(6) {
            0 => (rng.below(64) as f32 - 32.0).to_bits(),
            1 => rng.pick(&[
                0,
                0x8000_0000,
                0x7f80_0000,
                0xff80_0000,
                0x7fc0_0000,
                0x7f80_0001,
            ]),
            2 => rng.word() as u32 & 0x807f_ffff, // denormal
            _ => rng.word() as u32,
        })
    };
    match rng.below(6) {
        0 => (rng.below(2000) as f64 / 8.0 - 100.0).to_bits(),
        1 => rng.pick(&[
            0,
            1 << 63,
            0x7ff << 52,
            0xfff << 52,
            0x7ff8 << 48,
            0x7ff0_0000_0000_0001,
        ]),
        2 | 3 => single(rng) | single(rng) << 32,
        4 => rng.value(),
        _ => rng.word(),
    }
}

/// Mantissa and sign/exponent of an 80-bit value.
fn extended(rng: &mut Rng) -> (u64, u16) {
    let sign = (rng.below(2) as u16) << 15;
    match rng.below(8) {
        0 => (0, sign),
        1 => (1 << 63, sign | 0x7fff),
        2 => (rng.word() | 3 << 62, sign | 0x7fff),
        3 => (rng.word() >> 1, sign),
        4 => (rng.word(), rng.word() as u16), // unnormal, pseudo-denormal...
        _ => (
            rng.word() | 1 << 63,
            sign | (0x3fff - 40 + rng.below(80) as u16),
        ),
    }
}

fn offset(reg: Register, byte: usize) -> usize {
    let (n, l) = (reg.number(), layout());
    match (n, byte) {
        (16.., _) => l.hi16_zmm + (n & 15) * 64 + byte,
        (_, 0..16) => XMM + n * 16 + byte,
        (_, 16..32) => l.avx + n * 16 + byte - 16,
        _ => l.zmm_hi256 + n * 32 + byte - 32,
    }
}

/// Element `index` of `size` bytes (4 or 8) of a vector register,
/// sign-extended.
pub fn element(image: &XsaveArea, reg: Register, index: usize, size: usize) -> u64 {
    let at = offset(reg, (index * size) & 63);
    let b = &image.0[at..at + size];
    if size == 4 {
        i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]])).cast_unsigned()
    } else {
        let mut v = [0; 8];
        v.copy_from_slice(b);
        u64::from_le_bytes(v)
    }
}

/// Makes every 32- and 64-bit element of an index register a small number.
pub fn small_indices(image: &mut XsaveArea, reg: Register, rng: &mut Rng) {
    let wide = rng.chance(50);
    for i in 0..8 {
        let at = offset(reg, i * 8);
        let v = if wide {
            rng.below(512)
        } else {
            rng.below(512) | rng.below(512) << 32
        };
        image.0[at..at + 8].copy_from_slice(&v.to_le_bytes());
    }
}
