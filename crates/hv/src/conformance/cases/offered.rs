//! CPUID and what it promises: an offered instruction runs, and where the
//! backend can hide instructions, one that is not offered is #UD.

use crate::Hypervisor;
use crate::abi::kvm_cpuid_entry2;
use crate::conformance::guest::{Guest, Mode, Stop};
use crate::conformance::layout::*;
use crate::conformance::{Failure, ensure, expect};
use iced_x86::code_asm::*;
use x86::cr4;

group! { "offered":
    offered_instructions_run "SDM 2 CPUID",
    hidden_instructions_are_undefined "SDM 2 CPUID",
    avx_needs_osxsave "SDM 1 14.3, SDM 2 2.4",
    avx_needs_xcr0 "SDM 1 14.3, SDM 2 2.4",
    osxsave_bit_follows_cr4 "SDM 2 CPUID leaf 1",
    leaf_beyond_the_last "SDM 2 CPUID",
    xsave_leaf_is_consistent "SDM 1 13.2",
    vmx_and_svm_are_hidden "SDM 3 24.6, APM 2 15.4",
}

/// One feature bit and an instruction that needs it.
struct Feature {
    name: &'static str,
    leaf: u32,
    reg: fn(&kvm_cpuid_entry2) -> u32,
    bit: u32,
    code: &'static [u8],
}

const fn feature(
    name: &'static str,
    leaf: u32,
    reg: fn(&kvm_cpuid_entry2) -> u32,
    bit: u32,
    code: &'static [u8],
) -> Feature {
    Feature {
        name,
        leaf,
        reg,
        bit,
        code,
    }
}

const ECX: fn(&kvm_cpuid_entry2) -> u32 = |e| e.ecx;
const EBX: fn(&kvm_cpuid_entry2) -> u32 = |e| e.ebx;
const EDX: fn(&kvm_cpuid_entry2) -> u32 = |e| e.edx;

/// Registers only, except where an operand is [`DATA`] in RSI. The mnemonics
/// stand beside the bytes.
#[rustfmt::skip]
const FEATURES: &[Feature] = &[
    feature("SSE3",       1, ECX, 0,  &[0xf2, 0x0f, 0x7c, 0xc0]),             // haddps xmm0, xmm0
    feature("PCLMULQDQ",  1, ECX, 1,  &[0x66, 0x0f, 0x3a, 0x44, 0xc0, 0]),    // pclmulqdq xmm0, xmm0, 0
    feature("SSSE3",      1, ECX, 9,  &[0x66, 0x0f, 0x38, 0x1c, 0xc0]),       // pabsb xmm0, xmm0
    feature("FMA",        1, ECX, 12, &[0xc4, 0xe2, 0x79, 0x98, 0xc0]),       // vfmadd132ps xmm0, xmm0, xmm0
    feature("CX16",       1, ECX, 13, &[0x48, 0x0f, 0xc7, 0x0e]),             // cmpxchg16b [rsi]
    feature("SSE4.1",     1, ECX, 19, &[0x66, 0x0f, 0x38, 0x17, 0xc0]),       // ptest xmm0, xmm0
    feature("SSE4.2",     1, ECX, 20, &[0xf2, 0x0f, 0x38, 0xf1, 0xc0]),       // crc32 eax, eax
    feature("MOVBE",      1, ECX, 22, &[0x0f, 0x38, 0xf0, 0x06]),             // movbe eax, [rsi]
    feature("POPCNT",     1, ECX, 23, &[0xf3, 0x0f, 0xb8, 0xc0]),             // popcnt eax, eax
    feature("AES",        1, ECX, 25, &[0x66, 0x0f, 0x38, 0xdc, 0xc0]),       // aesenc xmm0, xmm0
    feature("AVX",        1, ECX, 28, &[0xc5, 0xfc, 0x58, 0xc0]),             // vaddps ymm0, ymm0, ymm0
    feature("F16C",       1, ECX, 29, &[0xc4, 0xe2, 0x79, 0x13, 0xc0]),       // vcvtph2ps xmm0, xmm0
    feature("RDRAND",     1, ECX, 30, &[0x0f, 0xc7, 0xf0]),                   // rdrand eax
    feature("BMI1",       7, EBX, 3,  &[0xc4, 0xe2, 0x78, 0xf2, 0xc0]),       // andn eax, eax, eax
    feature("AVX2",       7, EBX, 5,  &[0xc5, 0xfd, 0xfc, 0xc0]),             // vpaddb ymm0, ymm0, ymm0
    feature("BMI2",       7, EBX, 8,  &[0xc4, 0xe3, 0x7b, 0xf0, 0xc0, 1]),    // rorx eax, eax, 1
    feature("RTM",        7, EBX, 11, &[0x0f, 0x01, 0xd6]),                   // xtest
    feature("RDSEED",     7, EBX, 18, &[0x0f, 0xc7, 0xf8]),                   // rdseed eax
    feature("ADX",        7, EBX, 19, &[0x66, 0x0f, 0x38, 0xf6, 0xc0]),       // adcx eax, eax
    feature("SMAP",       7, EBX, 20, &[0x0f, 0x01, 0xca]),                   // clac
    feature("CLFLUSHOPT", 7, EBX, 23, &[0x66, 0x0f, 0xae, 0x3e]),             // clflushopt [rsi]
    feature("CLWB",       7, EBX, 24, &[0x66, 0x0f, 0xae, 0x36]),             // clwb [rsi]
    feature("SHA",        7, EBX, 29, &[0x0f, 0x38, 0xc8, 0xc0]),             // sha1nexte xmm0, xmm0
    feature("GFNI",       7, ECX, 8,  &[0x66, 0x0f, 0x38, 0xcf, 0xc0]),       // gf2p8mulb xmm0, xmm0
    feature("VAES",       7, ECX, 9,  &[0xc4, 0xe2, 0x7d, 0xdc, 0xc0]),       // vaesenc ymm0, ymm0, ymm0
    feature("RDPID",      7, ECX, 22, &[0xf3, 0x0f, 0xc7, 0xf8]),             // rdpid rax
    feature("SERIALIZE",  7, EDX, 14, &[0x0f, 0x01, 0xe8]),                   // serialize
    feature("LZCNT",      0x8000_0001, ECX, 5,  &[]),                         // runs as BSR where absent
    feature("RDTSCP",     0x8000_0001, EDX, 27, &[0x0f, 0x01, 0xf9]),         // rdtscp
    feature("3DNow",      0x8000_0001, EDX, 31, &[0x0f, 0x0f, 0xc0, 0x9e]),   // pfadd mm0, mm0
    feature("SSE4A",      0x8000_0001, ECX, 6,  &[0x66, 0x0f, 0x79, 0xc0]),   // extrq xmm0, xmm0
    feature("XOP",        0x8000_0001, ECX, 11, &[0x8f, 0xe9, 0x78, 0xc2, 0xc0]), // vphaddwd xmm0, xmm0
];

fn offers(g: &Guest, f: &Feature) -> bool {
    g.cpuid
        .iter()
        .filter(|e| e.function == f.leaf && e.index == 0)
        .any(|e| (f.reg)(e) & (1 << f.bit) != 0)
}

/// A long-mode guest with AVX enabled as far as the backend offers it.
fn guest(hv: &dyn Hypervisor) -> Result<Guest, Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    if g.need(1, 0, ECX, 28, "AVX").is_ok() {
        g.set_sregs(|s| s.cr4 |= cr4::OSXSAVE)?;
        g.cpu.set_xcr0(7)?;
    }
    Ok(g)
}

/// Runs the instruction; true if it was undefined.
fn undefined(g: &mut Guest, f: &Feature) -> Result<bool, Failure> {
    g.write(CODE, f.code);
    g.write(CODE + f.code.len() as u64, &[0xf4]);
    g.enter_kernel()?;
    g.set(|r| r.rsi = DATA)?;
    match g.run()? {
        Stop::Halt => Ok(false),
        Stop::Exception(frame) if (frame.vector, frame.ip) == (6, CODE) => Ok(true),
        other => Err(g.unexpected(f.name, other)),
    }
}

fn offered_instructions_run(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = guest(hv)?;
    let mut missing = Vec::new();
    for f in FEATURES.iter().filter(|f| !f.code.is_empty()) {
        if f.name != "SMAP" && offers(&g, f) && undefined(&mut g, f)? {
            missing.push(f.name);
        }
    }
    expect("offered but undefined", missing, vec![])
}

fn hidden_instructions_are_undefined(hv: &dyn Hypervisor) -> Result<(), Failure> {
    if hv.name() == "kvm" {
        // Hardware runs what it has, whatever CPUID says.
        return Err(Failure::Skipped("a backend that can hide instructions"));
    }
    let mut g = guest(hv)?;
    let mut visible = Vec::new();
    for f in FEATURES.iter().filter(|f| !f.code.is_empty()) {
        if !offers(&g, f) && !undefined(&mut g, f)? {
            visible.push(f.name);
        }
    }
    expect("hidden but defined", visible, vec![])
}

fn avx_needs_osxsave(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.need(1, 0, ECX, 28, "AVX")?;
    g.asm(|a| a.vaddps(ymm0, ymm0, ymm0))?;
    g.run_to_exception()?.expect(6, None, CODE)
}

fn avx_needs_xcr0(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.need(1, 0, ECX, 28, "AVX")?;
    g.set_sregs(|s| s.cr4 |= cr4::OSXSAVE)?;
    g.cpu.set_xcr0(3)?;
    g.asm(|a| {
        a.addps(xmm0, xmm0)?; // SSE is enabled
        a.vaddps(xmm0, xmm0, xmm0)
    })?;
    g.run_to_exception()?.expect(6, None, CODE + 3)
}

fn osxsave_bit_follows_cr4(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.need(1, 0, ECX, 26, "XSAVE")?;
    g.asm(|a| {
        a.mov(eax, 1)?;
        a.cpuid()?;
        a.mov(esi, ecx)?;
        a.mov(rax, cr4)?;
        a.or(eax, cr4::OSXSAVE as u32)?;
        a.mov(cr4, rax)?;
        a.mov(eax, 1)?;
        a.cpuid()?;
        a.mov(edi, ecx)?;
        a.hlt()
    })?;
    g.run_to_end()?;
    let r = g.regs()?;
    expect(
        "OSXSAVE before, after",
        (r.rsi >> 27 & 1, r.rdi >> 27 & 1),
        (0, 1),
    )
}

fn leaf_beyond_the_last(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // Intel answers with the highest basic leaf, AMD with zeros; it never
    // faults.
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| {
        a.mov(eax, 0x7fff_0000)?;
        a.xor(ecx, ecx)?;
        a.cpuid()?;
        a.mov(eax, 0x8fff_0000_u32)?;
        a.cpuid()?;
        a.hlt()
    })?;
    g.run_to_end()
}

fn xsave_leaf_is_consistent(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let table = hv.supported_cpuid()?;
    let leaf = |index| table.iter().find(|e| e.function == 0xd && e.index == index);
    let Some(main) = leaf(0) else {
        return Err(Failure::Skipped("XSAVE"));
    };
    ensure("x87 and SSE", main.eax & 3 == 3)?;
    let mut end = 576;
    for bit in (2..32).filter(|bit| main.eax & (1 << bit) != 0) {
        let Some(part) = leaf(bit) else {
            return Err(Failure::Wrong(format!("no sub-leaf {bit}")));
        };
        ensure("a component of size 0", part.eax > 0)?;
        end = end.max(part.ebx + part.eax);
    }
    ensure(
        "the largest size does not hold every component",
        main.ecx >= end,
    )
}

fn vmx_and_svm_are_hidden(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    let nested = g.need(1, 0, ECX, 5, "").is_ok() || g.need(0x8000_0001, 0, ECX, 2, "").is_ok();
    if nested {
        return Err(Failure::Skipped("a backend without nested virtualization"));
    }
    for code in [[0x0f, 0x01, 0xc2], [0x0f, 0x01, 0xd8]] {
        g.write(CODE, &code); // VMLAUNCH, VMRUN
        g.enter_kernel()?;
        let frame = g.run_to_exception()?;
        expect("vector", frame.vector, 6)?;
    }
    Ok(())
}
