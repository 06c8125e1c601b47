//! Images of x87 and vector state in every layout.

use super::{at, in_modes};
use crate::Hypervisor;
use crate::abi::kvm_cpuid_entry2;
use crate::conformance::guest::{Guest, Mode};
use crate::conformance::layout::*;
use crate::conformance::{Failure, ensure, expect};
use iced_x86::Code;
use iced_x86::code_asm::*;
use x86::cr4;

group! { "images":
    environment_layouts "SDM 1 8.1.10, SDM 2 FSTENV, FLDENV",
    fnsave_and_frstor_layouts "SDM 1 8.1.10, SDM 2 FSAVE, FRSTOR",
    fxrstor64_restores "SDM 2 FXRSTOR",
    xsave_without_rex_w "SDM 1 13.4.1, 13.7",
    xsave_area_is_as_cpuid_says "SDM 1 13.2, 13.4.2",
    xsaveopt_saves_changed_state "SDM 1 13.9",
    xsavec_compacts "SDM 1 13.4.3, 13.10",
    xsaves_as_offered "SDM 1 13.11, 13.12",
}

const EAX: fn(&kvm_cpuid_entry2) -> u32 = |e| e.eax;
const ECX: fn(&kvm_cpuid_entry2) -> u32 = |e| e.ecx;

/// Where DS:0 or, with flat segments, DATA is.
fn data(g: &Guest) -> u64 {
    if g.mode == Mode::Real { 0 } else { DATA }
}

fn environment_layouts(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let forms = [
        (Code::Fnstenv_m14byte, Code::Fldenv_m14byte, 2),
        (Code::Fnstenv_m28byte, Code::Fldenv_m28byte, 4),
    ];
    in_modes(hv, &[Mode::Real, Mode::Prot32, Mode::Long], |g| {
        let (bits, from) = (g.mode.bits(), data(g));
        for (store, load, step) in forms {
            g.asm(|a| {
                a.fninit()?;
                a.fld1()?;
                a.add_instruction(at(store, bits, from)?)?;
                a.fninit()?;
                a.add_instruction(at(load, bits, from)?)?;
                a.fnstsw(ax)?;
                a.hlt()
            })?;
            g.enter_kernel()?;
            g.run_to_end()?;
            let field = |i: u64| g.read_uint(DATA + i * step, 2);
            let words = (field(0), field(1), field(2));
            // TOP is 7; register 7 is valid, the others are empty.
            expect("FCW, FSW, tags", words, (0x37f, 0x3800, 0x3fff))?;
            expect("FSW loaded", g.regs()?.rax & 0xffff, 0x3800)?;
        }
        Ok(())
    })
}

fn fnsave_and_frstor_layouts(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let forms = [
        (Code::Fnsave_m94byte, Code::Frstor_m94byte, 14),
        (Code::Fnsave_m108byte, Code::Frstor_m108byte, 28),
    ];
    in_modes(hv, &[Mode::Real, Mode::Prot32, Mode::Long], |g| {
        let (bits, from) = (g.mode.bits(), data(g));
        for (store, load, environment) in forms {
            g.asm(|a| {
                a.fninit()?;
                a.fld1()?;
                a.fldpi()?;
                a.add_instruction(at(store, bits, from)?)?;
                a.fnstsw(ax)?; // FNSAVE initializes the unit
                a.mov(cx, ax)?;
                a.add_instruction(at(load, bits, from)?)?;
                a.add_instruction(at(Code::Fstp_m64fp, bits, from + 0x100)?)?;
                a.add_instruction(at(Code::Fstp_m64fp, bits, from + 0x108)?)?;
                a.hlt()
            })?;
            g.enter_kernel()?;
            g.run_to_end()?;
            expect("FSW behind FNSAVE", g.regs()?.rcx & 0xffff, 0)?;
            let top = (
                g.read_u64(DATA + environment),
                g.read_uint(DATA + environment + 8, 2),
            );
            expect("ST0 in the image", top, (0xc90f_daa2_2168_c235, 0x4000))?;
            let popped = (g.read_u64(DATA + 0x100), g.read_u64(DATA + 0x108));
            let want = (std::f64::consts::PI.to_bits(), 1f64.to_bits());
            expect("restored", popped, want)?;
        }
        Ok(())
    })
}

fn fxrstor64_restores(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.write_u64(DATA + 0x800, 0x1122_3344_5566_7788);
    g.asm(|a| {
        a.fninit()?;
        a.fld1()?;
        a.movq(xmm13, qword_ptr(DATA as u32 + 0x800))?;
        a.fxsave64(ptr(DATA as u32))?;
        a.fninit()?;
        a.xorps(xmm13, xmm13)?;
        a.fxrstor64(ptr(DATA as u32))?;
        a.movq(qword_ptr(DATA as u32 + 0x810), xmm13)?;
        a.fstp(qword_ptr(DATA as u32 + 0x818))?;
        a.hlt()
    })?;
    g.run_to_end()?;
    expect("XMM13", g.read_u64(DATA + 0x810), 0x1122_3344_5566_7788)?;
    expect("ST0", g.read_u64(DATA + 0x818), 1f64.to_bits())
}

/// A guest in `mode` with x87, SSE and AVX enabled and a pattern at
/// DATA + 0x800.
pub(super) fn with_avx(hv: &dyn Hypervisor, mode: Mode) -> Result<Guest, Failure> {
    let mut g = Guest::new(hv, mode)?;
    g.need(1, 0, ECX, 28, "AVX")?;
    g.set_sregs(|s| s.cr4 |= cr4::OSXSAVE)?;
    g.cpu.set_xcr0(7)?;
    for i in 0..4 {
        g.write_u64(DATA + 0x800 + i * 8, 0x1111_1111_1111_1111 * (i + 1));
    }
    Ok(g)
}

/// Saves all components with `save`, clears the registers, restores them with
/// `load` and checks YMM6.
fn round_trip(g: &mut Guest, save: Code, load: Code) -> Result<(), Failure> {
    let bits = g.mode.bits();
    g.write(DATA, &[0; 0x400]);
    g.asm(|a| {
        a.vmovups(ymm6, ymmword_ptr(DATA as u32 + 0x800))?;
        a.mov(eax, 7)?;
        a.xor(edx, edx)?;
        a.add_instruction(at(save, bits, DATA)?)?;
        a.vzeroall()?;
        a.add_instruction(at(load, bits, DATA)?)?;
        a.vmovups(ymmword_ptr(DATA as u32 + 0x840), ymm6)?;
        a.hlt()
    })?;
    g.enter_kernel()?;
    g.run_to_end()?;
    expect("XSTATE_BV", g.read_u64(DATA + 512) & 6, 6)?;
    for i in 0..4 {
        let want = 0x1111_1111_1111_1111 * (i + 1);
        expect("quarter of YMM6", g.read_u64(DATA + 0x840 + i * 8), want)?;
    }
    Ok(())
}

fn xsave_without_rex_w(hv: &dyn Hypervisor) -> Result<(), Failure> {
    for mode in [Mode::Prot32, Mode::Long] {
        let mut g = with_avx(hv, mode)?;
        round_trip(&mut g, Code::Xsave_mem, Code::Xrstor_mem)?;
        expect(
            "upper YMM6",
            g.read_u64(DATA + 576 + 96),
            0x3333_3333_3333_3333,
        )?;
    }
    Ok(())
}

/// Offset of component `i` in the standard format, as the guest's CPUID
/// instruction has it.
fn offset_of(g: &mut Guest, i: u32) -> Result<u64, Failure> {
    g.asm(|a| {
        a.mov(eax, 0xd)?;
        a.mov(ecx, i)?;
        a.cpuid()?;
        a.hlt()
    })?;
    g.enter_kernel()?;
    g.run_to_end()?;
    Ok(g.regs()?.rbx)
}

fn xsave_area_is_as_cpuid_says(hv: &dyn Hypervisor) -> Result<(), Failure> {
    const PATTERN: u64 = USER_DATA;
    let mut g = with_avx(hv, Mode::Long)?;
    let wide = [5, 6, 7]
        .iter()
        .all(|i| g.need(0xd, 0, EAX, *i, "AVX-512").is_ok());
    if wide {
        g.cpu.set_xcr0(0xe7)?;
    }
    for i in 0..8 {
        g.write_u64(PATTERN + i * 8, 0x1111_1111_1111_1111 * (i + 1));
    }
    g.write(DATA, &[0; 0xb00]);
    // Register, its part in bytes, and where in which component it is saved.
    let mut saved = vec![("YMM6", 16..32, 2, 16 * 6)];
    if wide {
        saved.push(("K3", 0..8, 5, 8 * 3));
        saved.push(("ZMM5", 32..64, 6, 32 * 5));
        saved.push(("ZMM18", 0..64, 7, 64 * 2));
    }
    let mut places = Vec::new();
    for (name, part, component, at) in saved {
        let offset = offset_of(&mut g, component)?;
        places.push((name, part, DATA + offset + at));
    }
    g.asm(|a| {
        a.vmovups(ymm6, ymmword_ptr(PATTERN as u32))?;
        if wide {
            a.kmovq(k3, qword_ptr(PATTERN as u32))?;
            a.vmovups(zmm5, zmmword_ptr(PATTERN as u32))?;
            a.vmovups(zmm18, zmmword_ptr(PATTERN as u32))?;
        }
        a.mov(eax, -1)?;
        a.mov(edx, -1)?;
        a.xsave64(ptr(DATA as u32))?;
        a.xor(ecx, ecx)?;
        a.mov(eax, 0xd)?;
        a.cpuid()?;
        a.hlt()
    })?;
    g.enter_kernel()?;
    g.run_to_end()?;
    let size = DATA + g.regs()?.rbx;
    for (name, part, place) in places {
        let len = part.end - part.start;
        let (mut got, mut want) = (vec![0; len as usize], vec![0; len as usize]);
        g.ram.read(place, &mut got);
        g.ram.read(PATTERN + part.start, &mut want);
        expect(name, got, want)?;
        ensure(
            "the size is too small",
            place + part.end <= size + part.start,
        )?;
    }
    Ok(())
}

fn xsaveopt_saves_changed_state(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = with_avx(hv, Mode::Long)?;
    g.need(0xd, 1, EAX, 0, "XSAVEOPT")?;
    round_trip(&mut g, Code::Xsaveopt_mem, Code::Xrstor_mem)?;
    round_trip(&mut g, Code::Xsaveopt64_mem, Code::Xrstor64_mem)?;
    expect(
        "upper YMM6",
        g.read_u64(DATA + 576 + 96),
        0x3333_3333_3333_3333,
    )
}

fn xsavec_compacts(hv: &dyn Hypervisor) -> Result<(), Failure> {
    for (save, load) in [
        (Code::Xsavec_mem, Code::Xrstor_mem),
        (Code::Xsavec64_mem, Code::Xrstor64_mem),
    ] {
        let mut g = with_avx(hv, Mode::Long)?;
        g.need(0xd, 1, EAX, 1, "XSAVEC")?;
        round_trip(&mut g, save, load)?;
        expect("XCOMP_BV", g.read_u64(DATA + 520), 1 << 63 | 7)?;
        // The first extended component follows the header.
        expect(
            "upper YMM6",
            g.read_u64(DATA + 576 + 96),
            0x3333_3333_3333_3333,
        )?;
    }
    Ok(())
}

fn xsaves_as_offered(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = with_avx(hv, Mode::Long)?;
    if g.need(0xd, 1, EAX, 3, "XSAVES").is_ok() {
        round_trip(&mut g, Code::Xsaves_mem, Code::Xrstors_mem)?;
        round_trip(&mut g, Code::Xsaves64_mem, Code::Xrstors64_mem)?;
        return expect("XCOMP_BV", g.read_u64(DATA + 520), 1 << 63 | 7);
    }
    for code in [
        Code::Xsaves_mem,
        Code::Xsaves64_mem,
        Code::Xrstors_mem,
        Code::Xrstors64_mem,
    ] {
        g.asm(|a| a.add_instruction(at(code, 64, DATA)?))?;
        g.enter_kernel()?;
        g.run_to_exception()?.expect(6, None, CODE)?;
    }
    Ok(())
}
