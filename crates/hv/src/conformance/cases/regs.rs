//! Register groups from the VMM's side (KVM API 4.11 and following).

use crate::Hypervisor;
use crate::abi::{kvm_debugregs, kvm_regs};
use crate::conformance::guest::{Chips, Guest, Mode};
use crate::conformance::{Failure, ensure, expect};
use iced_x86::code_asm::*;
use x86::{cr0, cr4, efer, flags, msr};

group! { "regs":
    general_registers_round_trip "KVM API 4.11, 4.12",
    reserved_flags_read_as_fixed "SDM 1 3.4.3",
    segments_round_trip "KVM API 4.13, 4.14",
    impossible_control_registers_are_refused "SDM 3 2.5, 4.1",
    fpu_round_trip "KVM API 4.18",
    xsave_round_trip "KVM API 4.42, SDM 1 13.4",
    xcr0_round_trip "KVM API 4.44, SDM 1 13.3",
    debug_registers_round_trip "KVM API 4.38",
    msr_round_trip "KVM API 4.8, SDM 4",
    msr_list_can_be_saved_and_restored "KVM API 4.3",
    unknown_msr_is_refused "KVM API 4.19",
    setup_msrs_of_an_amd_processor "APM 2 appendix A",
    events_round_trip "KVM API 4.31",
    mp_state_round_trip "KVM API 4.38",
    cpuid_table_is_what_the_guest_sees "KVM API 4.36, SDM 2 CPUID",
    guest_changes_are_visible "KVM API 4.11",
}

fn general_registers_round_trip(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    let n = 0x0101_0101_0101_0101_u64;
    let want = kvm_regs {
        rax: n,
        rbx: n * 2,
        rcx: n * 3,
        rdx: n * 4,
        rsi: n * 5,
        rdi: n * 6,
        rsp: n * 7,
        rbp: n * 8,
        r8: n * 9,
        r9: n * 10,
        r10: n * 11,
        r11: n * 12,
        r12: n * 13,
        r13: n * 14,
        r14: n * 15,
        r15: n * 16,
        rip: 0x7fff_1234_5678,
        rflags: flags::FIXED1 | flags::CF | flags::OF | flags::ID,
    };
    g.cpu.set_regs(&want)?;
    expect("registers", g.regs()?, want)
}

fn reserved_flags_read_as_fixed(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.set(|r| r.rflags = flags::CF)?;
    expect("RFLAGS", g.regs()?.rflags, flags::CF | flags::FIXED1)
}

fn segments_round_trip(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    let mut want = g.cpu.sregs()?;
    want.fs.base = 0x7fff_0000_1000;
    want.gs.base = 0xffff_8000_0000_2000;
    want.cr2 = 0x1234_5678_9abc;
    want.gdt.limit = 0x57;
    want.idt.base = 0x5000;
    g.cpu.set_sregs(&want)?;
    let mut got = g.cpu.sregs()?;
    got.interrupt_bitmap = want.interrupt_bitmap;
    expect("segment and control registers", got, want)?;
    expect("FS base MSR", g.cpu.msr(msr::FS_BASE)?, want.fs.base)
}

fn impossible_control_registers_are_refused(hv: &dyn Hypervisor) -> Result<(), Failure> {
    type Change = fn(&mut crate::abi::kvm_sregs);
    let table: [(&str, Change); 4] = [
        ("PG without PE", |s| s.cr0 &= !cr0::PE),
        ("long mode without PAE", |s| s.cr4 &= !cr4::PAE),
        ("LMA without LME", |s| s.efer &= !efer::LME),
        ("reserved CR4 bit", |s| s.cr4 |= 1 << 31),
    ];
    for (what, change) in table {
        let mut g = Guest::new(hv, Mode::Long)?;
        let before = g.cpu.sregs()?;
        let mut sregs = before;
        change(&mut sregs);
        ensure(what, g.cpu.set_sregs(&sregs).is_err())?;
        expect(what, g.cpu.sregs()?.cr0, before.cr0)?;
    }
    Ok(())
}

fn fpu_round_trip(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    let mut want = g.cpu.fpu()?;
    want.fcw = 0x027f;
    want.fsw = 0x3800;
    // MXCSR is not in this group: KVM_GET_FPU leaves it 0.
    want.fpr[0][..10].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f]);
    want.xmm[3] = [0x33; 16];
    g.cpu.set_fpu(&want)?;
    let got = g.cpu.fpu()?;
    expect("FCW, FSW", (got.fcw, got.fsw), (0x027f, 0x3800))?;
    expect("ST0", got.fpr[0], want.fpr[0])?;
    expect("XMM3", got.xmm[3], [0x33; 16])
}

fn xsave_round_trip(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.need(1, 0, |e| e.ecx, 28, "AVX")?;
    let mut image = g.cpu.xsave()?;
    image.region[6] = 0x1f80;
    image.region[128] = 7; // XSTATE_BV: x87, SSE, AVX
    image.region[40 + 4 * 2] = 0x1122_3344; // XMM2 at byte 160
    image.region[144 + 4 * 2] = 0x5566_7788; // upper YMM2 at byte 576
    g.cpu.set_xsave(&image)?;
    let got = g.cpu.xsave()?;
    expect("XMM2", got.region[48], 0x1122_3344)?;
    expect("upper YMM2", got.region[152], 0x5566_7788)?;
    expect("XSTATE_BV.AVX", got.region[128] & 4, 4)
}

fn xcr0_round_trip(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.need(1, 0, |e| e.ecx, 26, "XSAVE")?;
    expect("after reset", g.cpu.xcr0()?, 1)?;
    g.cpu.set_xcr0(3)?;
    expect("XCR0", g.cpu.xcr0()?, 3)?;
    ensure("XCR0 without x87 was accepted", g.cpu.set_xcr0(2).is_err())?;
    ensure("AVX without SSE was accepted", g.cpu.set_xcr0(5).is_err())
}

fn debug_registers_round_trip(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    let want = kvm_debugregs {
        db: [0x1000, 0x2000, 0x3000, 0x7fff_ffff_f000],
        dr6: 0xffff_4ff1,
        dr7: 0x401,
        ..Default::default()
    };
    g.cpu.set_debug_regs(&want)?;
    let got = g.cpu.debug_regs()?;
    expect("DR0..3", got.db, want.db)?;
    expect("DR6, DR7", (got.dr6, got.dr7), (want.dr6, want.dr7))
}

fn msr_round_trip(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    for (index, value) in [
        (msr::LSTAR, 0xffff_8000_1234_5678),
        (msr::STAR, 0x0023_0010_0000_0000),
        (msr::SFMASK, 0x4_7700),
        (msr::KERNEL_GS_BASE, 0x7000_0000_0000),
        (msr::SYSENTER_CS, 0x10),
        (msr::SYSENTER_EIP, 0xc000_0000),
        (msr::PAT, 0x0007_0406_0007_0406),
        (msr::TSC_AUX, 5),
    ] {
        g.cpu.set_msr(index, value)?;
        expect("MSR", (index, g.cpu.msr(index)?), (index, value))?;
    }
    let bad = g.cpu.set_msr(msr::LSTAR, 0x0000_8000_0000_0000);
    ensure("a non-canonical LSTAR was accepted", bad.is_err())?;
    let bad = g.cpu.set_msr(msr::PAT, 2);
    ensure("a reserved memory type was accepted", bad.is_err())
}

fn msr_list_can_be_saved_and_restored(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // Some paravirtual MSRs need a local APIC.
    let mut g = Guest::with(hv, Mode::Long, Chips::Irqchip)?;
    let list = hv.msr_index_list()?;
    for index in [
        msr::LSTAR,
        msr::STAR,
        msr::KERNEL_GS_BASE,
        msr::TSC,
        msr::PAT,
    ] {
        ensure("an everyday MSR is not in the list", list.contains(&index))?;
    }
    // The list is the host's; the guest's CPUID may lack some of them.
    let known: Vec<_> = list
        .into_iter()
        .filter_map(|index| g.cpu.msr(index).ok().map(|value| (index, value)))
        .collect();
    ensure("half of the list is unreadable", known.len() > 20)?;
    let mut refused = Vec::new();
    for (index, value) in known {
        if g.cpu.set_msr(index, value).is_err() {
            refused.push(index);
        }
    }
    expect("MSRs that refuse their own value", refused, vec![])
}

fn unknown_msr_is_refused(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    ensure("reading", g.cpu.msr(0x1234_5678).is_err())?;
    ensure("writing", g.cpu.set_msr(0x1234_5678, 0).is_err())?;
    g.asm(|a| {
        a.mov(ecx, 0x1234_5678)?;
        a.rdmsr()
    })?;
    let frame = g.run_to_exception()?;
    expect("RDMSR", (frame.vector, frame.error), (13, Some(0)))
}

/// Kernels for such processors do not ask whether these are there.
fn setup_msrs_of_an_amd_processor(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    for leaf in g.cpuid.iter_mut().filter(|e| e.function == 0) {
        let name = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| b"AuthenticAMD"[at + i]));
        (leaf.ebx, leaf.edx, leaf.ecx) = (name(0), name(4), name(8));
    }
    g.cpu.set_cpuid(&g.cpuid)?;
    g.asm(|a| {
        a.mov(ecx, msr::AMD_SYSCFG)?;
        a.rdmsr()?;
        a.mov(ebx, eax)?;
        a.mov(ecx, msr::AMD_NB_CFG)?;
        a.rdmsr()?;
        a.bts(edx, 46 - 32)?; // accesses to extended configuration space
        a.wrmsr()?;
        a.hlt()
    })?;
    g.run_to_end()?;
    expect("SYSCFG", g.regs()?.rbx, 0)
}

fn events_round_trip(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    let mut events = g.cpu.events()?;
    expect(
        "nothing pending",
        (events.exception.injected, events.nmi.pending),
        (0, 0),
    )?;
    events.nmi.masked = 1;
    events.nmi.pending = 1;
    events.interrupt.shadow = 1;
    events.flags =
        crate::abi::KVM_VCPUEVENT_VALID_NMI_PENDING | crate::abi::KVM_VCPUEVENT_VALID_SHADOW;
    g.cpu.set_events(&events)?;
    let got = g.cpu.events()?;
    expect(
        "NMI masked, pending",
        (got.nmi.masked, got.nmi.pending),
        (1, 1),
    )?;
    expect("shadow", got.interrupt.shadow & 3 != 0, true)
}

fn mp_state_round_trip(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::with(hv, Mode::Long, Chips::Irqchip)?;
    expect("boot processor", g.cpu.mp_state()?, 0)?;
    let other = g.add_cpu(1)?;
    expect("application processor", other.mp_state()?, 1)?;
    g.cpu.set_mp_state(3)?;
    expect("halted", g.cpu.mp_state()?, 3)
}

fn cpuid_table_is_what_the_guest_sees(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    let mut table = g.cpuid.clone();
    table.retain(|e| e.function != 0x4000_0000);
    for entry in &mut table {
        if entry.function == 0 {
            (entry.ebx, entry.ecx, entry.edx) = (0x7061_7254, 0x2121_2121, 0x657a_6570);
        }
    }
    g.cpu.set_cpuid(&table)?;
    g.asm(|a| {
        a.xor(eax, eax)?;
        a.cpuid()?;
        a.mov(r8, rbx)?;
        a.mov(r9, rcx)?;
        a.mov(r10, rdx)?;
        a.hlt()
    })?;
    g.run_to_end()?;
    let r = g.regs()?;
    expect(
        "leaf 0",
        (r.r8, r.r9, r.r10),
        (0x7061_7254, 0x2121_2121, 0x657a_6570),
    )
}

fn guest_changes_are_visible(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| {
        a.mov(rax, 0x1111_2222_3333_4444_u64)?;
        a.movq(xmm5, rax)?;
        a.mov(r15, rax)?;
        a.mov(ecx, msr::KERNEL_GS_BASE)?;
        a.mov(eax, 0x5000)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.mov(rax, cr4)?;
        a.or(eax, (cr4::TSD) as u32)?;
        a.mov(cr4, rax)?;
        a.std()?;
        a.hlt()
    })?;
    g.run_to_end()?;
    let r = g.regs()?;
    expect("R15", r.r15, 0x1111_2222_3333_4444)?;
    expect("DF", r.rflags & flags::DF, flags::DF)?;
    expect("MSR", g.cpu.msr(msr::KERNEL_GS_BASE)?, 0x5000)?;
    expect("CR4.TSD", g.cpu.sregs()?.cr4 & cr4::TSD, cr4::TSD)?;
    expect(
        "XMM5",
        g.cpu.fpu()?.xmm[5][..8].to_vec(),
        r.r15.to_le_bytes().to_vec(),
    )
}
