//! COM1, a 16550A (PC16550D data sheet): output polled, input by interrupt.

use crate::port::{self, in8, out8};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};

const COM1: u16 = 0x3f8;
const RING: usize = 256;

static INPUT: [AtomicU8; RING] = [const { AtomicU8::new(0) }; RING];
static HEAD: AtomicUsize = AtomicUsize::new(0);
static TAIL: AtomicUsize = AtomicUsize::new(0);

/// 115200 baud, 8N1, FIFOs on, receive interrupts through OUT2.
pub fn init() {
    let registers = [
        (3, 0x80),
        (0, 1),
        (1, 0),
        (3, 0x03),
        (2, 0x07),
        (4, 0x0b),
        (1, 0x01),
    ];
    for (register, value) in registers {
        out8(COM1 + register, value);
    }
}

struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                send(b'\r');
            }
            send(byte);
        }
        Ok(())
    }
}

fn send(byte: u8) {
    while in8(COM1 + 5) & 0x20 == 0 {}
    out8(COM1, byte);
}

/// The receive interrupt: empties the FIFO into the ring.
pub fn on_interrupt() {
    while in8(COM1 + 5) & 1 != 0 {
        let byte = in8(COM1);
        let head = HEAD.load(Relaxed);
        if head.wrapping_sub(TAIL.load(Relaxed)) < RING {
            INPUT[head % RING].store(byte, Relaxed);
            HEAD.store(head.wrapping_add(1), Relaxed);
        }
    }
}

fn read_byte() -> u8 {
    loop {
        port::interrupts_off();
        let tail = TAIL.load(Relaxed);
        if tail != HEAD.load(Relaxed) {
            TAIL.store(tail.wrapping_add(1), Relaxed);
            port::interrupts_on();
            return INPUT[tail % RING].load(Relaxed);
        }
        port::wait();
    }
}

/// Reads and echoes a line; backspace and Ctrl-U edit it.
pub fn read_line(line: &mut [u8]) -> &[u8] {
    let mut length = 0;
    loop {
        match read_byte() {
            b'\r' | b'\n' => {
                println!();
                return &line[..length];
            }
            8 | 127 if length > 0 => {
                length -= 1;
                print!("\x08 \x08");
            }
            21 => {
                print!("\r\x1b[K> ");
                length = 0;
            }
            byte @ 32..=126 if length < line.len() => {
                line[length] = byte;
                length += 1;
                send(byte);
            }
            _ => {}
        }
    }
}

/// Formats to the console.
pub fn write(arguments: fmt::Arguments<'_>) {
    // The console never reports an error.
    let _ = Console.write_fmt(arguments);
}

macro_rules! print {
    ($($argument:tt)*) => { $crate::console::write(format_args!($($argument)*)) };
}
macro_rules! println {
    () => { $crate::console::write(format_args!("\n")) };
    ($($argument:tt)*) => { $crate::console::write(format_args!("{}\n", format_args!($($argument)*))) };
}
pub(crate) use {print, println};
