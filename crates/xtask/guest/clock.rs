//! A guest program that tells the time: each byte on standard input is answered
//! with a dot at once and then CLOCK_MONOTONIC in ns as of the dot; `q` ends
//! it. The terminal is raw already.

#![no_std]
#![no_main]

mod linux;

use linux::{CLOCK_GETTIME, READ, call, exit, line, write};

const CLOCK_MONOTONIC: usize = 1;

/// A byte of standard input; none at its end.
fn read_byte() -> Option<u8> {
    let mut byte = 0u8;
    // SAFETY: one byte is read into a live variable.
    let count = unsafe { call(READ, [0, &raw mut byte as usize, 1, 0]) };
    (count == 1).then_some(byte)
}

fn now_ns() -> u64 {
    let mut time = [0u64; 2];
    let arguments = [CLOCK_MONOTONIC, &raw mut time as usize, 0, 0];
    // SAFETY: `struct timespec` is two 64-bit words here.
    unsafe { call(CLOCK_GETTIME, arguments) };
    time[0] * 1_000_000_000 + time[1]
}

extern "C" fn main(_: *const usize) -> ! {
    write(b"CLOCK-READY\n");
    while let Some(byte) = read_byte() {
        if byte == b'q' {
            break;
        }
        let now = now_ns();
        write(b".");
        write(&line(now));
    }
    exit(0)
}
