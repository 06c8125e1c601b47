//! Leaving and re-entering the guest: immediate exit, kicks, in-flight I/O
//! (KVM API 5).

use super::in_modes;
use crate::conformance::guest::{Guest, Mode, Stop};
use crate::conformance::layout::*;
use crate::conformance::{Failure, ensure, expect};
use crate::{Hypervisor, VcpuExit};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use std::time::Duration;
use x86::cr4;

group! { "control":
    immediate_exit_runs_nothing "KVM API 5, immediate_exit",
    immediate_exit_completes_port_write "KVM API 5, KVM_EXIT_IO",
    immediate_exit_completes_port_read "KVM API 5, KVM_EXIT_IO",
    immediate_exit_completes_mmio_read "KVM API 5, KVM_EXIT_MMIO",
    immediate_exit_completes_mmio_write "KVM API 5, KVM_EXIT_MMIO",
    kick_before_run_is_not_lost "KVM API 5, immediate_exit",
    kick_is_reported_once "KVM API 5, immediate_exit",
    kick_during_io_is_not_lost "KVM API 5, immediate_exit",
    kicks_end_loops_of_jumps "KVM API 5, immediate_exit",
    state_survives_an_interruption "KVM API 4.10",
    registers_set_between_runs "KVM API 4.12",
    clock_advances "KVM API 4.29",
    clock_can_be_set "KVM API 4.30",
    tsc_frequency_is_known "KVM API 4.56",
    tsc_can_be_set "SDM 3 17.17",
    tsc_advances_at_its_frequency "SDM 3 17.17",
    clock_structure_outside_memory "Linux Documentation/virt/kvm/x86/msr.rst",
    capabilities_are_sane "KVM API 4.4",
    counters_count_exits "Documentation/virt/kvm, kvm_stat",
}

fn interrupted(g: &mut Guest) -> Result<(), Failure> {
    g.cpu.kicker().set_immediate_exit(true);
    let exit = g.cpu.run()?;
    g.cpu.kicker().set_immediate_exit(false);
    expect("exit", exit, VcpuExit::Interrupted)
}

fn immediate_exit_runs_nothing(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| {
        a.inc(eax)?;
        a.hlt()
    })?;
    for _ in 0..3 {
        interrupted(&mut g)?;
    }
    expect("RIP, RAX", (g.regs()?.rip, g.regs()?.rax), (CODE, 0))?;
    g.run_to_end()?;
    expect("RAX", g.regs()?.rax, 1)
}

fn immediate_exit_completes_port_write(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::ALL, |g| {
        g.asm(|a| {
            a.out(0x10, al)?;
            a.hlt()
        })?;
        let start = g.regs()?.rip;
        let exit = g.cpu.run()?;
        ensure(
            "no port write",
            matches!(exit, VcpuExit::IoOut { port: 0x10, .. }),
        )?;
        interrupted(g)?;
        expect("RIP", g.regs()?.rip, start + 2)
    })
}

fn immediate_exit_completes_port_read(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::ALL, |g| {
        g.asm(|a| {
            a.in_(al, 0x10)?;
            a.hlt()
        })?;
        let start = g.regs()?.rip;
        let exit = g.cpu.run()?;
        ensure(
            "no port read",
            matches!(exit, VcpuExit::IoIn { port: 0x10, .. }),
        )?;
        g.cpu.complete_read(0x5a);
        interrupted(g)?;
        let r = g.regs()?;
        expect("RIP, AL", (r.rip, r.rax), (start + 2, 0x5a))
    })
}

fn immediate_exit_completes_mmio_read(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(
        hv,
        &[Mode::Prot32, Mode::Pae, Mode::Long, Mode::Compat],
        |g| {
            let len = g.asm(|a| a.mov(ecx, dword_ptr(MMIO as u32)))?;
            let exit = g.cpu.run()?;
            ensure(
                "no MMIO read",
                matches!(exit, VcpuExit::MmioRead { gpa: MMIO, size: 4 }),
            )?;
            g.cpu.complete_read(0x1234_5678);
            interrupted(g)?;
            let r = g.regs()?;
            expect("RIP, ECX", (r.rip, r.rcx), (CODE + len, 0x1234_5678))
        },
    )
}

fn immediate_exit_completes_mmio_write(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(
        hv,
        &[Mode::Prot32, Mode::Pae, Mode::Long, Mode::Compat],
        |g| {
            let len = g.asm(|a| a.add(dword_ptr(MMIO as u32), ecx))?;
            g.set(|r| r.rcx = 1)?;
            let exit = g.cpu.run()?;
            ensure("no MMIO read", matches!(exit, VcpuExit::MmioRead { .. }))?;
            g.cpu.complete_read(u64::from(u32::MAX));
            let exit = g.cpu.run()?;
            let write = VcpuExit::MmioWrite {
                gpa: MMIO,
                size: 4,
                value: 0,
            };
            expect("exit", exit, write)?;
            interrupted(g)?;
            let r = g.regs()?;
            expect(
                "RIP, CF and ZF",
                (r.rip, r.rflags & 0x41),
                (CODE + len, 0x41),
            )
        },
    )
}

fn kick_before_run_is_not_lost(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| a.hlt())?;
    g.cpu.kicker().kick();
    expect("exit", g.cpu.run()?, VcpuExit::Interrupted)?;
    expect("RIP", g.regs()?.rip, CODE)
}

fn kick_is_reported_once(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| a.hlt())?;
    g.cpu.kicker().kick();
    g.cpu.kicker().kick();
    expect("first", g.cpu.run()?, VcpuExit::Interrupted)?;
    expect("second", g.cpu.run()?, VcpuExit::Hlt)
}

fn kick_during_io_is_not_lost(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| {
        a.in_(al, 0x10)?;
        a.inc(ecx)?;
        a.hlt()
    })?;
    g.cpu.run()?;
    g.cpu.kicker().kick();
    g.cpu.complete_read(7);
    expect("exit", g.cpu.run()?, VcpuExit::Interrupted)?;
    let r = g.regs()?;
    expect("RIP, AL, ECX", (r.rip, r.rax, r.rcx), (CODE + 2, 7, 0))?;
    g.run_to_end()
}

fn kicks_end_loops_of_jumps(hv: &dyn Hypervisor) -> Result<(), Failure> {
    type Loop = fn(&mut CodeAssembler) -> Result<(), IcedError>;
    let loops: [(&str, Loop); 5] = [
        ("JMP to itself", |a| a.jmp(CODE)),
        ("JMP RAX to itself", |a| a.jmp(rax)),
        ("CALL and RET", |a| {
            let mut f = a.create_label();
            a.call(f)?;
            a.jmp(rax)?;
            a.set_label(&mut f)?;
            a.ret()
        }),
        ("STAC, CLAC and JMP RAX", |a| {
            a.stac()?;
            a.clac()?;
            a.jmp(rax)
        }),
        ("RETs where CALLs said", returns_forever),
    ];
    let mut g = Guest::new(hv, Mode::Long)?;
    g.need(7, 0, |e| e.ebx, 20, "SMAP")?;
    g.set_sregs(|s| s.cr4 |= cr4::SMAP)?;
    for (what, code) in loops {
        g.asm(code)?;
        for i in 0..20 {
            g.enter_kernel()?;
            g.set(|r| (r.rax, r.rcx) = (CODE, 3))?;
            let kicker = g.cpu.kicker();
            let thread = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_micros(137 * i));
                kicker.kick();
            });
            let stop = g.run();
            let joined = thread.join();
            expect(what, stop?, Stop::Interrupted)?;
            ensure("the kicking thread failed", joined.is_ok())?;
        }
    }
    Ok(())
}

/// Sixteen calls, then returns to them in turn and over again. The calls are made
/// once more before, so that a processor or translator knows them.
fn returns_forever(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut start = a.create_label();
    a.set_label(&mut start)?;
    for i in 0..16 {
        let mut next = a.create_label();
        a.call(next)?;
        if i == 0 {
            a.dec(ecx)?;
            a.jns(start)?;
            a.mov(rsp, rbp)?;
        }
        a.ret()?;
        a.set_label(&mut next)?;
    }
    a.mov(rbp, rsp)?;
    a.ret()
}

fn state_survives_an_interruption(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // A long computation, kicked again and again by another thread, ends
    // with the right sum in every register.
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| {
        a.mov(ecx, 500_000)?;
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.add(rax, rcx)?;
        a.add(r8, rcx)?;
        a.add(r15, rcx)?;
        a.add(qword_ptr(DATA as u32), rcx)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()
    })?;
    let kicker = g.cpu.kicker();
    let thread = std::thread::spawn(move || {
        // A bounded number: on one host CPU endless kicks leave no time.
        for _ in 0..300 {
            kicker.kick();
            std::thread::yield_now();
        }
    });
    let end = loop {
        match g.run() {
            Ok(Stop::Interrupted) => {}
            other => break other,
        }
    };
    let joined = thread.join();
    expect("stop", end?, Stop::Halt)?;
    ensure("the kicking thread failed", joined.is_ok())?;
    let r = g.regs()?;
    let sum = 500_000_u64 * 500_001 / 2;
    expect(
        "sums",
        (r.rax, r.r8, r.r15, g.read_u64(DATA)),
        (sum, sum, sum, sum),
    )
}

fn registers_set_between_runs(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::ALL, |g| {
        g.asm(|a| {
            a.out(0x10, eax)?;
            a.out(0x11, eax)?;
            a.hlt()
        })?;
        g.cpu.run()?;
        interrupted(g)?; // the write is complete: registers are exact
        g.set(|r| r.rax = 0x77)?;
        let exit = g.cpu.run()?;
        let want = VcpuExit::IoOut {
            port: 0x11,
            size: 4,
            value: 0x77,
        };
        expect("exit", exit, want)
    })
}

fn clock_advances(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let g = Guest::new(hv, Mode::Long)?;
    let first = g.vm.clock_ns()?;
    let host = std::time::Instant::now();
    while host.elapsed().as_micros() < 200 {}
    let second = g.vm.clock_ns()?;
    let passed = second.saturating_sub(first);
    ensure("the clock stands still", passed >= 190_000)
}

fn clock_can_be_set(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let g = Guest::new(hv, Mode::Long)?;
    let hour = 3_600_000_000_000;
    g.vm.set_clock_ns(hour)?;
    let now = g.vm.clock_ns()?;
    ensure("not set", now >= hour && now < 2 * hour)
}

fn tsc_frequency_is_known(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let g = Guest::new(hv, Mode::Long)?;
    let khz = g.cpu.tsc_khz()?;
    ensure(
        "no plausible frequency",
        (100_000..20_000_000).contains(&khz),
    )
}

fn tsc_can_be_set(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    let far = 0x0123_0000_0000_0000_u64;
    g.cpu.set_msr(x86::msr::TSC, far)?;
    g.asm(|a| {
        a.rdtsc()?;
        a.hlt()
    })?;
    g.run_to_end()?;
    let r = g.regs()?;
    // Within a minute of any plausible frequency.
    let now = r.rdx << 32 | r.rax;
    ensure("not set", now >= far && now - far < 1 << 40)
}

fn tsc_advances_at_its_frequency(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    let khz = u64::from(g.cpu.tsc_khz()?);
    g.asm(|a| {
        a.rdtsc()?;
        a.out(0x10, al)?;
        a.rdtsc()?;
        a.hlt()
    })?;
    g.cpu.run()?;
    let first = g.regs()?;
    let host = std::time::Instant::now();
    while host.elapsed().as_millis() < 5 {}
    g.run_to_end()?;
    let at_least = u64::try_from(host.elapsed().as_micros()).unwrap_or(0);
    let second = g.regs()?;
    let ticks = (second.rdx << 32 | second.rax).wrapping_sub(first.rdx << 32 | first.rax);
    // At least the 5 ms waited, at most ten times what the host measured
    // around it (the guest's first reading was a little before).
    ensure("too slow", ticks >= khz * 5)?;
    ensure("too fast", ticks <= khz * (at_least / 100 + 100))
}

fn clock_structure_outside_memory(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // Where the structure cannot be written it is not; the guest goes on.
    let mut g = Guest::new(hv, Mode::Long)?;
    for gpa in [u64::MAX - 2, 0xf_ffff_ffff_fffc, MMIO] {
        g.cpu.set_msr(x86::msr::KVM_SYSTEM_TIME_NEW, gpa | 1)?;
        g.asm(|a| a.hlt())?;
        g.enter_kernel()?;
        g.run_to_end()?;
    }
    Ok(())
}

fn capabilities_are_sane(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let caps = hv.capabilities();
    ensure("no vCPU", caps.max_vcpus >= 1)?;
    ensure("fewer slots than the suite uses", caps.max_slots >= 8)?;
    ensure("address width", (32..=52).contains(&caps.phys_bits))?;
    let leaf1 = hv.supported_cpuid()?.into_iter().find(|e| e.function == 1);
    // FPU, TSC, MSR, PAE, CX8, APIC, PGE, CMOV, FXSR, SSE, SSE2.
    let base = 0x0700_a371;
    ensure(
        "a base feature is missing",
        leaf1.is_some_and(|e| e.edx & base == base),
    )
}

fn counters_count_exits(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    let value = |g: &Guest, name: &str| {
        let counters = g.vm.counters();
        counters.into_iter().find(|(n, _)| *n == name).map(|c| c.1)
    };
    let Some(before) = value(&g, "io_exits") else {
        return Err(Failure::Skipped("counters"));
    };
    g.asm(|a| {
        for _ in 0..5 {
            a.out(0x10, al)?;
        }
        a.hlt()
    })?;
    g.run_to_end()?;
    let after = value(&g, "io_exits").unwrap_or(0);
    expect("io_exits", after - before, 5)
}
