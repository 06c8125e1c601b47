//! Floating point, by SSE2 and by the x87.
#![allow(unsafe_code, reason = "x87 instructions are only had by assembly")]

use crate::row::{Outcome, mix, timed};
use std::arch::asm;
use std::hint::black_box;
use std::io;

/// Doubles: two bodies around a third, each step with a root and a division.
pub(super) fn doubles(count: u64) -> io::Result<Outcome> {
    timed(|| {
        let mut place = black_box([[1.0f64, 0.0], [0.0, 2.0]]);
        let mut speed = black_box([[0.0f64, 1.0], [-0.7, 0.0]]);
        const STEP: f64 = 1e-3;
        for _ in 0..count {
            for (p, v) in place.iter_mut().zip(&mut speed) {
                let square = p[0] * p[0] + p[1] * p[1];
                let pull = STEP / (square * square.sqrt());
                for axis in 0..2 {
                    v[axis] -= p[axis] * pull;
                    p[axis] += v[axis] * STEP;
                }
            }
        }
        let all = place.iter().chain(&speed).flatten();
        all.fold(0, |sum, value| mix(sum, value.to_bits()))
    })
}

/// Extended precision: x = sqrt(x * a + b) / c + 1 and so on.
pub(super) fn x87(count: u64) -> io::Result<Outcome> {
    timed(|| {
        let constants = black_box([1.25f64, 0.75, 1.5]);
        let mut value = black_box(2.0f64);
        for _ in 0..count {
            // SAFETY: reads three and reads and writes one f64 that outlive it;
            // the x87 stack is empty before and after.
            unsafe {
                asm!(
                    "fld qword ptr [{value}]",
                    "fld qword ptr [{constants}]",
                    "fmul st, st(1)",
                    "fadd qword ptr [{constants} + 8]",
                    "fsqrt",
                    "fdiv qword ptr [{constants} + 16]",
                    "fxch st(1)",
                    "fsub st, st(1)",
                    "fabs",
                    "faddp st(1), st",
                    "fld1",
                    "faddp st(1), st",
                    "fstp qword ptr [{value}]",
                    value = in(reg) &raw mut value,
                    constants = in(reg) constants.as_ptr(),
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                    out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                    options(nostack),
                );
            }
        }
        value.to_bits()
    })
}
