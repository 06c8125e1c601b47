//! Values are from the SDM's operation sections or computed by Rust's own
//! arithmetic; addresses and registers are chosen to hit the remappings.

use iced_x86::{Decoder, DecoderOptions, Instruction};
use x86::{CpuState, Exception, gpr, xstate};

use super::{NativeExec, host_is_amd};

fn decode(bitness: u32, bytes: &[u8]) -> Instruction {
    let insn = Decoder::with_ip(bitness, bytes, 0x1000, DecoderOptions::NONE).decode();
    assert!(!insn.is_invalid(), "{bytes:x?}");
    insn
}

fn cpu() -> CpuState {
    let mut cpu = CpuState::reset(0);
    cpu.xcr0 = xstate::X87 | xstate::SSE | xstate::AVX | xstate::AVX512;
    cpu.rip = 0x1234;
    cpu
}

fn xmm(cpu: &CpuState, n: usize) -> u128 {
    u128::from_le_bytes(cpu.xsave.0[160 + n * 16..176 + n * 16].try_into().unwrap())
}

fn set_xmm(cpu: &mut CpuState, n: usize, v: u128) {
    cpu.xsave.0[160 + n * 16..176 + n * 16].copy_from_slice(&v.to_le_bytes());
    cpu.xsave.0[512] |= 2;
}

fn run(bitness: u32, bytes: &[u8], cpu: &mut CpuState, mem: &mut [u8]) -> Result<(), Exception> {
    NativeExec::new()
        .unwrap()
        .run(cpu, &decode(bitness, bytes), mem)
}

#[test]
fn sse_with_a_16_bit_address() {
    // paddd xmm1, [bx+si+4], 16-bit code
    let mut c = cpu();
    c.gpr[gpr::RBX] = 0x10;
    c.gpr[gpr::RSI] = 0xc;
    set_xmm(&mut c, 1, 1 << 96 | 0xffff_ffff);
    let mut mem = (2u128 << 96 | 2).to_le_bytes();
    let flags = c.rflags;
    run(16, &[0x66, 0x0f, 0xfe, 0x48, 0x04], &mut c, &mut mem).unwrap();
    assert_eq!(xmm(&c, 1), 3 << 96 | 1);
    assert_eq!((c.gpr[gpr::RBX], c.rflags, c.rip), (0x10, flags, 0x1234));
}

#[test]
fn misaligned_sse_operand_faults_and_aligned_does_not() {
    let movaps = [0x0f, 0x28, 0x43, 0x01]; // movaps xmm0, [rbx+1]
    let mut c = cpu();
    c.gpr[gpr::RBX] = 0x100f;
    let mut mem = 7u128.to_le_bytes();
    run(32, &movaps, &mut c, &mut mem).unwrap();
    assert_eq!(xmm(&c, 0), 7);
    c.gpr[gpr::RBX] = 0x1010;
    assert_eq!(run(32, &movaps, &mut c, &mut mem), Err(Exception::GP0));
}

#[test]
fn host_owned_registers_are_remapped() {
    // crc32 r15, rsp ; movq rsp, xmm3 ; andn r14, r15, rsp
    let mut c = cpu();
    c.gpr[gpr::R15] = 0;
    c.gpr[gpr::RSP] = 0;
    run(64, &[0xf2, 0x4c, 0x0f, 0x38, 0xf1, 0xfc], &mut c, &mut []).unwrap();
    assert_eq!((c.gpr[gpr::R15], c.gpr[gpr::RSP]), (0, 0));
    set_xmm(&mut c, 3, 0xdead_beef_1234_5678);
    run(64, &[0x66, 0x48, 0x0f, 0x7e, 0xdc], &mut c, &mut []).unwrap();
    assert_eq!(c.gpr[gpr::RSP], 0xdead_beef_1234_5678);
    c.gpr[gpr::R15] = 0xff;
    run(64, &[0xc4, 0x62, 0x80, 0xf2, 0xf4], &mut c, &mut []).unwrap();
    assert_eq!(c.gpr[gpr::R14], !0xffu64 & 0xdead_beef_1234_5678);
    assert_eq!(c.rflags & x86::flags::SF, x86::flags::SF);
}

#[test]
fn high_byte_register() {
    // crc32 esp, bh: CRC-32C of one byte 'a' from 0, no inversions.
    let mut c = cpu();
    c.gpr[gpr::RBX] = 0x6155;
    c.gpr[gpr::RSP] = 0;
    run(32, &[0xf2, 0x0f, 0x38, 0xf0, 0xe7], &mut c, &mut []).unwrap();
    let mut crc = 0x61u32;
    for _ in 0..8 {
        crc = crc >> 1 ^ if crc & 1 != 0 { 0x82f6_3b78 } else { 0 };
    }
    assert_eq!(c.gpr[gpr::RSP], u64::from(crc));
}

#[test]
fn x87_state_carries_over_and_pointers_are_the_guests() {
    let mut c = cpu();
    let mut n = NativeExec::new().unwrap();
    n.run(&mut c, &decode(32, &[0xd9, 0xe8]), &mut []).unwrap(); // fld1
    n.run(&mut c, &decode(32, &[0xd9, 0xeb]), &mut []).unwrap(); // fldpi
    n.run(&mut c, &decode(32, &[0xde, 0xc1]), &mut []).unwrap(); // faddp
    let fip = u64::from_le_bytes(c.xsave.0[8..16].try_into().unwrap());
    // AMD's processors save the pointers only while an exception is pending.
    let want = if host_is_amd() { 0 } else { 0x1234 };
    assert_eq!(fip & 0xffff_ffff, want);
    let mut mem = [0; 8];
    c.rip = 0x2000;
    n.run(&mut c, &decode(32, &[0xdd, 0x1d, 0x40, 0, 0, 0]), &mut mem)
        .unwrap(); // fstp qword [0x40]
    assert_eq!(f64::from_le_bytes(mem), std::f64::consts::PI + 1.0);
    let fdp = u64::from_le_bytes(c.xsave.0[16..24].try_into().unwrap());
    assert!(fdp & 0xffff_ffff == 0x40 || fdp == 0, "{fdp:x}");
}

#[test]
fn unmasked_simd_exception_is_xm() {
    let mut c = cpu();
    c.xsave.0[24..28].copy_from_slice(&(0x1f80u32 & !0x200).to_le_bytes()); // ZM clear
    set_xmm(&mut c, 0, 0x3f80_0000);
    let divss = [0xf3, 0x0f, 0x5e, 0xc1];
    assert_eq!(run(64, &divss, &mut c, &mut []), Err(Exception::XM));
    assert_eq!(xmm(&c, 0), 0x3f80_0000);
    assert_eq!(c.xsave.0[24] & 4, 4, "MXCSR.ZE");
    // Rust's own division is masked again.
    assert!((std::hint::black_box(1.0f32) / std::hint::black_box(0.0)).is_infinite());
}

#[test]
fn unmasked_x87_exception_is_raised_by_the_next_waiting_instruction() {
    let mut c = cpu();
    let mut n = NativeExec::new().unwrap();
    c.xsave.0[0..2].copy_from_slice(&0x037bu16.to_le_bytes()); // ZM clear
    n.run(&mut c, &decode(64, &[0xd9, 0xe8]), &mut []).unwrap(); // fld1
    n.run(&mut c, &decode(64, &[0xd9, 0xee]), &mut []).unwrap(); // fldz
    n.run(&mut c, &decode(64, &[0xdc, 0xf9]), &mut []).unwrap(); // fdiv st1, st0
    let mut fsw = [0; 2];
    n.run(&mut c, &decode(64, &[0xdd, 0x38]), &mut fsw).unwrap(); // fnstsw [rax]
    assert_eq!(fsw[0] & 0x84, 0x84, "ES and ZE");
    assert_eq!(
        n.run(&mut c, &decode(64, &[0x9b]), &mut []),
        Err(Exception::MF)
    );
    assert_eq!(
        n.run(&mut c, &decode(64, &[0xd9, 0xe8]), &mut []),
        Err(Exception::MF)
    );
    n.run(&mut c, &decode(64, &[0xdb, 0xe2]), &mut []).unwrap(); // fnclex
    n.run(&mut c, &decode(64, &[0x9b]), &mut []).unwrap();
}

#[test]
fn divide_error_and_missing_instruction() {
    let mut c = cpu();
    assert_eq!(run(64, &[0xf7, 0xf1], &mut c, &mut []), Err(Exception::DE));
    // 3DNow! pfadd mm0, mm1: gone from every current CPU.
    let pfadd = [0x0f, 0x0f, 0xc1, 0x9e];
    let mut d = Decoder::new(64, &pfadd, DecoderOptions::NONE);
    let insn = d.decode();
    if !std::fs::read_to_string("/proc/cpuinfo")
        .unwrap()
        .contains(" 3dnow ")
    {
        assert_eq!(
            NativeExec::new().unwrap().run(&mut c, &insn, &mut []),
            Err(Exception::UD)
        );
    }
}

#[test]
fn what_is_not_a_plain_data_instruction_is_refused() {
    let mut n = NativeExec::new().unwrap();
    for bytes in [
        &[0xeb, 0x00][..],                     // jmp
        &[0x50],                               // push rax
        &[0x0f, 0x05],                         // syscall
        &[0xf4],                               // hlt
        &[0xa4],                               // movsb
        &[0x0f, 0x01, 0xef],                   // wrpkru
        &[0xf3, 0x0f, 0xae, 0xd8],             // wrgsbase eax
        &[0xc4, 0xe2, 0x69, 0x92, 0x04, 0x08], // vgatherdps
        &[0x8e, 0xd8],                         // mov ds, ax
        &[0x0f, 0xae, 0x20],                   // xsave [rax]
    ] {
        assert!(!n.accepts(&decode(64, bytes)), "{bytes:x?}");
    }
}

#[test]
fn maskmovdqu_stores_through_the_buffer() {
    let mut c = cpu();
    c.gpr[gpr::RDI] = 0x77;
    set_xmm(&mut c, 1, u128::MAX);
    set_xmm(&mut c, 2, 0x80);
    let mut mem = [0u8; 16];
    run(64, &[0x66, 0x0f, 0xf7, 0xca], &mut c, &mut mem).unwrap();
    assert_eq!(u128::from_le_bytes(mem), 0xff);
    assert_eq!(c.gpr[gpr::RDI], 0x77);
}

#[test]
fn the_cache_survives_being_full() {
    let mut n = NativeExec::new().unwrap();
    let mut c = cpu();
    for i in 0..20_000u32 {
        let i32 = i.to_le_bytes();
        c.gpr[gpr::RCX] = 3;
        let bytes = [0x69, 0xc1, i32[0], i32[1], i32[2], i32[3]]; // imul eax, ecx, i
        n.run(&mut c, &decode(64, &bytes), &mut []).unwrap();
        assert_eq!(c.gpr[gpr::RAX], u64::from(3 * i));
    }
    assert!(n.stubs.len() <= super::MAX_STUBS);
}
