//! Privileged instructions, each wrapped once.

use core::arch::asm;

/// Writes a byte to an I/O port.
pub fn out8(port: u16, value: u8) {
    // SAFETY: port writes cannot touch Rust memory: no device here does DMA.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) }
}

/// Writes 16 bits to an I/O port.
pub fn out16(port: u16, value: u16) {
    // SAFETY: as `out8`.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack)) }
}

/// Reads a byte from an I/O port.
pub fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: as `out8`.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack)) }
    value
}

/// Reads 16 bits from an I/O port.
pub fn in16(port: u16) -> u16 {
    let value;
    // SAFETY: as `out8`.
    unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack)) }
    value
}

/// The time-stamp counter.
pub fn tsc() -> u64 {
    // SAFETY: RDTSC is always there in long mode.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Reads an MSR that every 64-bit CPU has.
pub fn msr(index: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading one of the MSRs we use (APIC base) has no side effect.
    unsafe {
        asm!("rdmsr", in("ecx") index, out("eax") low, out("edx") high, options(nomem, nostack))
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Lets interrupts in.
pub fn interrupts_on() {
    // SAFETY: the handlers of `traps` are installed and touch only atomics.
    unsafe { asm!("sti", options(nostack)) }
}

/// Keeps interrupts out.
pub fn interrupts_off() {
    // SAFETY: only delays interrupts.
    unsafe { asm!("cli", options(nostack)) }
}

/// Waits for an interrupt, leaving them enabled. STI holds them off until
/// after HLT, so one that comes in between is not slept through.
pub fn wait() {
    // SAFETY: as `interrupts_on`.
    unsafe { asm!("sti", "hlt", options(nostack)) }
}

/// Stops for good unless an interrupt is on its way.
pub fn halt() {
    // SAFETY: only waits.
    unsafe { asm!("cli", "hlt", options(nostack)) }
}
