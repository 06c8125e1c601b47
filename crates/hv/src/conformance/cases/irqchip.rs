//! Interrupt controllers and timers in the backend.

use crate::Hypervisor;
use crate::abi::{kvm_irq_routing_entry, kvm_irq_routing_msi};
use crate::conformance::guest::{Chips, Guest, Mode, Stop};
use crate::conformance::layout::*;
use crate::conformance::{Failure, ensure, expect};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

group! { "irqchip":
    pic_line "8259A data sheet, KVM API 4.25",
    pic_priority_and_mask "8259A data sheet, priority",
    ioapic_edge_line "82093AA 3.2.4, KVM API 4.25",
    ioapic_level_line_until_eoi "82093AA 3.2.4",
    ioapic_masked_line "82093AA 3.2.4",
    msi "SDM 3 10.11, KVM API 4.70",
    gsi_route_to_msi "KVM API 4.52",
    self_ipi "SDM 3 10.6.1",
    task_priority_holds_back "SDM 3 10.8.3.1",
    lapic_one_shot_timer "SDM 3 10.5.4",
    lapic_periodic_timer "SDM 3 10.5.4",
    tsc_deadline_timer "SDM 3 10.5.4.1",
    x2apic_self_ipi "SDM 3 10.12",
    pit_interrupt "8254 data sheet, mode 2",
    pit_state_round_trip "KVM API 4.71",
    halt_waits_for_interrupt "SDM 2 HLT",
    init_and_sipi_start_a_processor "SDM 3 8.4.4, 10.6",
    lapic_state_round_trip "KVM API 4.57",
}

const LAPIC: u32 = 0xfee0_0000;
const IOAPIC: u32 = 0xfec0_0000;
const VECTOR: u8 = 0x41;
/// LAPIC register offsets (SDM vol 3, table 10-1).
mod reg {
    pub const TPR: u32 = 0x80;
    pub const EOI: u32 = 0xb0;
    pub const SVR: u32 = 0xf0;
    pub const ICR: u32 = 0x300;
    pub const LVT_TIMER: u32 = 0x320;
    pub const LVT_LINT0: u32 = 0x350;
    pub const INITIAL: u32 = 0x380;
    pub const DIVIDE: u32 = 0x3e0;
}

/// `mov dword [LAPIC + at], value`.
fn lapic(a: &mut CodeAssembler, at: u32, value: u32) -> Result<(), IcedError> {
    a.mov(dword_ptr(LAPIC + at), value)
}

/// Writes an I/O APIC register through its index and data windows.
fn ioapic(a: &mut CodeAssembler, index: u32, value: u32) -> Result<(), IcedError> {
    a.mov(dword_ptr(IOAPIC), index)?;
    a.mov(dword_ptr(IOAPIC + 0x10), value)
}

fn out8(a: &mut CodeAssembler, port: u32, value: u32) -> Result<(), IcedError> {
    a.mov(al, value)?;
    a.out(port, al)
}

fn done(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.out(u32::from(DONE_PORT), eax)
}

/// A flat 32-bit guest with irqchip whose handler for `vector` counts in EBP
/// and sends an EOI to the local APIC.
fn guest(hv: &dyn Hypervisor, chips: Chips) -> Result<Guest, Failure> {
    let mut g = Guest::with(hv, Mode::Prot32, chips)?;
    counting(&mut g, VECTOR, SPARE, true)?;
    Ok(g)
}

fn counting(g: &mut Guest, vector: u8, at: u64, eoi: bool) -> Result<(), Failure> {
    g.set_gate(vector, at);
    g.code_at(at, at, 32, |a| {
        a.inc(ebp)?;
        if eoi {
            lapic(a, reg::EOI, 0)?;
        }
        a.iretd()
    })?;
    Ok(())
}

/// Spins until EBP reaches ECX, with interrupts on.
fn wait_for_count(a: &mut CodeAssembler, count: u32) -> Result<(), IcedError> {
    a.sti()?;
    let mut top = a.create_label();
    a.set_label(&mut top)?;
    a.pause()?;
    a.cmp(ebp, count)?;
    a.jb(top)?;
    a.cli()
}

fn finish(g: &mut Guest) -> Result<(), Failure> {
    match g.run()? {
        Stop::Done(_) => Ok(()),
        other => Err(g.unexpected("the end", other)),
    }
}

/// Initialises both PICs: vectors 0x20 and 0x28, everything masked but `open`.
fn init_pics(a: &mut CodeAssembler, open: u32) -> Result<(), IcedError> {
    for (port, offset, wiring) in [(0x20, 0x20, 4), (0xa0, 0x28, 2)] {
        out8(a, port, 0x11)?;
        out8(a, port + 1, offset)?;
        out8(a, port + 1, wiring)?;
        out8(a, port + 1, 1)?;
    }
    out8(a, 0x21, !open & 0xff)?;
    out8(a, 0xa1, !(open >> 8) & 0xff)?;
    // The local APIC passes the PIC's interrupts on as ExtINT.
    lapic(a, reg::SVR, 0x1ff)?;
    lapic(a, reg::LVT_LINT0, 0x700)
}

/// Runs to the port write that says the guest is ready.
fn run_to_ready(g: &mut Guest) -> Result<(), Failure> {
    let exit = g.cpu.run()?;
    ensure(
        "the guest is not ready",
        matches!(exit, crate::VcpuExit::IoOut { port: 0x99, .. }),
    )
}

fn ready(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.out(0x99, al)
}

fn pic_line(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = guest(hv, Chips::Irqchip)?;
    counting(&mut g, 0x23, SPARE + 0x100, false)?;
    g.asm(|a| {
        init_pics(a, 1 << 3)?;
        ready(a)?;
        wait_for_count(a, 1)?;
        out8(a, 0x20, 0x0b)?; // read the in-service register
        a.in_(al, 0x20)?;
        a.mov(bl, al)?;
        out8(a, 0x20, 0x20)?; // EOI
        a.in_(al, 0x20)?;
        a.mov(bh, al)?;
        done(a)
    })?;
    run_to_ready(&mut g)?;
    g.vm.set_irq_line(3, true)?;
    finish(&mut g)?;
    g.vm.set_irq_line(3, false)?;
    expect("in service before and after EOI", g.regs()?.rbx & 0xffff, 8)
}

fn pic_priority_and_mask(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = guest(hv, Chips::Irqchip)?;
    for (vector, digit) in [(0x23_u8, 3), (0x24, 4), (0x25, 5)] {
        let at = SPARE + u64::from(vector) * 16;
        g.set_gate(vector, at);
        g.code_at(at, at, 32, |a| {
            a.inc(ebp)?;
            a.shl(ebx, 4)?;
            a.or(ebx, digit)?;
            a.mov(al, 0x20)?;
            a.out(0x20, al)?;
            a.iretd()
        })?;
    }
    g.asm(|a| {
        init_pics(a, 1 << 3 | 1 << 5)?; // line 4 stays masked
        ready(a)?;
        wait_for_count(a, 2)?;
        done(a)
    })?;
    run_to_ready(&mut g)?;
    for line in [5, 4, 3] {
        g.vm.set_irq_line(line, true)?;
    }
    finish(&mut g)?;
    expect("order", g.regs()?.rbx, 0x35)
}

/// A redirection entry: pin, low word. Destination is APIC 0.
fn redirect(a: &mut CodeAssembler, pin: u32, low: u32) -> Result<(), IcedError> {
    lapic(a, reg::SVR, 0x1ff)?;
    lapic(a, reg::TPR, 0)?;
    ioapic(a, 0x11 + pin * 2, 0)?;
    ioapic(a, 0x10 + pin * 2, low)
}

fn ioapic_edge_line(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = guest(hv, Chips::Irqchip)?;
    g.asm(|a| {
        redirect(a, 20, VECTOR.into())?;
        ready(a)?;
        wait_for_count(a, 1)?;
        a.sti()?; // the line stays high: an edge counts once
        a.nop()?;
        a.nop()?;
        a.cli()?;
        ready(a)?;
        wait_for_count(a, 2)?;
        done(a)
    })?;
    run_to_ready(&mut g)?;
    g.vm.set_irq_line(20, true)?;
    run_to_ready(&mut g)?;
    expect("after the first edge", g.regs()?.rbp, 1)?;
    g.vm.set_irq_line(20, false)?;
    g.vm.set_irq_line(20, true)?;
    finish(&mut g)?;
    expect("count", g.regs()?.rbp, 2)
}

fn ioapic_level_line_until_eoi(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = guest(hv, Chips::Irqchip)?;
    g.asm(|a| {
        redirect(a, 21, u32::from(VECTOR) | 1 << 15)?;
        ready(a)?;
        wait_for_count(a, 3)?; // comes again after each EOI
        ready(a)?;
        a.sti()?;
        a.nop()?;
        a.cli()?;
        a.mov(dword_ptr(IOAPIC), 0x10 + 21 * 2)?;
        a.mov(ebx, dword_ptr(IOAPIC + 0x10))?;
        done(a)
    })?;
    run_to_ready(&mut g)?;
    g.vm.set_irq_line(21, true)?;
    run_to_ready(&mut g)?;
    g.vm.set_irq_line(21, false)?;
    finish(&mut g)?;
    ensure("fewer than three", g.regs()?.rbp >= 3)?;
    expect("remote IRR after the last EOI", g.regs()?.rbx & 1 << 14, 0)
}

fn ioapic_masked_line(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = guest(hv, Chips::Irqchip)?;
    g.asm(|a| {
        redirect(a, 22, u32::from(VECTOR) | 1 << 16 | 1 << 15)?;
        ready(a)?;
        a.sti()?;
        a.nop()?;
        a.nop()?;
        a.cli()?;
        a.mov(ebx, ebp)?;
        ioapic(a, 0x10 + 22 * 2, u32::from(VECTOR) | 1 << 15)?;
        wait_for_count(a, 1)?;
        done(a)
    })?;
    run_to_ready(&mut g)?;
    g.vm.set_irq_line(22, true)?;
    finish(&mut g)?;
    expect("count while masked", g.regs()?.rbx, 0)
}

fn msi(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = guest(hv, Chips::Irqchip)?;
    g.asm(|a| {
        lapic(a, reg::SVR, 0x1ff)?;
        ready(a)?;
        wait_for_count(a, 1)?;
        done(a)
    })?;
    run_to_ready(&mut g)?;
    let taken = g.vm.signal_msi(LAPIC.into(), VECTOR.into())?;
    ensure("nobody took the message", taken)?;
    finish(&mut g)
}

fn gsi_route_to_msi(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = guest(hv, Chips::Irqchip)?;
    let mut route = kvm_irq_routing_entry {
        gsi: 33,
        type_: crate::abi::KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    route.u.msi = kvm_irq_routing_msi {
        address_lo: LAPIC,
        data: VECTOR.into(),
        ..Default::default()
    };
    g.vm.set_gsi_routing(&[route])?;
    g.asm(|a| {
        lapic(a, reg::SVR, 0x1ff)?;
        ready(a)?;
        wait_for_count(a, 1)?;
        done(a)
    })?;
    run_to_ready(&mut g)?;
    g.vm.set_irq_line(33, true)?;
    finish(&mut g)
}

fn self_ipi(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = guest(hv, Chips::Irqchip)?;
    g.asm(|a| {
        lapic(a, reg::SVR, 0x1ff)?;
        lapic(a, reg::ICR, u32::from(VECTOR) | 1 << 18)?;
        wait_for_count(a, 1)?;
        done(a)
    })?;
    finish(&mut g)?;
    expect("count", g.regs()?.rbp, 1)
}

fn task_priority_holds_back(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = guest(hv, Chips::Irqchip)?;
    g.asm(|a| {
        lapic(a, reg::SVR, 0x1ff)?;
        lapic(a, reg::TPR, 0x50)?;
        lapic(a, reg::ICR, u32::from(VECTOR) | 1 << 18)?;
        a.sti()?;
        a.nop()?;
        a.nop()?;
        a.cli()?;
        a.mov(ebx, ebp)?;
        // IRR shows the vector: word 2 of the register, bit 1.
        a.mov(edx, dword_ptr(LAPIC + 0x220))?;
        lapic(a, reg::TPR, 0x30)?;
        wait_for_count(a, 1)?;
        done(a)
    })?;
    finish(&mut g)?;
    let r = g.regs()?;
    expect("held back, requested", (r.rbx, r.rdx), (0, 2))
}

fn lapic_one_shot_timer(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = guest(hv, Chips::Irqchip)?;
    g.asm(|a| {
        lapic(a, reg::SVR, 0x1ff)?;
        lapic(a, reg::DIVIDE, 0xb)?;
        lapic(a, reg::LVT_TIMER, VECTOR.into())?;
        lapic(a, reg::INITIAL, 100_000)?;
        wait_for_count(a, 1)?;
        a.mov(ebx, dword_ptr(LAPIC + 0x390))?; // current count
        done(a)
    })?;
    finish(&mut g)?;
    expect("current count after expiry", g.regs()?.rbx, 0)
}

fn lapic_periodic_timer(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = guest(hv, Chips::Irqchip)?;
    g.asm(|a| {
        lapic(a, reg::SVR, 0x1ff)?;
        lapic(a, reg::DIVIDE, 0xb)?;
        lapic(a, reg::LVT_TIMER, u32::from(VECTOR) | 1 << 17)?;
        lapic(a, reg::INITIAL, 1_000_000)?;
        wait_for_count(a, 3)?;
        lapic(a, reg::INITIAL, 0)?; // stops it
        done(a)
    })?;
    finish(&mut g)
}

fn tsc_deadline_timer(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = guest(hv, Chips::Irqchip)?;
    // KVM reports the bit only through a capability, so it is set by hand.
    let mut table = g.cpuid.clone();
    for entry in table.iter_mut().filter(|e| e.function == 1) {
        entry.ecx |= 1 << 24;
    }
    g.cpu.set_cpuid(&table)?;
    g.asm(|a| {
        lapic(a, reg::SVR, 0x1ff)?;
        lapic(a, reg::LVT_TIMER, u32::from(VECTOR) | 2 << 17)?;
        a.rdtsc()?;
        a.add(eax, 1_000_000)?;
        a.adc(edx, 0)?;
        a.mov(esi, eax)?;
        a.mov(edi, edx)?;
        a.mov(ecx, x86::msr::TSC_DEADLINE)?;
        a.wrmsr()?;
        wait_for_count(a, 1)?;
        a.rdtsc()?;
        a.sub(eax, esi)?;
        a.sbb(edx, edi)?;
        a.mov(ebx, edx)?; // not negative: the deadline has passed
        a.rdmsr()?;
        a.or(eax, edx)?; // reads 0 once expired
        done(a)
    })?;
    finish(&mut g)?;
    let r = g.regs()?;
    expect("early (high half), MSR", (r.rbx, r.rax), (0, 0))
}

fn x2apic_self_ipi(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = guest(hv, Chips::Irqchip)?;
    g.need(1, 0, |e| e.ecx, 21, "x2APIC")?;
    g.set_gate(VECTOR, SPARE + 0x200);
    g.code_at(SPARE + 0x200, SPARE + 0x200, 32, |a| {
        a.inc(ebp)?;
        a.mov(ecx, 0x80b)?; // EOI
        a.xor(eax, eax)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.iretd()
    })?;
    g.asm(|a| {
        a.mov(ecx, x86::msr::APIC_BASE)?;
        a.rdmsr()?;
        a.or(eax, 1 << 10)?;
        a.wrmsr()?;
        a.xor(edx, edx)?;
        a.mov(ecx, 0x80f)?; // SVR
        a.mov(eax, 0x1ff)?;
        a.wrmsr()?;
        a.mov(ecx, 0x83f)?; // SELF IPI
        a.mov(eax, u32::from(VECTOR))?;
        a.wrmsr()?;
        wait_for_count(a, 1)?;
        a.mov(ecx, 0x802)?; // id
        a.rdmsr()?;
        done(a)
    })?;
    finish(&mut g)?;
    let r = g.regs()?;
    expect("count, APIC id", (r.rbp, r.rax), (1, 0))
}

fn pit_interrupt(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = guest(hv, Chips::Pit)?;
    g.set_gate(0x20, SPARE + 0x100);
    g.code_at(SPARE + 0x100, SPARE + 0x100, 32, |a| {
        a.inc(ebp)?;
        a.mov(al, 0x20)?;
        a.out(0x20, al)?;
        a.iretd()
    })?;
    g.asm(|a| {
        init_pics(a, 1)?;
        out8(a, 0x43, 0x34)?; // channel 0, low then high byte, mode 2
        out8(a, 0x40, 0x00)?;
        out8(a, 0x40, 0x10)?; // 4,096 ticks of 838 ns
        wait_for_count(a, 3)?;
        done(a)
    })?;
    finish(&mut g)
}

fn pit_state_round_trip(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = guest(hv, Chips::Pit)?;
    g.asm(|a| {
        out8(a, 0x43, 0xb6)?; // channel 2, mode 3
        out8(a, 0x42, 0x34)?;
        out8(a, 0x42, 0x12)?;
        done(a)
    })?;
    finish(&mut g)?;
    let state = g.vm.pit()?;
    let channel = state.channels[2];
    expect(
        "channel 2: mode, count",
        (channel.mode, channel.count),
        (3, 0x1234),
    )?;
    g.vm.set_pit(&state)?;
    let channel = g.vm.pit()?.channels[2];
    expect("restored", (channel.mode, channel.count), (3, 0x1234))
}

fn halt_waits_for_interrupt(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = guest(hv, Chips::Irqchip)?;
    g.asm(|a| {
        lapic(a, reg::SVR, 0x1ff)?;
        lapic(a, reg::DIVIDE, 0xb)?;
        lapic(a, reg::LVT_TIMER, VECTOR.into())?;
        lapic(a, reg::INITIAL, 2_000_000)?;
        a.sti()?;
        a.hlt()?;
        a.cli()?;
        done(a)
    })?;
    finish(&mut g)?;
    expect("count", g.regs()?.rbp, 1)
}

fn init_and_sipi_start_a_processor(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = guest(hv, Chips::Irqchip)?;
    let mut other = g.add_cpu(1)?;
    // Real-mode code on the page that the SIPI vector names.
    g.code_at(SPARE, 0, 16, |a| {
        a.mov(ax, cs)?;
        a.mov(word_ptr(0x500), ax)?;
        a.mov(word_ptr(0x502), 0x600d)?;
        a.cli()?;
        a.hlt()
    })?;
    g.asm(|a| {
        lapic(a, reg::SVR, 0x1ff)?;
        lapic(a, 0x310, 1 << 24)?;
        lapic(a, reg::ICR, 0x4500)?; // INIT, assert
        lapic(a, reg::ICR, 0x4600 | (SPARE >> 12) as u32)?;
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.pause()?;
        a.cmp(word_ptr(0x502), 0x600d)?;
        a.jne(top)?;
        done(a)
    })?;
    let kicker = other.kicker();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = std::thread::spawn(move || {
        // An interruption before the end is a spurious wake-up: run again.
        while let Ok(crate::VcpuExit::Interrupted) = other.run() {
            if stopped.load(SeqCst) {
                return;
            }
        }
    });
    let result = finish(&mut g);
    stop.store(true, SeqCst);
    kicker.kick();
    let joined = thread.join();
    result?;
    ensure("the other processor's thread failed", joined.is_ok())?;
    expect("its CS", g.read_uint(0x500, 2), SPARE >> 4)
}

fn lapic_state_round_trip(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = guest(hv, Chips::Irqchip)?;
    g.asm(|a| {
        lapic(a, reg::SVR, 0x1ff)?;
        lapic(a, reg::TPR, 0x20)?;
        lapic(a, reg::LVT_TIMER, 0x1_0000 | u32::from(VECTOR))?;
        done(a)
    })?;
    finish(&mut g)?;
    let state = g.cpu.lapic()?;
    let word = |state: &crate::abi::kvm_lapic_state, at: usize| {
        (0..4).fold(0, |v, i| v | u32::from(state.regs[at + i] as u8) << (8 * i))
    };
    expect("SVR", word(&state, 0xf0), 0x1ff)?;
    expect("TPR", word(&state, 0x80), 0x20)?;
    expect("LVT timer", word(&state, 0x320), 0x1_0041)?;
    g.cpu.set_lapic(&state)?;
    let again = g.cpu.lapic()?;
    expect("SVR restored", word(&again, 0xf0), 0x1ff)
}
