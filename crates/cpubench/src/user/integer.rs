//! Integers, branches and atomic operations.

use crate::row::{Numbers, Outcome, mix, timed};
use std::hint::black_box;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// Arithmetic of all kinds, without an access to memory.
pub(super) fn dense(count: u64) -> io::Result<Outcome> {
    timed(|| {
        let (mut a, mut b, mut c) = black_box((1u64, 2u64, 3u32));
        for i in 0..count {
            a = a.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(i);
            b ^= (a >> 33).wrapping_add(b << 5);
            b = b.rotate_left(11).wrapping_sub(a & 0xff);
            c = (c ^ b as u32) / ((a as u32 & 0xff) | 1);
            if c & 3 == 0 {
                a ^= u64::from(c.leading_zeros());
            }
        }
        mix(mix(a, b), u64::from(c))
    })
}

/// Primes below 64 Ki, a byte for each number.
pub(super) fn sieve(count: u64) -> io::Result<Outcome> {
    const LIMIT: usize = 1 << 16;
    timed(|| {
        let mut composite = vec![0u8; LIMIT];
        let mut sum = 0;
        for _ in 0..count {
            composite.fill(0);
            for i in 2..256 {
                if composite[i] == 0 {
                    for byte in composite[i * i..].iter_mut().step_by(i) {
                        *byte = 1;
                    }
                }
            }
            let primes = black_box(&composite[2..]).iter().filter(|&&b| b == 0);
            sum = mix(sum, primes.count() as u64);
        }
        sum
    })
}

/// An instruction of the interpreted machine: it has 8 registers.
#[derive(Clone, Copy)]
enum Op {
    Set(u8, u32),
    Add(u8, u8),
    Multiply(u8, u8),
    Xor(u8, u8),
    Shift(u8, u8),
    Load(u8, u8),
    Store(u8, u8),
    Decrement(u8),
    JumpUnlessZero(u8, u8),
    Jump(u8),
}

/// A loop over an inner loop: what the interpreter runs.
const PROGRAM: [Op; 14] = [
    Op::Set(0, 1),
    Op::Set(1, 1000),
    Op::Set(2, 7),
    Op::Add(0, 1),
    Op::Multiply(0, 2),
    Op::Xor(3, 0),
    Op::Shift(3, 5),
    Op::Load(4, 3),
    Op::Add(4, 0),
    Op::Store(3, 4),
    Op::Decrement(1),
    Op::JumpUnlessZero(1, 3),
    Op::Add(5, 4),
    Op::Jump(1),
];

/// Bytecode through one `match`; a count is one instruction of it.
pub(super) fn interpreter(count: u64) -> io::Result<Outcome> {
    let program = black_box(PROGRAM.to_vec());
    timed(|| {
        let mut registers = [0u32; 8];
        let mut memory = [0u32; 64];
        let mut at = 0;
        for _ in 0..count {
            let op = program[at];
            at += 1;
            let r = |i: u8| registers[usize::from(i) & 7];
            match op {
                Op::Set(a, value) => registers[usize::from(a) & 7] = value,
                Op::Add(a, b) => registers[usize::from(a) & 7] = r(a).wrapping_add(r(b)),
                Op::Multiply(a, b) => registers[usize::from(a) & 7] = r(a).wrapping_mul(r(b)),
                Op::Xor(a, b) => registers[usize::from(a) & 7] = r(a) ^ r(b),
                Op::Shift(a, by) => registers[usize::from(a) & 7] = r(a).rotate_left(by.into()),
                Op::Load(a, b) => registers[usize::from(a) & 7] = memory[r(b) as usize & 63],
                Op::Store(a, b) => memory[r(a) as usize & 63] = r(b),
                Op::Decrement(a) => registers[usize::from(a) & 7] = r(a).wrapping_sub(1),
                Op::JumpUnlessZero(a, to) if r(a) != 0 => at = to.into(),
                Op::JumpUnlessZero(..) => {}
                Op::Jump(to) => at = to.into(),
            }
        }
        let all = registers.iter().chain(&memory);
        all.fold(0, |sum, &value| mix(sum, value.into()))
    })
}

/// Additions, exchanges and compare-and-swaps with LOCK; nobody else is there.
pub(super) fn atomics(count: u64) -> io::Result<Outcome> {
    let cells: Vec<AtomicU64> = (0..16).map(AtomicU64::new).collect();
    let cells = black_box(cells);
    timed(|| {
        let mut numbers = Numbers::new(4);
        let mut sum = 0;
        for i in 0..count {
            let cell = &cells[(numbers.next() & 15) as usize];
            sum ^= cell.fetch_add(i, Ordering::SeqCst);
            let old = cell.swap(sum, Ordering::SeqCst);
            // Nobody else changes it, so it always succeeds.
            let met =
                cell.compare_exchange(sum, old.wrapping_add(i), Ordering::SeqCst, Ordering::SeqCst);
            sum = sum.wrapping_add(met.unwrap_or(0));
        }
        mix(
            sum,
            cells
                .iter()
                .fold(0, |s, c| mix(s, c.load(Ordering::SeqCst))),
        )
    })
}
