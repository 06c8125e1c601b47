//! Fast system calls and the instructions around them (SDM vol 3, 5.8.7,
//! 5.8.8; vol 2).

use super::in_modes;
use crate::Hypervisor;
use crate::conformance::guest::{Guest, Mode};
use crate::conformance::layout::*;
use crate::conformance::{Failure, expect};
use iced_x86::code_asm::*;
use x86::{cr4, efer, flags, msr};

group! { "syscall":
    syscall_and_sysret "SDM 2 SYSCALL, SYSRET",
    syscall_masks_flags "SDM 2 SYSCALL, IA32_FMASK",
    sysret_to_compatibility_mode "SDM 2 SYSRET",
    syscall_needs_sce "SDM 2 SYSCALL",
    sysret_needs_ring_0 "SDM 2 SYSRET",
    many_syscalls "SDM 2 SYSCALL",
    sysenter_and_sysexit_32 "SDM 2 SYSENTER, SYSEXIT",
    sysenter_with_null_selector "SDM 2 SYSENTER",
    swapgs_exchanges_bases "SDM 2 SWAPGS",
    swapgs_needs_ring_0 "SDM 2 SWAPGS",
    fs_and_gs_bases_address_memory "SDM 3 3.4.4.1",
    wrfsbase_and_friends "SDM 2 WRFSBASE",
    fsgsbase_needs_cr4 "SDM 2 RDFSBASE",
    rdtscp_gives_tsc_aux "SDM 2 RDTSCP",
    tsd_stops_user_rdtsc "SDM 3 2.5, CR4.TSD",
    efer_lme_under_paging "SDM 3 9.8.5",
    mode_switch_to_long_and_back "SDM 3 9.8.5",
    umip_stops_user_sgdt "SDM 3 2.5, CR4.UMIP",
    wrmsr_non_canonical "SDM 2 WRMSR",
    xgetbv_and_xsetbv "SDM 2 XSETBV",
}

/// STAR for the suite's selectors.
const STAR: u64 = (0x38 | 3) << 48 | (sel::CODE as u64) << 32;

/// Points LSTAR at [`SPARE`] and clears `mask` on entry.
fn enable_syscall(g: &mut Guest, mask: u64) -> Result<(), Failure> {
    g.cpu.set_msr(msr::STAR, STAR)?;
    g.cpu.set_msr(msr::LSTAR, SPARE)?;
    g.cpu.set_msr(msr::SFMASK, mask)?;
    g.set_sregs(|s| s.efer |= efer::SCE)
}

fn syscall_and_sysret(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    enable_syscall(&mut g, flags::IF)?;
    g.code_at(SPARE, SPARE, 64, |a| {
        a.mov(ebx, cs)?;
        a.mov(edx, ss)?;
        a.mov(r8, rsp)?;
        a.mov(r9, rcx)?;
        a.mov(r10, r11)?;
        a.sysretq()
    })?;
    g.user_asm(|a| {
        a.syscall()?;
        a.mov(esi, cs)?;
        a.mov(edi, ss)?;
        a.ud2()
    })?;
    g.enter_user()?;
    g.set(|r| r.rflags |= flags::IF | flags::CF)?;
    let frame = g.run_to_exception()?;
    frame.expect(6, None, USER_CODE + 6)?;
    let r = g.regs()?;
    expect("CS, SS in the kernel", (r.rbx, r.rdx), (8, 0x10))?;
    expect("RSP does not change", r.r8, USER_STACK_TOP)?;
    expect("RCX = return address", r.r9, USER_CODE + 2)?;
    expect("R11 = flags", r.r10 & !2, flags::IF | flags::CF)?;
    expect("CS, SS in user mode", (r.rsi, r.rdi), (0x4b, 0x43))?;
    expect(
        "flags restored",
        frame.flags & (flags::IF | flags::CF),
        flags::IF | flags::CF,
    )
}

fn syscall_masks_flags(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    let mask = flags::TF | flags::DF | flags::AC | flags::IF | flags::NT;
    enable_syscall(&mut g, mask)?;
    g.code_at(SPARE, SPARE, 64, |a| a.hlt())?;
    g.user_asm(|a| a.syscall())?;
    g.enter_user()?;
    g.set(|r| r.rflags |= flags::DF | flags::AC | flags::IF | flags::NT | flags::CF)?;
    g.run_to_end()?;
    expect("RFLAGS", g.regs()?.rflags, flags::CF | flags::FIXED1)
}

fn sysret_to_compatibility_mode(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    enable_syscall(&mut g, 0)?;
    g.asm(|a| {
        a.mov(ecx, USER_CODE as u32)?;
        a.mov(r11d, 2)?;
        a.sysret()
    })?;
    g.code_at(USER_CODE, USER_CODE, 32, |a| {
        a.mov(eax, cs)?;
        a.dec(ebx)?; // a REX prefix in 64-bit mode
        a.ud2()
    })?;
    g.set(|r| r.rbx = 5)?;
    let frame = g.run_to_exception()?;
    expect("vector, CS", (frame.vector, frame.cs), (6, 0x3b))?;
    let r = g.regs()?;
    expect("CS, EBX", (r.rax, r.rbx), (0x3b, 4))
}

fn syscall_needs_sce(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.set_sregs(|s| s.efer &= !efer::SCE)?;
    g.user_asm(|a| a.syscall())?;
    g.enter_user()?;
    g.run_to_exception()?.expect(6, None, USER_CODE)
}

fn sysret_needs_ring_0(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    enable_syscall(&mut g, 0)?;
    g.user_asm(|a| a.sysretq())?;
    g.enter_user()?;
    g.run_to_exception()?.expect(13, Some(0), USER_CODE)
}

fn many_syscalls(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // User and kernel keep a counter each in their own pages.
    let mut g = Guest::new(hv, Mode::Long)?;
    enable_syscall(&mut g, 0)?;
    g.code_at(SPARE, SPARE, 64, |a| {
        a.inc(dword_ptr(DATA as u32))?;
        a.sysretq()
    })?;
    g.user_asm(|a| {
        a.mov(ebx, 2000)?;
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.inc(dword_ptr(USER_DATA as u32))?;
        a.syscall()?;
        a.dec(ebx)?;
        a.jne(top)?;
        a.ud2()
    })?;
    g.enter_user()?;
    g.run_to_exception()?;
    expect(
        "kernel, user",
        (g.read_u32(DATA), g.read_u32(USER_DATA)),
        (2000, 2000),
    )
}

fn sysenter_and_sysexit_32(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Pae], |g| {
        g.cpu.set_msr(msr::SYSENTER_CS, sel::CODE.into())?;
        g.cpu.set_msr(msr::SYSENTER_ESP, STACK_TOP - 0x100)?;
        g.cpu.set_msr(msr::SYSENTER_EIP, SPARE)?;
        g.code_at(SPARE, SPARE, 32, |a| {
            a.mov(eax, cs)?;
            a.mov(ebx, ss)?;
            a.mov(esi, esp)?;
            a.pushfd()?;
            a.pop(edi)?;
            a.mov(edx, (USER_CODE + 0x80) as u32)?;
            a.mov(ecx, (USER_STACK_TOP - 0x40) as u32)?;
            a.sysexit()
        })?;
        g.user_asm(|a| a.sysenter())?;
        g.code_at(USER_CODE + 0x80, USER_CODE + 0x80, 32, |a| a.ud2())?;
        g.enter_user()?;
        g.set(|r| r.rflags |= flags::IF)?;
        let frame = g.run_to_exception()?;
        frame.expect(6, None, USER_CODE + 0x80)?;
        let r = g.regs()?;
        expect(
            "CS, SS, ESP",
            (r.rax, r.rbx, r.rsi),
            (8, 0x10, STACK_TOP - 0x100),
        )?;
        expect("IF in the kernel", r.rdi & flags::IF, 0)?;
        // SYSEXIT's selectors are CS + 16 and CS + 24, RPL 3.
        expect("user CS, SS", (frame.cs, frame.ss), (0x1b, 0x23))?;
        expect("user ESP", frame.sp, USER_STACK_TOP - 0x40)
    })
}

fn sysenter_with_null_selector(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Prot32)?;
    g.user_asm(|a| a.sysenter())?;
    g.enter_user()?;
    g.run_to_exception()?.expect(13, Some(0), USER_CODE)
}

fn swapgs_exchanges_bases(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.write_u64(DATA, 0x11);
    g.write_u64(DATA + 0x1000, 0x22);
    g.set_sregs(|s| s.gs.base = DATA)?;
    g.cpu.set_msr(msr::KERNEL_GS_BASE, DATA + 0x1000)?;
    g.asm(|a| {
        a.mov(rbx, qword_ptr(0).gs())?;
        a.swapgs()?;
        a.mov(rcx, qword_ptr(0).gs())?;
        a.hlt()
    })?;
    g.run_to_end()?;
    let r = g.regs()?;
    expect("loads", (r.rbx, r.rcx), (0x11, 0x22))?;
    expect("GS base", g.cpu.sregs()?.gs.base, DATA + 0x1000)?;
    expect("kernel GS base", g.cpu.msr(msr::KERNEL_GS_BASE)?, DATA)
}

fn swapgs_needs_ring_0(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.user_asm(|a| a.swapgs())?;
    g.enter_user()?;
    g.run_to_exception()?.expect(13, Some(0), USER_CODE)
}

fn fs_and_gs_bases_address_memory(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    for i in 0..4 {
        g.write_u64(DATA + i * 0x100, 0x1000 + i);
    }
    g.asm(|a| {
        for (index, base) in [(msr::FS_BASE, DATA), (msr::GS_BASE, DATA + 0x100)] {
            a.mov(ecx, index)?;
            a.mov(eax, base as u32)?;
            a.xor(edx, edx)?;
            a.wrmsr()?;
        }
        a.mov(r8, qword_ptr(0).fs())?;
        a.mov(r9, qword_ptr(0x100).gs())?;
        a.mov(eax, 0x180)?;
        a.mov(r10, qword_ptr(rax * 2 - 0x100).gs())?;
        a.lea(r11, qword_ptr(rax + 8).fs())?; // LEA ignores segments
        // DS, ES, SS and CS bases are 0 whatever the descriptor says.
        a.hlt()
    })?;
    g.set_sregs(|s| s.ds.base = 0x5000)?;
    g.run_to_end()?;
    let r = g.regs()?;
    expect("loads", (r.r8, r.r9, r.r10), (0x1000, 0x1002, 0x1003))?;
    expect("LEA", r.r11, 0x188)
}

fn wrfsbase_and_friends(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.need(7, 0, |e| e.ebx, 0, "FSGSBASE")?;
    g.set_sregs(|s| s.cr4 |= cr4::FSGSBASE)?;
    g.user_asm(|a| {
        a.mov(rax, 0x7000_0000_1000_u64)?;
        a.wrfsbase(rax)?;
        a.mov(eax, 0x1234)?;
        a.wrgsbase(eax)?;
        a.rdfsbase(rbx)?;
        a.rdgsbase(rcx)?;
        a.ud2()
    })?;
    g.enter_user()?;
    g.run_to_exception()?;
    let r = g.regs()?;
    expect("FS, GS", (r.rbx, r.rcx), (0x7000_0000_1000, 0x1234))?;
    g.asm(|a| {
        a.mov(rax, 0x8000_0000_0000_u64)?;
        a.wrfsbase(rax)
    })?;
    g.enter_kernel()?;
    g.run_to_exception()?.expect(13, Some(0), CODE + 10)
}

fn fsgsbase_needs_cr4(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| a.rdfsbase(rax))?;
    g.run_to_exception()?.expect(6, None, CODE)
}

fn rdtscp_gives_tsc_aux(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.need(0x8000_0001, 0, |e| e.edx, 27, "RDTSCP")?;
    g.cpu.set_msr(msr::TSC_AUX, 0x1234)?;
    g.asm(|a| {
        a.rdtsc()?;
        a.mov(esi, eax)?;
        a.mov(edi, edx)?;
        a.rdtscp()?;
        a.sub(eax, esi)?;
        a.sbb(edx, edi)?; // not negative
        a.hlt()
    })?;
    g.run_to_end()?;
    let r = g.regs()?;
    expect("ECX, difference's high half", (r.rcx, r.rdx), (0x1234, 0))
}

fn tsd_stops_user_rdtsc(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Pae, Mode::Long], |g| {
        g.set_sregs(|s| s.cr4 |= cr4::TSD)?;
        g.user_asm(|a| a.rdtsc())?;
        g.enter_user()?;
        g.run_to_exception()?.expect(13, Some(0), USER_CODE)?;
        g.asm(|a| {
            a.rdtsc()?;
            a.hlt()
        })?;
        g.enter_kernel()?;
        g.run_to_end()
    })
}

fn efer_lme_under_paging(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // LME cannot change while paging is on.
    let mut g = Guest::new(hv, Mode::Long)?;
    let at = g.asm(|a| {
        a.mov(ecx, msr::EFER)?;
        a.rdmsr()?;
        a.and(eax, !(efer::LME as u32))
    })?;
    g.code_at(CODE + at, CODE + at, 64, |a| a.wrmsr())?;
    g.run_to_exception()?.expect(13, Some(0), CODE + at)
}

fn mode_switch_to_long_and_back(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // Compatibility mode leaves paging and long mode, runs unpaged 32-bit
    // code, and enters again, as boot loaders and kexec do.
    let mut g = Guest::new(hv, Mode::Compat)?;
    g.asm(|a| {
        a.mov(eax, cr0)?;
        a.and(eax, !(x86::cr0::PG as u32))?;
        a.mov(cr0, eax)?;
        a.mov(ecx, msr::EFER)?;
        a.rdmsr()?;
        a.mov(esi, eax)?; // LMA is 0 now
        a.and(eax, !(efer::LME as u32))?;
        a.wrmsr()?;
        a.mov(dword_ptr(DATA as u32), 0x1111)?;
        a.rdmsr()?;
        a.or(eax, efer::LME as u32)?;
        a.wrmsr()?;
        a.mov(eax, cr0)?;
        a.or(eax, x86::cr0::PG as u32)?;
        a.mov(cr0, eax)?;
        a.rdmsr()?;
        a.mov(edi, eax)?; // LMA is 1 again
        a.jmp_far(sel::CODE, SPARE as u32)
    })?;
    g.code_at(SPARE, SPARE, 64, |a| {
        a.mov(rbx, 0x1122_3344_5566_7788_u64)?;
        a.hlt()
    })?;
    g.run_to_end()?;
    let r = g.regs()?;
    expect(
        "LMA off, on",
        (r.rsi & efer::LMA, r.rdi & efer::LMA),
        (0, efer::LMA),
    )?;
    expect("RBX", r.rbx, 0x1122_3344_5566_7788)?;
    expect("unpaged store", g.read_u32(DATA), 0x1111)
}

fn umip_stops_user_sgdt(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.need(7, 0, |e| e.ecx, 2, "UMIP")?;
    g.set_sregs(|s| s.cr4 |= cr4::UMIP)?;
    g.user_asm(|a| a.sgdt(ptr(USER_DATA as u32)))?;
    g.enter_user()?;
    g.run_to_exception()?.expect(13, Some(0), USER_CODE)?;
    g.user_asm(|a| a.smsw(eax))?;
    g.enter_user()?;
    g.run_to_exception()?.expect(13, Some(0), USER_CODE)
}

fn wrmsr_non_canonical(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    let at = g.asm(|a| {
        a.mov(ecx, msr::LSTAR)?;
        a.xor(eax, eax)?;
        a.mov(edx, 0x8000)
    })?;
    g.code_at(CODE + at, CODE + at, 64, |a| a.wrmsr())?;
    g.run_to_exception()?.expect(13, Some(0), CODE + at)
}

fn xgetbv_and_xsetbv(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.need(1, 0, |e| e.ecx, 26, "XSAVE")?;
    g.asm(|a| {
        a.xor(ecx, ecx)?;
        a.xgetbv()
    })?;
    g.run_to_exception()?.expect(6, None, CODE + 2)?; // CR4.OSXSAVE is off
    g.set_sregs(|s| s.cr4 |= cr4::OSXSAVE)?;
    let at = g.asm(|a| {
        a.xor(ecx, ecx)?;
        a.xor(edx, edx)?;
        a.mov(eax, 3)?;
        a.xsetbv()?;
        a.xgetbv()?;
        a.mov(ebx, eax)?;
        a.mov(eax, 2)
    })?;
    g.code_at(CODE + at, CODE + at, 64, |a| a.xsetbv())?;
    g.enter_kernel()?;
    g.run_to_exception()?.expect(13, Some(0), CODE + at)?;
    expect("XCR0", g.regs()?.rbx, 3)?;
    expect("XCR0 from outside", g.cpu.xcr0()?, 3)
}
