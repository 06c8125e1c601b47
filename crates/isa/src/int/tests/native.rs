//! Checks and memory operands of instructions that the host executes.

use super::{READ_ONLY, UNMAPPED, World, cpu16, cpu64, step};
use crate::env::Stop;
use crate::operand::Handled;
use x86::{CpuState, Exception, cr0, cr4, gpr};

const NEXT: Result<Handled, Stop> = Ok(Handled::Next);
const UD: Result<Handled, Stop> = Err(Stop::Fault(Exception::UD));
const NM: Result<Handled, Stop> = Err(Stop::Fault(Exception::NM));

const FLD1: &[u8] = &[0xd9, 0xe8];
const WAIT: &[u8] = &[0x9b];
const PADDB_MM: &[u8] = &[0x0f, 0xfc, 0xc1];
const ADDPS: &[u8] = &[0x0f, 0x58, 0xc1];
const VADDPS: &[u8] = &[0xc5, 0xf8, 0x58, 0xc1];
const VADDPS_ZMM: &[u8] = &[0x62, 0xf1, 0x7c, 0x48, 0x58, 0xc1];
const KMOVW: &[u8] = &[0xc5, 0xf8, 0x90, 0xc9];

/// Runs register-only instructions under changed control registers.
fn outcomes(change: impl Fn(&mut CpuState)) -> [Result<Handled, Stop>; 7] {
    [FLD1, WAIT, PADDB_MM, ADDPS, VADDPS, VADDPS_ZMM, KMOVW].map(|code| {
        let mut cpu = cpu64();
        change(&mut cpu);
        step(&mut cpu, &mut World::new(), code)
    })
}

/// SDM vol 3, table 12-1 and 2.5; vol 2, tables 2-18 ff.
#[test]
fn control_registers_turn_units_off() {
    assert_eq!(outcomes(|_| {}), [NEXT; 7]);
    let ts = outcomes(|c| c.cr0 |= cr0::TS);
    assert_eq!(ts, [NM, NEXT, NM, NM, NM, NM, NM]);
    let ts_mp = outcomes(|c| c.cr0 |= cr0::TS | cr0::MP);
    assert_eq!(ts_mp[1], NM);
    let em = outcomes(|c| c.cr0 |= cr0::EM);
    assert_eq!(em, [NM, NEXT, UD, UD, NEXT, NEXT, NEXT]);
    let no_fxsr = outcomes(|c| c.cr4 &= !cr4::OSFXSR);
    assert_eq!(no_fxsr, [NEXT, NEXT, NEXT, UD, NEXT, NEXT, NEXT]);
    let no_xsave = outcomes(|c| c.cr4 &= !cr4::OSXSAVE);
    assert_eq!(no_xsave, [NEXT, NEXT, NEXT, NEXT, UD, UD, UD]);
    let avx_only = outcomes(|c| c.xcr0 = 7);
    assert_eq!(avx_only, [NEXT, NEXT, NEXT, NEXT, NEXT, UD, UD]);
}

#[test]
fn vex_is_invalid_in_real_mode() {
    let mut cpu = cpu16();
    cpu.cr4 |= cr4::OSXSAVE | cr4::OSFXSR;
    cpu.xcr0 = 7;
    assert_eq!(step(&mut cpu, &mut World::new(), VADDPS), UD);
    assert_eq!(step(&mut cpu, &mut World::new(), ADDPS), NEXT);
}

#[test]
fn a_hidden_feature_is_an_invalid_opcode() {
    let (mut cpu, mut w) = (cpu64(), World::new());
    w.hidden = vec![iced_x86::CpuidFeature::AVX];
    assert_eq!(step(&mut cpu, &mut w, VADDPS), UD);
    assert!(w.natives.is_empty());
}

#[test]
fn operands_are_read_before_and_written_after() {
    let (mut cpu, mut w) = (cpu64(), World::new());
    cpu.gpr[gpr::RBX] = 0x2000;
    w.put(0x2000, 8, 0x0807_0605_0403_0201);
    assert_eq!(step(&mut cpu, &mut w, &[0xf2, 0x0f, 0x58, 0x03]), NEXT); // addsd
    assert_eq!(w.natives[0].1, [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(step(&mut cpu, &mut w, &[0x0f, 0x11, 0x03]), NEXT); // movups store
    assert_eq!(w.natives[1].1.len(), 16);
    assert_eq!(w.mem[0x2000..0x2010], [0xaa; 16]);
    assert_eq!(w.mem[0x2010], 0);
    assert_eq!(step(&mut cpu, &mut w, &[0xdb, 0x7b, 0x40]), NEXT); // fstp tbyte
    assert_eq!(w.natives[2].1.len(), 10);
    assert_eq!(
        w.mem[0x2040..0x204b],
        [
            0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0
        ]
    );
}

#[test]
fn a_store_that_faults_changes_nothing() {
    let (mut cpu, mut w) = (cpu64(), World::new());
    cpu.gpr[gpr::RBX] = READ_ONLY;
    let before = cpu.xsave.clone();
    let pf = Stop::Fault(Exception::pf(READ_ONLY, 2));
    assert_eq!(step(&mut cpu, &mut w, &[0xdd, 0x1b]), Err(pf)); // fstp qword
    assert!(cpu.xsave == before);
    assert_eq!(step(&mut cpu, &mut w, &[0x0f, 0x11, 0x03]), Err(pf)); // movups store
    assert_eq!(w.natives.len(), 1, "only x87 results are computed first");
}

#[test]
fn alignment_of_vector_operands() {
    let gp = Err(Stop::Fault(Exception::GP0));
    let cases: [(&[u8], Result<Handled, Stop>); 8] = [
        (&[0x0f, 0x28, 0x03], gp),                   // movaps
        (&[0x0f, 0x10, 0x03], NEXT),                 // movups
        (&[0x0f, 0x58, 0x03], gp),                   // addps
        (&[0xf3, 0x0f, 0x58, 0x03], NEXT),           // addss
        (&[0xc5, 0xf8, 0x58, 0x03], NEXT),           // vaddps
        (&[0xc5, 0xfc, 0x28, 0x03], gp),             // vmovaps ymm
        (&[0x66, 0x0f, 0x3a, 0x63, 0x03, 0], NEXT),  // pcmpistri
        (&[0x62, 0xf1, 0x7d, 0x48, 0x6f, 0x03], gp), // vmovdqa32 zmm
    ];
    for (code, expected) in cases {
        let (mut cpu, mut w) = (cpu64(), World::new());
        cpu.gpr[gpr::RBX] = 0x2008;
        assert_eq!(step(&mut cpu, &mut w, code), expected, "{code:x?}");
    }
}

#[test]
fn ldmxcsr_refuses_reserved_bits() {
    let (mut cpu, mut w) = (cpu64(), World::new());
    cpu.gpr[gpr::RBX] = 0x2000;
    w.put(0x2000, 4, 0x1_0000);
    let gp = Err(Stop::Fault(Exception::GP0));
    assert_eq!(step(&mut cpu, &mut w, &[0x0f, 0xae, 0x13]), gp);
    w.put(0x2000, 4, 0x1f80);
    assert_eq!(step(&mut cpu, &mut w, &[0x0f, 0xae, 0x13]), NEXT);
}

/// Sets vector register `n` (0..=15) to 32-bit lanes.
fn set_ymm(cpu: &mut CpuState, n: usize, lanes: [u32; 8]) {
    cpu.xsave.0[512] |= 7;
    for (i, v) in lanes.iter().enumerate() {
        let at = if i < 4 {
            160 + 16 * n + 4 * i
        } else {
            576 + 16 * n + 4 * (i - 4)
        };
        cpu.xsave.0[at..at + 4].copy_from_slice(&v.to_le_bytes());
    }
}

fn ymm(cpu: &CpuState, n: usize) -> [u32; 8] {
    std::array::from_fn(|i| {
        let at = if i < 4 {
            160 + 16 * n + 4 * i
        } else {
            576 + 16 * n + 4 * (i - 4)
        };
        u32::from_le_bytes(cpu.xsave.0[at..at + 4].try_into().expect("4 bytes"))
    })
}

const ON: u32 = 0x8000_0000;

/// SDM vol 2, VPGATHERDD: done elements survive a fault, their mask is clear.
#[test]
fn gathers_restart_after_a_fault() {
    let (mut cpu, mut w) = (cpu64(), World::new());
    cpu.gpr[gpr::RBX] = UNMAPPED - 8;
    w.put(UNMAPPED - 8, 8, 0x0000_0022_0000_0011);
    set_ymm(&mut cpu, 1, [0, 1, 2, 1, 0, 0, 0, 0]); // indices
    set_ymm(&mut cpu, 2, [ON, ON, ON, ON, 0, 0, 0, 0]); // mask
    set_ymm(&mut cpu, 0, [7; 8]);
    let code = [0xc4, 0xe2, 0x6d, 0x90, 0x04, 0x8b]; // vpgatherdd ymm0,[rbx+ymm1*4],ymm2
    let pf = Stop::Fault(Exception::pf(UNMAPPED, 0));
    assert_eq!(step(&mut cpu, &mut w, &code), Err(pf));
    assert_eq!(ymm(&cpu, 0), [0x11, 0x22, 7, 7, 7, 7, 7, 7]);
    // The operation widens the mask's sign bits before it gathers.
    assert_eq!(ymm(&cpu, 2)[..4], [0, 0, u32::MAX, u32::MAX]);
    set_ymm(&mut cpu, 1, [9, 9, 0, 1, 9, 9, 9, 9]); // done ones are not read again
    assert_eq!(step(&mut cpu, &mut w, &code), NEXT);
    assert_eq!(ymm(&cpu, 0), [0x11, 0x22, 0x11, 0x22, 7, 7, 7, 7]);
    assert_eq!(ymm(&cpu, 2), [0; 8]);
}

#[test]
fn masked_moves_do_not_touch_masked_off_bytes() {
    let (mut cpu, mut w) = (cpu64(), World::new());
    cpu.gpr[gpr::RBX] = UNMAPPED - 8;
    set_ymm(&mut cpu, 0, [1, 2, 3, 4, 5, 6, 7, 8]);
    set_ymm(&mut cpu, 1, [0, ON, 0, 0, 0, 0, 0, 0]);
    let store = [0xc4, 0xe2, 0x75, 0x2e, 0x03]; // vmaskmovps [rbx], ymm1, ymm0
    assert_eq!(step(&mut cpu, &mut w, &store), NEXT);
    assert_eq!(w.get(UNMAPPED - 8, 8), 2 << 32);
    let load = [0xc4, 0xe2, 0x75, 0x2c, 0x03]; // vmaskmovps ymm0, ymm1, [rbx]
    assert_eq!(step(&mut cpu, &mut w, &load), NEXT);
    assert_eq!(ymm(&cpu, 0), [0, 2, 0, 0, 0, 0, 0, 0]);
    // maskmovdqu xmm0, xmm1 to [rdi]
    cpu.gpr[gpr::RDI] = 0x2000;
    set_ymm(&mut cpu, 0, [0x0403_0201, 0, 0, 0, 0, 0, 0, 0]);
    set_ymm(&mut cpu, 1, [0x8000_8000, 0, 0, 0, 0, 0, 0, 0]);
    w.put(0x2000, 4, 0xffff_ffff);
    assert_eq!(step(&mut cpu, &mut w, &[0x66, 0x0f, 0xf7, 0xc1]), NEXT);
    assert_eq!(w.get(0x2000, 4), 0x04ff_02ff);
}

/// SDM vol 2, 2.7.10: an opmask suppresses faults of its elements.
#[test]
fn opmasked_operands_suppress_faults_and_writes() {
    let (mut cpu, mut w) = (cpu64(), World::new());
    cpu.xsave.0[512] |= 0x20;
    cpu.xsave.0[1088 + 8] = 0b11; // k1
    cpu.gpr[gpr::RBX] = UNMAPPED - 8;
    w.put(UNMAPPED - 8, 8, 0x1111_2222_3333_4444);
    let load = [0x62, 0xf1, 0x7e, 0x49, 0x6f, 0x03]; // vmovdqu32 zmm0{k1}, [rbx]
    assert_eq!(step(&mut cpu, &mut w, &load), NEXT);
    assert_eq!(w.natives[0].1[..8], 0x1111_2222_3333_4444u64.to_le_bytes());
    let store = [0x62, 0xf1, 0x7e, 0x49, 0x7f, 0x03];
    assert_eq!(step(&mut cpu, &mut w, &store), NEXT);
    assert_eq!(w.get(UNMAPPED - 8, 8), 0xaaaa_aaaa_aaaa_aaaa);
    cpu.xsave.0[1088 + 8] = 0b111;
    let pf = Stop::Fault(Exception::pf(UNMAPPED, 2));
    assert_eq!(step(&mut cpu, &mut w, &store), Err(pf));
}
