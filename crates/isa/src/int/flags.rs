//! Results and arithmetic flags of the integer operations, generic over the
//! operand size in bytes (SDM vol 1, appendix A; vol 2 per instruction).
//!
//! Flags the manual leaves undefined are what current Intel processors were
//! measured to produce: a shift or rotate by more than one computes OF as if
//! the count were one; AF is 0 after logic, shifts and multiplications.

use crate::operand::{mask, sext};
use x86::flags::{AF, CF, OF, PF, SF, ZF};

/// Bits of the operand.
pub(crate) const fn bits(size: u32) -> u32 {
    size * 8
}

/// The most significant bit of a `size`-byte value.
pub(crate) const fn top(v: u64, size: u32) -> u64 {
    (v >> (bits(size) - 1)) & 1
}

/// `flag` if `on`.
pub(crate) const fn bit(on: bool, flag: u64) -> u64 {
    if on { flag } else { 0 }
}

/// SF, ZF and PF of a result.
pub(crate) const fn szp(r: u64, size: u32) -> u64 {
    bit(r & mask(size) == 0, ZF)
        | bit(top(r, size) != 0, SF)
        | bit((r as u8).count_ones() & 1 == 0, PF)
}

/// `a + b + carry` with all six flags; inputs are zero-extended.
pub(crate) const fn add(a: u64, b: u64, carry: u64, size: u32) -> (u64, u64) {
    let r = a.wrapping_add(b).wrapping_add(carry) & mask(size);
    let out = (a & b) | ((a | b) & !r);
    let f = szp(r, size)
        | bit(top(out, size) != 0, CF)
        | ((a ^ b ^ r) & AF)
        | bit(top((a ^ r) & (b ^ r), size) != 0, OF);
    (r, f)
}

/// `a - b - borrow` with all six flags; inputs are zero-extended.
pub(crate) const fn sub(a: u64, b: u64, borrow: u64, size: u32) -> (u64, u64) {
    let r = a.wrapping_sub(b).wrapping_sub(borrow) & mask(size);
    let out = (!a & b) | ((!a | b) & r);
    let f = szp(r, size)
        | bit(top(out, size) != 0, CF)
        | ((a ^ b ^ r) & AF)
        | bit(top((a ^ b) & (a ^ r), size) != 0, OF);
    (r, f)
}

/// Shifts and rotates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shift {
    Rol,
    Ror,
    Rcl,
    Rcr,
    Shl,
    Shr,
    Sar,
}

/// Shifts `a` by `count`, already masked to 5 or 6 bits. Returns the result
/// and the new flags, given `old` ones; a count of 0 changes nothing.
pub(crate) fn shift(op: Shift, a: u64, count: u32, size: u32, old: u64) -> (u64, u64) {
    if count == 0 {
        return (a, old);
    }
    match op {
        Shift::Rol | Shift::Ror => rotate(op, a, count, size, old),
        Shift::Rcl | Shift::Rcr => rotate_carry(op, a, count, size, old),
        _ => plain_shift(op, a, count, size, old),
    }
}

/// OF of a left shift or rotate: the top two bits of the operand differ.
const fn left_of(a: u64, size: u32) -> u64 {
    bit(top(a ^ (a << 1), size) != 0, OF)
}

fn plain_shift(op: Shift, a: u64, count: u32, size: u32, old: u64) -> (u64, u64) {
    let wide = u128::from(a);
    let (r, cf, of) = match op {
        Shift::Shl => {
            let w = wide << count;
            (w as u64, (w >> bits(size)) & 1 != 0, left_of(a, size))
        }
        Shift::Shr => (
            (wide >> count) as u64,
            (wide >> (count - 1)) & 1 != 0,
            bit(top(a, size) != 0, OF),
        ),
        _ => {
            let s = i128::from(sext(a, size) as i64);
            ((s >> count) as u64, (s >> (count - 1)) & 1 != 0, 0)
        }
    };
    let r = r & mask(size);
    let f = szp(r, size) | bit(cf, CF) | of;
    (r, (old & !x86::flags::ARITH) | f)
}

fn rotate(op: Shift, a: u64, count: u32, size: u32, old: u64) -> (u64, u64) {
    let n = bits(size);
    let left = if op == Shift::Rol {
        count % n
    } else {
        (n - count % n) % n
    };
    let r = if left == 0 {
        a
    } else {
        ((a << left) | (a >> (n - left))) & mask(size)
    };
    let f = if op == Shift::Rol {
        bit(r & 1 != 0, CF) | left_of(a, size)
    } else {
        bit(top(r, size) != 0, CF) | bit((a & 1) != top(a, size), OF)
    };
    (r, (old & !(CF | OF)) | f)
}

/// Rotates the operand with CF as its extra top bit.
fn rotate_carry(op: Shift, a: u64, count: u32, size: u32, old: u64) -> (u64, u64) {
    let n = bits(size) + 1;
    let count = count % n;
    if count == 0 {
        return (a, old);
    }
    let left = if op == Shift::Rcl { count } else { n - count };
    let v = u128::from(a) | (u128::from(old & CF) << (n - 1));
    let r = (v << left) | (v >> (n - left));
    let of = if op == Shift::Rcl {
        left_of(a, size)
    } else {
        bit((old & CF) != top(a, size), OF)
    };
    let f = bit((r >> (n - 1)) & 1 != 0, CF) | of;
    ((r as u64) & mask(size), (old & !(CF | OF)) | f)
}

/// SHLD (`left`) or SHRD of `a`, filling from `b`, by a masked `count`. For
/// 16-bit operands a count above 16 is undefined; processors then shift in `a`
/// again.
pub(crate) fn double_shift(
    left: bool,
    (a, b): (u64, u64),
    count: u32,
    size: u32,
    old: u64,
) -> (u64, u64) {
    if count == 0 {
        return (a, old);
    }
    let n = bits(size);
    let (r, cf, of) = if left {
        // a:b, followed by a once more for 16-bit operands.
        let low = if size == 2 { 2 * n } else { n };
        let mut v = (u128::from(a) << low) | (u128::from(b) << (low - n));
        if size == 2 {
            v |= u128::from(a);
        }
        let cf = (v >> (low + n - count)) & 1 != 0;
        (((v << count) >> low) as u64, cf, left_of(a, size))
    } else {
        let mut v = u128::from(a) | (u128::from(b) << n);
        if size == 2 {
            v |= u128::from(a) << 32;
        }
        let cf = (v >> (count - 1)) & 1 != 0;
        let of = bit((b & 1) != top(a, size), OF);
        ((v >> count) as u64, cf, of)
    };
    let r = r & mask(size);
    let f = szp(r, size) | bit(cf, CF) | of;
    (r, (old & !x86::flags::ARITH) | f)
}
