//! Where each XSAVE state component lives, and its initial configuration
//! (SDM vol 1, chapter 13).
//!
//! The guest's x87 and vector state is the standard-format image
//! [`CpuState::xsave`]. A component whose XSTATE_BV bit is clear there is in
//! its initial configuration whatever its bytes say.

use crate::{Env, Stop};
use std::sync::LazyLock;
use x86::cpu::XsaveArea;
use x86::{CpuState, Exception, cr0, gpr, xstate as x};

/// Start of the XSAVE header; XSTATE_BV is its first field.
pub(super) const HEADER: usize = 512;
/// Start of the extended region.
pub(super) const EXTENDED: usize = 576;
/// Default MXCSR.
pub(super) const MXCSR_INIT: u32 = 0x1f80;
/// Largest component number considered.
const COMPONENTS: usize = 19;
/// Room for any area an instruction reads or writes.
pub(super) const BUFFER: usize = 4096;

/// The initial configuration of all components.
static INIT: LazyLock<XsaveArea> = LazyLock::new(XsaveArea::default);

/// A piece of the legacy region.
pub(super) type Piece = std::ops::Range<usize>;
/// x87 state without MXCSR (component 0).
pub(super) const X87: [Piece; 2] = [0..24, 32..160];
/// MXCSR; MXCSR_MASK follows it.
pub(super) const MXCSR: Piece = 24..28;

/// XMM registers an instruction moves: 8 outside 64-bit mode.
pub(super) fn xmm(long: bool) -> Piece {
    if long { 160..416 } else { 160..288 }
}

/// EDX:EAX.
pub(super) fn edx_eax(cpu: &CpuState) -> u64 {
    (cpu.gpr[gpr::RDX] << 32) | (cpu.gpr[gpr::RAX] & 0xffff_ffff)
}

/// The XCR0 bits the guest may set (CPUID 0DH.0).
pub fn xcr0_supported<E: Env>(cpu: &CpuState, env: &mut E) -> u64 {
    let [low, _, _, high] = env.cpuid(cpu, 0xd, 0);
    u64::from(high) << 32 | u64::from(low)
}

/// #NM if CR0.TS, or also CR0.EM for x87 instructions, hides the state.
pub(super) fn available(cpu: &CpuState, hiding: u64) -> Result<(), Stop> {
    if cpu.cr0 & hiding & (cr0::TS | cr0::EM) != 0 {
        return Err(Exception::NM.into());
    }
    Ok(())
}

/// One extended component.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Area {
    /// Offset in the guest's standard format.
    pub offset: usize,
    /// Offset in [`CpuState::xsave`].
    pub image: usize,
    /// Bytes.
    pub size: usize,
    /// Starts on a 64-byte boundary in the compacted format.
    pub aligned: bool,
}

/// What CPUID 0DH says: the layout of the guest's extended components, and which
/// instructions there are for them.
#[derive(Clone, Copy, Debug)]
pub struct Areas {
    /// The components that there are, with their numbers, lowest first.
    areas: [(usize, Area); COMPONENTS],
    /// How many these are.
    len: usize,
    /// CPUID 0DH.1:EAX.
    offers: u32,
}

impl Areas {
    /// Reads the layout of the components XCR0 and IA32_XSS may enable.
    pub fn new<E: Env>(cpu: &CpuState, env: &mut E) -> Self {
        let (mut areas, mut len) = ([(0, Area::default()); COMPONENTS], 0);
        let offers = env.cpuid(cpu, 0xd, 1)[0];
        let wanted = xcr0_supported(cpu, env);
        for i in 2..COMPONENTS {
            let Some((image, size)) = cpu.xlayout.place(wanted & 1 << i) else {
                continue;
            };
            let [bytes, offset, flags, _] = env.cpuid(cpu, 0xd, i as u32);
            let offset = offset as usize;
            let fits = offset >= EXTENDED && offset.saturating_add(size) <= BUFFER;
            if fits && bytes as usize == size {
                let area = Area {
                    offset,
                    image,
                    size,
                    aligned: flags & 2 != 0,
                };
                areas[len] = (i, area);
                len += 1;
            }
        }
        Self { areas, len, offers }
    }

    /// A bit of CPUID 0DH.1:EAX.
    pub(super) fn offers(&self, bit: u32) -> bool {
        self.offers >> bit & 1 != 0
    }

    /// The extended components of `mask`, lowest first.
    pub(super) fn of(&self, mask: u64) -> impl Iterator<Item = (usize, Area)> + '_ {
        let present = self.areas[..self.len].iter().copied();
        present.filter(move |(i, _)| mask >> i & 1 != 0)
    }

    /// The components of `mask` with their offsets in the compacted format of
    /// `xcomp_bv` (SDM vol 1, 13.4.3), and the end of the area.
    pub(super) fn compacted(&self, xcomp_bv: u64) -> ([usize; COMPONENTS], usize) {
        let mut offsets = [0; COMPONENTS];
        let mut next = EXTENDED;
        for (i, area) in self.of(xcomp_bv) {
            if area.aligned {
                next = next.next_multiple_of(64);
            }
            offsets[i] = next;
            next += area.size;
        }
        (offsets, next)
    }

    /// XINUSE: the components that are not in their initial configuration.
    pub(super) fn in_use(&self, image: &XsaveArea) -> u64 {
        let bv = xstate_bv(image);
        let bytes = &image.0;
        let mut used = 0;
        if X87.iter().any(|p| bytes[p.clone()] != INIT.0[p.clone()]) {
            used |= x::X87;
        }
        if !is_zero(&bytes[xmm(true)]) {
            used |= x::SSE;
        }
        for (i, a) in self.of(u64::MAX) {
            if !is_zero(&bytes[a.image..a.image + a.size]) {
                used |= 1 << i;
            }
        }
        used & bv
    }

    /// Bytes of component `i` an instruction moves outside 64-bit mode, where
    /// registers 8 and up do not take part (SDM vol 1, 13.7).
    pub(super) fn moved(&self, i: usize, area: Area, long: bool) -> usize {
        match (long, 1u64 << i) {
            (false, x::AVX | x::ZMM_HI256) => area.size / 2,
            (false, x::HI16_ZMM) => 0,
            _ => area.size,
        }
    }
}

/// True if all bytes are 0; looks at many at once.
fn is_zero(bytes: &[u8]) -> bool {
    bytes
        .chunks(64)
        .all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

/// XSTATE_BV of the guest's image.
pub(super) fn xstate_bv(image: &XsaveArea) -> u64 {
    read_u64(&image.0, HEADER)
}

pub(super) fn set_xstate_bv(image: &mut XsaveArea, value: u64) {
    image.0[HEADER..HEADER + 8].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn read_u64(bytes: &[u8], at: usize) -> u64 {
    let mut b = [0; 8];
    b.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(b)
}

pub(super) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    let mut b = [0; 4];
    b.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(b)
}

/// Writes the initial configuration of the components of `mask` into the
/// image, so that its bytes may be used as they are.
pub(super) fn initialize(image: &mut XsaveArea, areas: &Areas, mask: u64) {
    if mask & x::X87 != 0 {
        for p in X87 {
            image.0[p.clone()].copy_from_slice(&INIT.0[p]);
        }
    }
    if mask & x::SSE != 0 {
        image.0[xmm(true)].fill(0);
    }
    for (_, a) in areas.of(mask) {
        image.0[a.image..a.image + a.size].fill(0);
    }
}

/// Makes the bytes of all components explicit.
pub(super) fn materialize(image: &mut XsaveArea, areas: &Areas) {
    let clear = !xstate_bv(image);
    initialize(image, areas, clear);
}

/// MXCSR with a reserved bit raises #GP(0) (SDM vol 1, 10.2.3).
pub(super) fn check_mxcsr(image: &XsaveArea, mxcsr: u32) -> Result<(), Stop> {
    let mask = match read_u32(&image.0, 28) {
        0 => 0xffbf,
        m => m,
    };
    if mxcsr & !mask != 0 {
        return Err(Exception::GP0.into());
    }
    Ok(())
}
