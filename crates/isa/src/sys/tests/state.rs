//! FXSAVE, XSAVE and x87 environments as data (SDM vol 1, 8.1.10, 10.5, 13).

use super::*;
use x86::xstate as x;

const XSAVE: [u8; 3] = [0x0f, 0xae, 0x23];
const XRSTOR: [u8; 3] = [0x0f, 0xae, 0x2b];
const XSAVEOPT: [u8; 3] = [0x0f, 0xae, 0x33];
const XSAVEC: [u8; 3] = [0x0f, 0xc7, 0x23];
const XSAVES: [u8; 3] = [0x0f, 0xc7, 0x2b];
const XRSTORS: [u8; 3] = [0x0f, 0xc7, 0x1b];
const FXSAVE: [u8; 3] = [0x0f, 0xae, 0x03];
const FXRSTOR: [u8; 3] = [0x0f, 0xae, 0x0b];

/// A 64-bit CPU with XCR0 up to AVX-512, all requested, RBX = DATA.
fn ready() -> (CpuState, World) {
    let (mut cpu, mut w) = long(0);
    cpu.cr4 |= cr4::OSFXSR | cr4::OSXSAVE;
    cpu.xcr0 = 0xe7;
    cpu.gpr[gpr::RAX] = u64::MAX;
    cpu.gpr[gpr::RDX] = u64::MAX;
    cpu.gpr[gpr::RBX] = DATA;
    w.mem[DATA as usize + 512..DATA as usize + 576].fill(0);
    (cpu, w)
}

/// Fills the state with a pattern; every component in use.
fn pattern(cpu: &mut CpuState) {
    let image = &mut cpu.xsave.0;
    for (i, b) in image.iter_mut().enumerate() {
        *b = (i * 7 + 1) as u8;
    }
    image[0..2].copy_from_slice(&0x027fu16.to_le_bytes());
    image[2..4].copy_from_slice(&0x3844u16.to_le_bytes());
    image[5] = 0;
    image[7] = 5;
    for st in image[32..160].chunks_exact_mut(16) {
        st[10..].fill(0);
    }
    image[24..28].copy_from_slice(&0x1fa0u32.to_le_bytes());
    image[28..32].copy_from_slice(&0xffffu32.to_le_bytes());
    image[512..576].fill(0);
    image[512] = 0xe7;
}

fn header(w: &World) -> (u64, u64) {
    (w.get(DATA + 512, 8), w.get(DATA + 520, 8))
}

fn step(cpu: &mut CpuState, w: &mut World, code: &[u8]) {
    cpu.rip = CODE;
    run(cpu, w, code).unwrap();
    assert_eq!(cpu.rip, CODE + code.len() as u64, "{code:x?} faulted");
}

/// The state without the bytes no instruction moves (reserved legacy bytes
/// 416..512, the gap between AVX and opmask, and FIP/FDP selectors).
fn essence(cpu: &CpuState) -> Vec<u8> {
    let b = &cpu.xsave.0;
    [&b[..416], &b[576..832], &b[1088..2688]].concat()
}

#[test]
fn xsave64_and_xrstor64_are_inverse_in_every_format() {
    let rex = |code: [u8; 3]| [&[0x48][..], &code].concat();
    for (save, restore) in [
        (XSAVE, XRSTOR),
        (XSAVEOPT, XRSTOR),
        (XSAVEC, XRSTOR),
        (XSAVES, XRSTORS),
    ] {
        let (mut cpu, mut w) = ready();
        pattern(&mut cpu);
        let before = essence(&cpu);
        step(&mut cpu, &mut w, &rex(save));
        cpu.xsave = x86::cpu::XsaveArea::default();
        step(&mut cpu, &mut w, &rex(restore));
        assert!(essence(&cpu) == before, "{save:x?}");
    }
}

/// Processors without MPX have no gap behind AVX (AMD's Zen 4).
const DENSE: x::Layout = x::Layout {
    avx: 576,
    opmask: 832,
    zmm_hi256: 896,
    hi16_zmm: 1408,
};

/// Memory follows the guest's CPUID, the vCPU's image the host.
#[test]
fn layouts_of_guest_and_host_are_independent() {
    for (guest, host) in [(DENSE, x::Layout::INTEL), (x::Layout::INTEL, DENSE)] {
        let (mut cpu, mut w) = ready();
        (w.xlayout, cpu.xlayout) = (guest, host);
        pattern(&mut cpu);
        let image = cpu.xsave.clone();
        step(&mut cpu, &mut w, &[0x48, 0x0f, 0xae, 0x23]);
        for component in [x::AVX, x::OPMASK, x::ZMM_HI256, x::HI16_ZMM] {
            let (at, n) = guest.place(component).unwrap();
            let (from, _) = host.place(component).unwrap();
            let area = &w.mem[DATA as usize + at..][..n];
            assert_eq!(area, &image.0[from..from + n], "{component:#x}");
        }
        cpu.xsave = x86::cpu::XsaveArea::default();
        step(&mut cpu, &mut w, &[0x48, 0x0f, 0xae, 0x2b]);
        for component in [x::AVX, x::OPMASK, x::ZMM_HI256, x::HI16_ZMM] {
            let (at, n) = host.place(component).unwrap();
            assert_eq!(cpu.xsave.0[at..at + n], image.0[at..at + n]);
        }
    }
}

#[test]
fn standard_header_keeps_unrequested_bits() {
    let (mut cpu, mut w) = ready();
    pattern(&mut cpu);
    w.put(DATA + 512, 8, 0x205);
    w.put(DATA + 520, 8, 0x1234);
    cpu.gpr[gpr::RAX] = 3;
    step(&mut cpu, &mut w, &XSAVE);
    assert_eq!(header(&w), (0x207, 0x1234));
    assert_eq!(w.get(DATA + 576, 8), 0);
}

#[test]
fn initial_components_are_clear_in_xstate_bv() {
    let (mut cpu, mut w) = ready();
    w.put(DATA + 160, 8, 0x5555);
    step(&mut cpu, &mut w, &XSAVEOPT);
    assert_eq!(header(&w), (0, 0));
    // The init optimization does not write them.
    assert_eq!(w.get(DATA + 160, 8), 0x5555);
    step(&mut cpu, &mut w, &XSAVE);
    assert_eq!(header(&w), (0, 0));
    assert_eq!(w.get(DATA + 160, 8), 0);
    assert_eq!(w.get(DATA, 2), 0x37f);
    assert_eq!(w.get(DATA + 24, 4), 0x1f80);
}

/// A component whose XSTATE_BV bit is clear in the vCPU's image is initial
/// whatever its bytes say.
#[test]
fn stale_bytes_do_not_leak() {
    let (mut cpu, mut w) = ready();
    pattern(&mut cpu);
    cpu.xsave.0[512] = 3;
    w.mem[DATA as usize + 576..DATA as usize + 832].fill(0xee);
    step(&mut cpu, &mut w, &XSAVE);
    assert_eq!(header(&w).0, 3);
    assert_eq!(w.get(DATA + 576, 8), 0);
}

#[test]
fn compacted_format_packs_components() {
    let (mut cpu, mut w) = ready();
    pattern(&mut cpu);
    cpu.gpr[gpr::RAX] = x::X87 | x::OPMASK;
    step(&mut cpu, &mut w, &XSAVEC);
    assert_eq!(header(&w), (0x21, 1 << 63 | 0x21));
    let opmask = &cpu.xsave.0[1088..1152];
    assert_eq!(&w.mem[DATA as usize + 576..DATA as usize + 640], opmask);
}

#[test]
fn xrstor_initializes_what_memory_does_not_hold() {
    let (mut cpu, mut w) = ready();
    pattern(&mut cpu);
    w.put(DATA + 24, 4, 0x1f80);
    w.put(DATA + 512, 8, 0);
    cpu.gpr[gpr::RAX] = x::SSE | x::AVX;
    step(&mut cpu, &mut w, &XRSTOR);
    assert_eq!(cpu.xsave.0[512], 0xe1);
    assert!(cpu.xsave.0[160..416].iter().all(|&b| b == 0));
    assert!(cpu.xsave.0[576..832].iter().all(|&b| b == 0));
    assert_eq!(cpu.xsave.0[0..2], [0x7f, 0x02]);
}

#[test]
fn xrstor_rejects_bad_headers() {
    let cases = [
        (8u64, 0u64, 0u64, false),       // component not in XCR0
        (1, 1, 0, false),                // XCOMP_BV in standard format
        (1, 1 << 63 | 1, 0, true),       // compacted
        (2, 1 << 63 | 1, 0, false),      // loads what is not there
        (1, 1 << 63 | 1 << 8, 0, false), // not enabled
        (1, 1 << 63 | 1, 1, false),      // reserved byte
        (1, 0, 1, false),
    ];
    for (bv, comp, reserved, ok) in cases {
        let (mut cpu, mut w) = ready();
        w.put(DATA + 24, 4, 0x1f80);
        w.put(DATA + 512, 8, bv);
        w.put(DATA + 520, 8, comp);
        w.put(DATA + 528, 8, reserved);
        let expected = (!ok).then_some(Exception::GP0);
        let got = fault(&mut cpu, &mut w, &XRSTOR);
        assert_eq!(got, expected, "{bv:#x} {comp:#x} {reserved}");
    }
}

#[test]
fn xsave_faults() {
    let (mut cpu, mut w) = ready();
    cpu.gpr[gpr::RBX] = DATA + 16;
    assert_eq!(fault(&mut cpu, &mut w, &XSAVE), Some(Exception::GP0));
    cpu.gpr[gpr::RBX] = DATA;
    cpu.cr0 |= cr0::TS;
    assert_eq!(fault(&mut cpu, &mut w, &XSAVE), Some(Exception::NM));
    cpu.cr4 &= !cr4::OSXSAVE;
    assert_eq!(fault(&mut cpu, &mut w, &XSAVE), Some(Exception::UD));
    let (mut cpu, mut w) = ready();
    w.put(DATA + 24, 4, 1 << 16);
    assert_eq!(fault(&mut cpu, &mut w, &XRSTOR), Some(Exception::GP0));
    assert_eq!(fault(&mut cpu, &mut w, &FXRSTOR), Some(Exception::GP0));
    cpu.cr0 |= cr0::EM;
    assert_eq!(fault(&mut cpu, &mut w, &FXSAVE), Some(Exception::UD));
    let (mut cpu, mut w) = ready();
    w.unmapped.insert(DATA + 0x1000);
    cpu.gpr[gpr::RBX] = DATA + 0x1000 - 0x200;
    let got = fault(&mut cpu, &mut w, &XSAVE);
    assert_eq!(got, Some(Exception::pf(DATA + 0x1000, 2)));
}

#[test]
fn fxsave_writes_neither_reserved_nor_missing_registers() {
    let (mut cpu, mut w) = ready();
    pattern(&mut cpu);
    w.mem[DATA as usize..DATA as usize + 512].fill(0xee);
    step(&mut cpu, &mut w, &FXSAVE);
    assert_eq!(w.get(DATA + 416, 8), 0xeeee_eeee_eeee_eeee);
    assert_eq!(
        &w.mem[DATA as usize + 160..DATA as usize + 416],
        &cpu.xsave.0[160..416]
    );
    let (mut cpu, mut w) = protected(0);
    pattern(&mut cpu);
    cpu.gpr[gpr::RBX] = DATA;
    w.mem[DATA as usize..DATA as usize + 512].fill(0xee);
    step(&mut cpu, &mut w, &FXSAVE);
    assert_eq!(w.get(DATA + 288, 8), 0xeeee_eeee_eeee_eeee);
    assert_eq!(
        w.get(DATA + 280, 8),
        u64::from_le_bytes(cpu.xsave.0[280..288].try_into().unwrap())
    );
}

#[test]
fn fxrstor_restores_and_marks_in_use() {
    let (mut cpu, mut w) = ready();
    pattern(&mut cpu);
    step(&mut cpu, &mut w, &[0x48, 0x0f, 0xae, 0x03]);
    let saved = cpu.xsave.0[..416].to_vec();
    cpu.xsave = x86::cpu::XsaveArea::default();
    cpu.xsave.0[512] = 0;
    step(&mut cpu, &mut w, &[0x48, 0x0f, 0xae, 0x0b]);
    assert!(cpu.xsave.0[..416] == saved);
    assert_eq!(cpu.xsave.0[512], 3);
}

/// 32-bit protected-mode layout: control, status, tag, FIP, FCS/FOP, FDP, FDS
/// (SDM vol 1, figure 8-9).
#[test]
fn fnstenv_layouts() {
    let (mut cpu, mut w) = protected(0);
    cpu.gpr[gpr::RBX] = DATA;
    let image = &mut cpu.xsave.0;
    image[0..2].copy_from_slice(&0x0340u16.to_le_bytes());
    image[2..4].copy_from_slice(&(6u16 << 11).to_le_bytes());
    // Physical 6 and 7 in use: ST0 = 1.0, ST1 = 0.
    image[4] = 0xc0;
    image[6..8].copy_from_slice(&0x0123u16.to_le_bytes());
    image[8..16].copy_from_slice(&0x000a_bcdeu64.to_le_bytes());
    image[16..24].copy_from_slice(&0x0009_8765u64.to_le_bytes());
    image[32..42].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f]);
    step(&mut cpu, &mut w, &[0xd9, 0x33]);
    let tag = 0b01_00_11_11_11_11_11_11;
    let expected = [
        0xffff_0340,
        0xffff_3000,
        0xffff_0000 | tag,
        0xa_bcde,
        0x0123_0000,
        0x9_8765,
        0xffff_0000,
    ];
    assert_eq!(w.words(DATA, 4, 7), expected);
    // All exceptions are masked afterwards.
    assert_eq!(cpu.xsave.0[0] & 0x3f, 0x3f);
    step(&mut cpu, &mut w, &[0x66, 0xd9, 0x33]);
    assert_eq!(w.words(DATA + 6, 2, 4), [0xbcde, 0, 0x8765, 0]);
    // Real mode, 16-bit: the address is linear, its top 4 bits in the high
    // nibble.
    let (mut real_cpu, _) = real();
    real_cpu.xsave = cpu.xsave.clone();
    real_cpu.gpr[gpr::RBX] = DATA;
    step(&mut real_cpu, &mut w, &[0xd9, 0x37]);
    assert_eq!(w.words(DATA + 6, 2, 4), [0xbcde, 0xa123, 0x8765, 0x9000]);
    step(&mut real_cpu, &mut w, &[0x66, 0xd9, 0x37]);
    let real32 = [0xffff_bcde, 0xa123, 0xffff_8765, 0x9000];
    assert_eq!(w.words(DATA + 12, 4, 4), real32);
}

#[test]
fn fldenv_rotates_registers_to_the_new_top() {
    let (mut cpu, mut w) = protected(0);
    cpu.gpr[gpr::RBX] = DATA;
    for i in 0..8 {
        cpu.xsave.0[32 + 16 * i] = i as u8;
    }
    // TOP was 0; TOP 2 makes physical register 2, the old ST2, ST0.
    let words = [0x037f, 2 << 11, 0xffff, 0, 0, 0, 0];
    for (i, v) in words.into_iter().enumerate() {
        w.put(DATA + 4 * i as u64, 4, v);
    }
    step(&mut cpu, &mut w, &[0xd9, 0x23]);
    let low: Vec<u8> = (0..8).map(|i| cpu.xsave.0[32 + 16 * i]).collect();
    assert_eq!(low, [2, 3, 4, 5, 6, 7, 0, 1]);
    assert_eq!(cpu.xsave.0[4], 0);
}

#[test]
fn fnsave_initializes_and_frstor_restores() {
    let (mut cpu, mut w) = protected(0);
    cpu.gpr[gpr::RBX] = DATA;
    let image = &mut cpu.xsave.0;
    image[0] = 0x7e;
    image[2..4].copy_from_slice(&(5u16 << 11).to_le_bytes());
    image[4] = 0xe0;
    for i in 0..8u8 {
        let at = 32 + 16 * usize::from(i);
        image[at..at + 10].copy_from_slice(&[i, 0, 0, 0, 0, 0, 0, 0x80, i, 0x40]);
    }
    let before = cpu.xsave.0[..160].to_vec();
    step(&mut cpu, &mut w, &[0xdd, 0x33]);
    assert_eq!(cpu.xsave.0[..5], [0x7f, 3, 0, 0, 0]);
    assert_eq!(w.get(DATA + 28, 1), 0);
    assert_eq!(w.get(DATA + 38, 1), 1);
    step(&mut cpu, &mut w, &[0xdd, 0x23]);
    assert!(cpu.xsave.0[..160] == before);
}

#[test]
fn pending_exception_stops_fldenv() {
    let (mut cpu, mut w) = protected(0);
    cpu.gpr[gpr::RBX] = DATA;
    cpu.xsave.0[2] = 0x81;
    cpu.xsave.0[0] = 0x7e;
    assert_eq!(fault(&mut cpu, &mut w, &[0xd9, 0x23]), Some(Exception::MF));
    cpu.cr0 |= cr0::EM;
    assert_eq!(fault(&mut cpu, &mut w, &[0xd9, 0x23]), Some(Exception::NM));
}

/// As a processor reads the words back: control & 1f3fH | 40H, ES and B from
/// the unmasked exceptions, reserved bytes zero.
#[test]
fn loaded_x87_words_are_normalized() {
    let cases: [(u16, u16, u16, u16); 4] = [
        (0xffff, 0xffff, 0x1f7f, 0x7f7f),
        (0xff80, 0x0001, 0x1f40, 0x8081),
        (0x037e, 0x8080, 0x037e, 0x0000),
        (0x037b, 0x3844, 0x037b, 0xb8c4),
    ];
    for (fcw, fsw, fcw_read, fsw_read) in cases {
        let (mut cpu, mut w) = ready();
        w.mem[DATA as usize..DATA as usize + 512].fill(0xff);
        w.put(DATA, 2, u64::from(fcw));
        w.put(DATA + 2, 2, u64::from(fsw));
        w.put(DATA + 24, 4, 0x1f80);
        step(&mut cpu, &mut w, &FXRSTOR);
        let image = &cpu.xsave.0;
        assert_eq!(image[0..2], fcw_read.to_le_bytes());
        assert_eq!(image[2..4], fsw_read.to_le_bytes(), "{fcw:x} {fsw:x}");
        assert_eq!((image[5], image[7]), (0, 7));
        assert_eq!(image[42..48], [0; 6]);
    }
}
