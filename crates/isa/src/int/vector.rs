//! Vector, opmask and MMX registers inside the XSAVE image (SDM vol 1, 13.4).

use iced_x86::Register;
use x86::{CpuState, xstate, xstate::Layout};

const TOP_WORD: usize = 2;
const ST: usize = 32;
const XMM: usize = 160;
const XSTATE_BV: usize = 512;

/// The parts of vector register `n`: XSAVE component, offset in the image,
/// bytes, offset in the register.
fn parts(l: &Layout, n: usize) -> [(u64, usize, usize, usize); 3] {
    if n < 16 {
        [
            (xstate::SSE, XMM + 16 * n, 16, 0),
            (xstate::AVX, l.avx + 16 * n, 16, 16),
            (xstate::ZMM_HI256, l.zmm_hi256 + 32 * n, 32, 32),
        ]
    } else {
        let at = l.hi16_zmm + 64 * (n & 15);
        [
            (xstate::HI16_ZMM, at, 16, 0),
            (xstate::HI16_ZMM, at + 16, 16, 16),
            (xstate::HI16_ZMM, at + 32, 32, 32),
        ]
    }
}

fn present(cpu: &CpuState) -> u64 {
    word(cpu, XSTATE_BV)
}

fn word(cpu: &CpuState, at: usize) -> u64 {
    let mut b = [0; 8];
    b.copy_from_slice(&cpu.xsave.0[at..at + 8]);
    u64::from_le_bytes(b)
}

fn put_word(cpu: &mut CpuState, at: usize, v: u64) {
    cpu.xsave.0[at..at + 8].copy_from_slice(&v.to_le_bytes());
}

/// Marks components as not in their initial state; a component that was is
/// zeroed first, because its bytes in the image mean nothing.
fn activate(cpu: &mut CpuState, component: u64) {
    let bv = present(cpu);
    if bv & component != 0 {
        return;
    }
    let place = match component {
        xstate::SSE => Some((XMM, 256)),
        extended => cpu.xlayout.place(extended),
    };
    let Some((at, len)) = place else { return };
    cpu.xsave.0[at..at + len].fill(0);
    put_word(cpu, XSTATE_BV, bv | component);
}

/// Number of a vector register and its width in bytes, (0, 0) for others.
pub(super) fn vector_of(r: Register) -> (usize, usize) {
    if r.is_xmm() {
        (r.number(), 16)
    } else if r.is_ymm() {
        (r.number(), 32)
    } else if r.is_zmm() {
        (r.number(), 64)
    } else {
        (0, 0)
    }
}

/// All 64 bytes of vector register `n` (0..=31).
pub(super) fn read(cpu: &CpuState, n: usize) -> [u8; 64] {
    let mut v = [0; 64];
    let bv = present(cpu);
    for (component, at, len, pos) in parts(&cpu.xlayout, n & 31) {
        if bv & component != 0 {
            v[pos..pos + len].copy_from_slice(&cpu.xsave.0[at..at + len]);
        }
    }
    v
}

/// Writes all 64 bytes of vector register `n`; zeros leave a component that is
/// in its initial state there.
pub(super) fn write(cpu: &mut CpuState, n: usize, v: &[u8; 64]) {
    for (component, at, len, pos) in parts(&cpu.xlayout, n & 31) {
        let part = &v[pos..pos + len];
        if present(cpu) & component == 0 && part.iter().all(|&b| b == 0) {
            continue;
        }
        activate(cpu, component);
        cpu.xsave.0[at..at + len].copy_from_slice(part);
    }
}

/// Opmask register `r`.
pub(super) fn opmask(cpu: &CpuState, r: Register) -> u64 {
    if present(cpu) & xstate::OPMASK == 0 {
        return 0;
    }
    word(cpu, cpu.xlayout.opmask + 8 * (r.number() & 7))
}

/// Writes opmask register `r`.
pub(super) fn set_opmask(cpu: &mut CpuState, r: Register, v: u64) {
    activate(cpu, xstate::OPMASK);
    let at = cpu.xlayout.opmask + 8 * (r.number() & 7);
    put_word(cpu, at, v);
}

/// MMX register `r`: the image stores the stack's order, MMX the physical one.
pub(super) fn mmx(cpu: &CpuState, r: Register) -> u64 {
    if present(cpu) & xstate::X87 == 0 {
        return 0;
    }
    let top = usize::from(cpu.xsave.0[TOP_WORD + 1] >> 3) & 7;
    let slot = r.number().wrapping_sub(top) & 7;
    word(cpu, ST + 16 * slot)
}
