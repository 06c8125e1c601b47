//! What guest programs need of Linux without a C library.

#![allow(dead_code, reason = "each program uses a part")]

use core::arch::{asm, global_asm};
use core::panic::PanicInfo;

// System call numbers of x86-64 Linux.
pub const READ: usize = 0;
pub const WRITE: usize = 1;
pub const OPEN: usize = 2;
pub const MMAP: usize = 9;
pub const IOCTL: usize = 16;
pub const PWRITE: usize = 18;
pub const FORK: usize = 57;
pub const EXIT: usize = 60;
pub const FSYNC: usize = 74;
pub const CLOCK_GETTIME: usize = 228;

// The kernel starts a program with RSP at argc, argv[0], ... (System V ABI,
// AMD64 supplement, 3.4.1).
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {main}",
    "ud2",
    main = sym crate::main,
);

/// A system call with up to four arguments.
///
/// # Safety
/// The arguments are what system call `number` takes; memory it writes is
/// passed as a pointer to a live, mutable value.
pub unsafe fn call(number: usize, arguments: [usize; 4]) -> isize {
    // SAFETY: the caller's promise; the last two arguments are not looked at.
    unsafe { call6(number, arguments, [0; 2]) }
}

/// A system call.
///
/// # Safety
/// As for [`call`].
pub unsafe fn call6(number: usize, [a, b, c, d]: [usize; 4], [e, f]: [usize; 2]) -> isize {
    let result;
    // SAFETY: SYSCALL changes RAX, RCX, R11 and what the caller vouches for.
    unsafe {
        asm!(
            "syscall",
            inout("rax") number => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            in("r8") e,
            in("r9") f,
            out("rcx") _,
            out("r11") _,
        );
    }
    result
}

/// Writes to standard output.
pub fn write(bytes: &[u8]) {
    let arguments = [1, bytes.as_ptr() as usize, bytes.len(), 0];
    // SAFETY: the kernel only reads the slice.
    unsafe { call(WRITE, arguments) };
}

/// Digits of the longest number.
pub const DIGITS: usize = 20;

/// Decimal digits with leading zeros, then the line's end.
pub fn line(mut value: u64) -> [u8; DIGITS + 1] {
    let mut text = [b'\n'; DIGITS + 1];
    for digit in text[..DIGITS].iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
    text
}

/// Ends the process.
pub fn exit(code: usize) -> ! {
    loop {
        // SAFETY: takes no memory.
        unsafe { call(EXIT, [code, 0, 0, 0]) };
    }
}

#[panic_handler]
fn panic(_: &PanicInfo) -> ! {
    exit(101)
}
