//! The local APIC in xAPIC mode (Intel SDM vol. 3A, chapter 11).

use crate::port::msr;
use crate::traps;

const APIC_BASE_MSR: u32 = 0x1b;
const EOI: u64 = 0xb0;
const SPURIOUS: u64 = 0xf0;
const LVT_TIMER: u64 = 0x320;
const LVT_LINT0: u64 = 0x350;
const INITIAL_COUNT: u64 = 0x380;
const CURRENT_COUNT: u64 = 0x390;
const DIVIDE: u64 = 0x3e0;

fn register(offset: u64) -> *mut u32 {
    ((msr(APIC_BASE_MSR) & 0xf_ffff_f000) + offset) as *mut u32
}

fn write(offset: u64, value: u32) {
    // SAFETY: the register page is device space, identity-mapped; no Rust
    // object lives there.
    unsafe { register(offset).write_volatile(value) }
}

/// Register at `offset`.
pub fn read(offset: u64) -> u32 {
    // SAFETY: as `write`.
    unsafe { register(offset).read_volatile() }
}

/// Software-enables it, with the 8259 pair on LINT0 (virtual wire mode).
pub fn enable() {
    write(SPURIOUS, 0x100 | u32::from(traps::APIC_SPURIOUS));
    write(LVT_LINT0, 0x700);
}

/// Acknowledges the interrupt in service.
pub fn end_of_interrupt() {
    write(EOI, 0);
}

/// Counts down from the top without interrupts, bus clock / 16.
pub fn start_count() {
    write(LVT_TIMER, 0x1_0000);
    write(DIVIDE, 3);
    write(INITIAL_COUNT, u32::MAX);
}

/// Counts since [`start_count`].
pub fn counted() -> u32 {
    u32::MAX - read(CURRENT_COUNT)
}

/// Interrupts every `count` counts; 0 stops.
pub fn start_periodic(count: u32) {
    write(LVT_TIMER, 0x2_0000 | u32::from(traps::APIC_TIMER));
    write(INITIAL_COUNT, count);
}
