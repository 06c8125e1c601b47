//! The XSAVE image around a native execution: nothing in it may make XRSTOR
//! fault, and no host address may stay in it.

use std::ops::Range;

use iced_x86::{CodeSize, Encoder, Instruction, Mnemonic};
use x86::cpu::XsaveArea;
use x86::xstate::Layout;
use x86::{CpuState, Seg};

use super::entry::HostFpu;

// Offsets in the legacy region (SDM vol 1, table 10-2) and the header (13.4.2).
const FOP: usize = 6;
const FIP: usize = 8;
const FDP: usize = 16;
const MXCSR: usize = 24;
const XSTATE_BV: usize = 512;
const XCOMP_BV: usize = 520;
/// MXCSR bits that exist on every x86-64-v2 host.
const MXCSR_MASK: u32 = 0xffff;

/// Clears what XRSTOR and FXRSTOR refuse with #GP (SDM vol 1, 13.8.1).
pub fn sanitise(image: &mut XsaveArea, mask: u64) {
    let b = &mut image.0;
    let bv = u64_at(b, XSTATE_BV) & mask;
    b[XSTATE_BV..XSTATE_BV + 8].copy_from_slice(&bv.to_le_bytes());
    b[XCOMP_BV..XCOMP_BV + 56].fill(0);
    b[MXCSR + 2..MXCSR + 4].fill(0);
    const { assert!(MXCSR_MASK == 0xffff) };
}

/// Registers 8..=15, which VZEROUPPER and VZEROALL leave alone outside 64-bit
/// mode (SDM vol 2) but change when executed in it.
pub struct HighRegisters(Box<XsaveArea>);

/// Where they are: the upper halves of three components.
fn high(layout: &Layout) -> [Range<usize>; 3] {
    let (ymm, zmm) = (layout.avx, layout.zmm_hi256);
    [
        160 + 128..160 + 256,
        ymm + 128..ymm + 256,
        zmm + 256..zmm + 512,
    ]
}

/// Saves them if `insn` is one of those two in 16- or 32-bit code.
pub fn high_registers(cpu: &CpuState, insn: &Instruction) -> Option<HighRegisters> {
    let zero = matches!(insn.mnemonic(), Mnemonic::Vzeroupper | Mnemonic::Vzeroall);
    (zero && insn.code_size() != CodeSize::Code64)
        .then(|| HighRegisters(Box::new(cpu.xsave.clone())))
}

impl HighRegisters {
    /// Puts them back.
    pub fn restore(self, cpu: &mut CpuState) {
        for range in high(&cpu.xlayout) {
            cpu.xsave.0[range.clone()].copy_from_slice(&self.0.0[range]);
        }
    }
}

/// Replaces host x87 pointers by the guest's: FIP by RIP, FDP by the operand's
/// offset, FOP by the guest's own encoding.
pub fn hide_host(
    cpu: &mut CpuState,
    insn: &Instruction,
    host: HostFpu,
    code: &Range<usize>,
    data: &Range<usize>,
) {
    let wide = cpu.code64();
    let segmented = move |offset: u64, selector: u16| {
        if wide {
            offset
        } else if host.no_fcs {
            offset & 0xffff_ffff
        } else {
            offset & 0xffff_ffff | u64::from(selector) << 32
        }
    };
    // Control instructions leave the pointers alone: they are still the guest's.
    if code.contains(&(u64_at(&cpu.xsave.0, FIP) as usize)) {
        let fip = segmented(cpu.rip, cpu.seg(Seg::Cs).selector);
        cpu.xsave.0[FIP..FIP + 8].copy_from_slice(&fip.to_le_bytes());
        if u16_at(&cpu.xsave.0, FOP) != 0
            && let Some(own) = opcode(insn)
        {
            cpu.xsave.0[FOP..FOP + 2].copy_from_slice(&own.to_le_bytes());
        }
    }
    // Some CPUs set FDP only when an exception is pending
    // (CPUID.7.0:EBX[6]): follow the host.
    if data.contains(&(u64_at(&cpu.xsave.0, FDP) as usize)) {
        let selector = segment_of(insn).map_or(0, |s| cpu.seg(s).selector);
        let ea = super::address(cpu, insn, false).unwrap_or(0);
        let fdp = segmented(ea, selector);
        cpu.xsave.0[FDP..FDP + 8].copy_from_slice(&fdp.to_le_bytes());
    }
}

fn segment_of(insn: &Instruction) -> Option<Seg> {
    super::segment(insn.memory_segment())
}

/// The low 11 bits of the two opcode bytes (SDM vol 1, 8.1.9).
fn opcode(insn: &Instruction) -> Option<u16> {
    let mut encoder = Encoder::new(match insn.code_size() {
        CodeSize::Code16 => 16,
        CodeSize::Code32 => 32,
        _ => 64,
    });
    encoder.encode(insn, insn.ip()).ok()?;
    let bytes = encoder.take_buffer();
    let at = bytes.iter().position(|b| matches!(b, 0xd8..=0xdf))?;
    Some(u16::from(bytes[at] & 7) << 8 | u16::from(*bytes.get(at + 1)?))
}

fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    let mut v = [0; 8];
    v.copy_from_slice(&b[at..at + 8]);
    u64::from_le_bytes(v)
}
