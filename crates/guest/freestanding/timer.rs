//! The 8254 and the local APIC timer, each measured against the other and the
//! TSC (Intel 82C54 data sheet).

use crate::console::println;
use crate::port::{self, out8, tsc};
use crate::traps::{APIC_TICKS, PIT_TICKS, SERIAL_INTERRUPTS};
use crate::{apic, cpu};
use core::sync::atomic::Ordering::Relaxed;

/// Input clock of the 8254.
const PIT_HZ: u64 = 1_193_182;
/// Ticks per second we ask for.
const HZ: u64 = 100;
/// Ticks one measurement takes.
const SAMPLE: u64 = 10;

fn wait_for_tick(target: u64) {
    while PIT_TICKS.load(Relaxed) < target {
        port::wait();
    }
}

/// Starts both timers and prints what they deliver.
pub fn report() {
    let divisor = PIT_HZ / HZ;
    out8(0x43, 0x34);
    out8(0x40, divisor as u8);
    out8(0x40, (divisor >> 8) as u8);
    apic::enable();
    port::interrupts_on();
    // From tick to tick, so that the sample is whole periods.
    wait_for_tick(PIT_TICKS.load(Relaxed) + 1);
    let (first, begin) = (PIT_TICKS.load(Relaxed), tsc());
    apic::start_count();
    wait_for_tick(first + SAMPLE);
    let (cycles, counts) = (tsc() - begin, apic::counted());
    println!(
        "interrupts  8254: {SAMPLE} ticks at {HZ} Hz; TSC {} MHz",
        cycles * HZ / SAMPLE / 1_000_000
    );
    let mhz = u64::from(counts) * 16 * HZ / SAMPLE / 1_000_000;
    let id = apic::read(0x20) >> 24;
    println!(
        "            local APIC {id}: version {:#x}, timer clock {mhz} MHz",
        apic::read(0x30) & 0xff
    );
    // As many local APIC interrupts as 8254 ones, if both keep time.
    let before = (APIC_TICKS.load(Relaxed), PIT_TICKS.load(Relaxed));
    apic::start_periodic(counts / SAMPLE as u32);
    wait_for_tick(before.1 + SAMPLE);
    apic::start_periodic(0);
    let ticks = APIC_TICKS.load(Relaxed) - before.0;
    println!("            local APIC timer: {ticks} interrupts while the 8254 made {SAMPLE}");
    if cpu::leaf(1)[2] >> 24 & 1 != 0 {
        println!("            TSC deadline offered");
    }
}

/// Prints the interrupts so far.
pub fn show_counts() {
    for (name, counter) in [
        ("8254", &PIT_TICKS),
        ("COM1", &SERIAL_INTERRUPTS),
        ("APIC timer", &APIC_TICKS),
    ] {
        println!("{name:<12}{}", counter.load(Relaxed));
    }
}
