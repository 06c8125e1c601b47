//! A guest program that writes records to a disk: `writer DEVICE FIRST`. Each
//! one is written and synced, then acknowledged on standard output. Beside it a
//! process writes and discards in the other half of the disk, without syncing.

#![no_std]
#![no_main]

mod linux;
mod record;

use linux::{FORK, FSYNC, IOCTL, MMAP, OPEN, PWRITE, call, call6, exit, line, write};
use record::{DISK, Random, Record, SLOT};

// open(2), mmap(2) and the block layer's ioctl on x86-64.
const O_RDWR: usize = 2;
const O_DIRECT: usize = 0o40000;
const PROT_READ_WRITE: usize = 3;
const MAP_PRIVATE_ANONYMOUS: usize = 0x22;
const BLKDISCARD: usize = 0x1277;

/// Unit of what is written past the page cache.
const SECTOR: u64 = 512;
/// Longest write there, and longest discard, in sectors.
const LONGEST: u64 = 256;

fn fail(what: &[u8]) -> ! {
    write(b"writer failed: ");
    write(what);
    write(b"\n");
    exit(1)
}

/// What system call `what` gave, which must not be an error.
fn good(what: &[u8], result: isize) -> usize {
    match usize::try_from(result) {
        Ok(value) => value,
        Err(_) => fail(what),
    }
}

/// A file opened with `flags`; `path` ends with a zero byte.
fn open(path: usize, flags: usize) -> usize {
    // SAFETY: the kernel reads a string that lives as long as the process.
    good(b"open", unsafe { call(OPEN, [path, flags, 0, 0]) })
}

/// Zeroed pages that stay.
fn memory(len: u64) -> *mut u8 {
    let arguments = [0, len as usize, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS];
    // SAFETY: a new mapping at an address that the kernel chooses.
    let address = unsafe { call6(MMAP, arguments, [usize::MAX, 0]) };
    good(b"mmap", address) as *mut u8
}

fn write_at(file: usize, buffer: *const u8, len: usize, offset: u64) {
    let arguments = [file, buffer as usize, len, offset as usize];
    // SAFETY: callers pass at most as many bytes as they have mapped.
    let written = unsafe { call(PWRITE, arguments) };
    if good(b"pwrite", written) != len {
        fail(b"short write");
    }
}

/// Writes, syncs and acknowledges records from `number` on.
fn records(device: usize, mut number: u64) -> ! {
    let file = open(device, O_RDWR);
    let buffer = memory(SLOT);
    loop {
        let mut record = Record::new(number);
        for at in 0..record.len {
            // SAFETY: a record is shorter than a slot, and so much is mapped.
            unsafe { buffer.add(at).write(record.byte()) };
        }
        write_at(file, buffer, record.len, record.offset);
        // SAFETY: takes no memory.
        good(b"fsync", unsafe { call(FSYNC, [file, 0, 0, 0]) });
        write(b"ack ");
        write(&line(number));
        number += 1;
    }
}

/// Writes and discards in the second half, past the page cache.
fn disturb(device: usize, seed: u64) -> ! {
    let file = open(device, O_RDWR | O_DIRECT);
    let buffer = memory(LONGEST * SECTOR);
    let mut random = Random::new(!seed);
    for at in 0..(LONGEST * SECTOR) as usize {
        // SAFETY: so much is mapped.
        unsafe { buffer.add(at).write(random.next() as u8) };
    }
    loop {
        let sectors = 1 + random.below(LONGEST);
        let offset = DISK / 2 + random.below(DISK / 2 / SECTOR - LONGEST) * SECTOR;
        let len = sectors * SECTOR;
        if random.below(3) == 0 {
            let range = [offset, len];
            let arguments = [file, BLKDISCARD, &raw const range as usize, 0];
            // SAFETY: the kernel reads two 64-bit words.
            good(b"discard", unsafe { call(IOCTL, arguments) });
        } else {
            write_at(file, buffer, len as usize, offset);
        }
    }
}

/// The decimal number at `text`, which ends with a zero byte.
///
/// # Safety
/// `text` is an argument of this process.
unsafe fn number(mut text: *const u8) -> u64 {
    let mut value = 0;
    loop {
        // SAFETY: the zero byte has not been passed.
        let digit = unsafe { text.read() };
        if !digit.is_ascii_digit() {
            return value;
        }
        value = value * 10 + u64::from(digit - b'0');
        // SAFETY: a digit is not the zero byte, so another byte follows.
        text = unsafe { text.add(1) };
    }
}

extern "C" fn main(stack: *const usize) -> ! {
    // SAFETY: the kernel put the number of arguments there and that many
    // pointers behind it.
    let arguments = unsafe { core::slice::from_raw_parts(stack.add(1), stack.read()) };
    let &[_, device, first] = arguments else {
        fail(b"which device, which record?");
    };
    // SAFETY: it is an argument.
    let first = unsafe { number(first as *const u8) };
    // SAFETY: the child has memory of its own.
    match good(b"fork", unsafe { call(FORK, [0; 4]) }) {
        0 => disturb(device, first),
        _ => records(device, first),
    }
}
