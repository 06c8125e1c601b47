//! Calls and returns.
#![allow(unsafe_code, reason = "qsort and strcmp are the C library's")]

use crate::row::{Numbers, Outcome, mix, timed};
use std::ffi::{CString, c_int, c_void};
use std::hint::black_box;
use std::io;

extern "C" fn compare(a: *const c_void, b: *const c_void) -> c_int {
    // SAFETY: qsort(3) passes pointers to elements of the array it was given,
    // which are u32.
    let (a, b) = unsafe { (*a.cast::<u32>(), *b.cast::<u32>()) };
    a.cmp(&b) as c_int
}

/// The C library's `qsort` of 10,000 numbers, which calls back.
pub(super) fn qsort(count: u64) -> io::Result<Outcome> {
    let mut numbers = Numbers::new(1);
    let unsorted: Vec<u32> = (0..10_000).map(|_| numbers.next() as u32).collect();
    timed(|| {
        let mut sum = 0;
        for round in 0..count {
            let mut values = unsorted.clone();
            // SAFETY: pointer, length and size of an element are the vector's own,
            // and `compare` reads two elements.
            unsafe { libc::qsort(values.as_mut_ptr().cast(), values.len(), 4, Some(compare)) };
            let at = (round as usize * 37) % values.len();
            sum = mix(sum, u64::from(values[at]) ^ u64::from(values[0]) << 32);
        }
        sum
    })
}

#[inline(never)]
fn fibonacci(n: u32) -> u64 {
    match n {
        0 | 1 => u64::from(n),
        _ => black_box(fibonacci(n - 1)) + black_box(fibonacci(n - 2)),
    }
}

/// Recursive Fibonacci numbers.
pub(super) fn recursion(count: u64) -> io::Result<Outcome> {
    timed(|| (0..count).fold(0, |sum, _| mix(sum, fibonacci(black_box(20)))))
}

trait Shape {
    fn area(&self, scale: u64) -> u64;
}

struct Square(u64);
struct Oblong(u64, u64);
struct Ring(u64, u64);
struct Corner(u64);

impl Shape for Square {
    fn area(&self, scale: u64) -> u64 {
        self.0.wrapping_mul(self.0) ^ scale
    }
}

impl Shape for Oblong {
    fn area(&self, scale: u64) -> u64 {
        self.0.wrapping_mul(self.1).wrapping_add(scale)
    }
}

impl Shape for Ring {
    fn area(&self, scale: u64) -> u64 {
        self.0.wrapping_sub(self.1).rotate_left((scale & 31) as u32)
    }
}

impl Shape for Corner {
    fn area(&self, scale: u64) -> u64 {
        (self.0 + scale) >> 1
    }
}

/// Calls of virtual functions of four types, in no order.
pub(super) fn indirect(count: u64) -> io::Result<Outcome> {
    let mut numbers = Numbers::new(2);
    let mut shape = |_| -> Box<dyn Shape> {
        let (a, b) = (numbers.next() & 0xffff, numbers.next() & 0xffff);
        match numbers.below(4) {
            0 => Box::new(Square(a)),
            1 => Box::new(Oblong(a, b)),
            2 => Box::new(Ring(a, b)),
            _ => Box::new(Corner(a)),
        }
    };
    let shapes: Vec<Box<dyn Shape>> = (0..64).map(&mut shape).collect();
    let shapes = black_box(shapes);
    timed(|| {
        (0..count).fold(0u64, |sum, i| {
            let shape = &shapes[(i & 63) as usize];
            sum.wrapping_mul(5).wrapping_add(shape.area(sum & 0xffff))
        })
    })
}

/// The C library's `strcmp` of strings that differ late.
pub(super) fn compare_strings(count: u64) -> io::Result<Outcome> {
    let mut numbers = Numbers::new(3);
    let mut string = |_| {
        let same = "the same beginning ".repeat(1 + numbers.below(3));
        CString::new(format!("{same}{}", numbers.below(1000)))
    };
    let strings: Vec<CString> = (0..256).map(&mut string).collect::<Result<_, _>>()?;
    timed(|| {
        let mut sum = 0u64;
        for i in 0..count {
            let (a, b) = (i as usize & 255, (i as usize * 7 + 3) & 255);
            // SAFETY: both strings end in zero and live as long as `strings`.
            let order = unsafe { libc::strcmp(strings[a].as_ptr(), strings[b].as_ptr()) };
            // Only the sign is specified.
            sum = sum.wrapping_mul(3).wrapping_add(order.signum() as u64);
        }
        sum
    })
}
