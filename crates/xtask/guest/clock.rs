//! A guest program that tells the time: each byte on standard input is answered
//! with a dot at once and then CLOCK_MONOTONIC in ns as of the dot; `q` ends
//! it. The terminal is raw already.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::panic::PanicInfo;

// System call numbers of x86-64 Linux.
const READ: usize = 0;
const WRITE: usize = 1;
const EXIT: usize = 60;
const CLOCK_GETTIME: usize = 228;
const CLOCK_MONOTONIC: usize = 1;
const DIGITS: usize = 20;

global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "and rsp, -16",
    "call {main}",
    "ud2",
    main = sym main,
);

/// # Safety
/// The arguments are what system call `number` takes; memory it writes is
/// passed as a pointer to a live, mutable value.
unsafe fn call(number: usize, a: usize, b: usize, c: usize) -> isize {
    let result;
    // SAFETY: SYSCALL changes RAX, RCX, R11 and what the caller vouches for.
    unsafe {
        asm!(
            "syscall",
            inout("rax") number => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            out("rcx") _,
            out("r11") _,
        );
    }
    result
}

/// A byte of standard input; none at its end.
fn read_byte() -> Option<u8> {
    let mut byte = 0u8;
    // SAFETY: one byte is read into a live variable.
    let count = unsafe { call(READ, 0, &raw mut byte as usize, 1) };
    (count == 1).then_some(byte)
}

fn write(bytes: &[u8]) {
    // SAFETY: the kernel only reads the slice.
    unsafe { call(WRITE, 1, bytes.as_ptr() as usize, bytes.len()) };
}

fn now_ns() -> u64 {
    let mut time = [0u64; 2];
    // SAFETY: `struct timespec` is two 64-bit words here.
    unsafe { call(CLOCK_GETTIME, CLOCK_MONOTONIC, &raw mut time as usize, 0) };
    time[0] * 1_000_000_000 + time[1]
}

/// Decimal digits with leading zeros, then the line's end.
fn line(mut value: u64) -> [u8; DIGITS + 1] {
    let mut text = [b'\n'; DIGITS + 1];
    for digit in text[..DIGITS].iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
    text
}

extern "C" fn main() -> ! {
    write(b"CLOCK-READY\n");
    while let Some(byte) = read_byte() {
        if byte == b'q' {
            break;
        }
        let now = now_ns();
        write(b".");
        write(&line(now));
    }
    loop {
        // SAFETY: ends the process.
        unsafe { call(EXIT, 0, 0, 0) };
    }
}

#[panic_handler]
fn panic(_: &PanicInfo) -> ! {
    loop {}
}
