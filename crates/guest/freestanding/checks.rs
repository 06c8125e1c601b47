//! The self-check: each row computes something whose result is known.

use crate::console::println;
use crate::port::{self, tsc};
use crate::traps::expect;
use core::arch::asm;
use core::hint::black_box;
use core::sync::atomic::Ordering::Relaxed;

type Check = (&'static str, fn() -> bool);

const CHECKS: [Check; 11] = [
    ("multiply and divide", multiply_and_divide),
    ("flags", flags),
    ("bit scan and rotate", bits),
    ("floating point", floating_point),
    ("string move and compare", strings),
    ("a page is memory", page),
    ("divide error", divide_error),
    ("invalid opcode", invalid_opcode),
    ("page fault", page_fault),
    ("self-modifying code", self_modifying),
    ("time goes on", time),
];

/// Runs every check; true if all are good.
pub fn report() -> bool {
    let mut good = 0;
    for (name, check) in CHECKS {
        match check() {
            true => good += 1,
            false => println!("self-check  FAILED: {name}"),
        }
    }
    println!("self-check  {good} of {} good", CHECKS.len());
    good == CHECKS.len()
}

fn multiply_and_divide() -> bool {
    let product =
        black_box(0x1234_5678_9abc_def0u64) as u128 * black_box(0xfedc_ba98_7654_3210u64) as u128;
    // By hand with bc(1).
    let right = product == 0x121f_a00a_d77d_7422_236d_88fe_5618_cf00;
    right
        && black_box(1_000_000_007u64) / black_box(97) == 10_309_278
        && black_box(-7i64) % black_box(3) == -1
}

fn flags() -> bool {
    let (sum, flags): (u8, u64);
    // SAFETY: touches the named registers only; the stack use is balanced.
    unsafe {
        asm!("add al, 1", "pushfq", "pop {}", lateout(reg) flags, inout("al") 0x7fu8 => sum);
    }
    // 0x7f + 1: OF, SF and AF set; CF, ZF and PF clear (SDM vol. 1, 3.4.3.1).
    sum == 0x80 && flags & 0x8d5 == 0x890
}

fn bits() -> bool {
    black_box(0x0010_0000u64).trailing_zeros() == 20
        && black_box(0x0010_0000u64).leading_zeros() == 43
        && black_box(0x8000_0001u32).rotate_left(4) == 0x18
        && black_box(0x1234_5678u32).swap_bytes() == 0x7856_3412
}

fn floating_point() -> bool {
    // 0.1 + 0.2 in IEEE 754 double.
    let sum = black_box(0.1f64) + black_box(0.2);
    let quotient = black_box(1.0f32) / black_box(3.0);
    sum.to_bits() == 0x3fd3_3333_3333_3334 && quotient.to_bits() == 0x3eaa_aaab
}

fn strings() -> bool {
    let from: [u8; 300] = core::array::from_fn(|i| i as u8);
    let mut to = [0u8; 300];
    to.copy_from_slice(black_box(&from));
    to == from && {
        to[299] ^= 1;
        black_box(to) != from
    }
}

fn page() -> bool {
    static mut PAGE: [u64; 512] = [0; 512];
    let page = &raw mut PAGE;
    (0..512usize).all(|i| {
        let value = (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // SAFETY: only this function uses the page, on one CPU.
        unsafe {
            (&raw mut (*page)[i]).write_volatile(value);
            (&raw const (*page)[i]).read_volatile() == value
        }
    })
}

fn divide_error() -> bool {
    let seen = expect(|resume| {
        // SAFETY: the division faults and the handler continues at the label.
        unsafe {
            asm!("lea {t}, [rip + 2f]", "mov [{r}], {t}", "xor edx, edx", "mov eax, 1", "xor {z:e}, {z:e}", "div {z:e}", "2:",
                t = out(reg) _, z = out(reg) _, r = in(reg) resume.as_ptr(), out("eax") _, out("edx") _);
        }
    });
    seen.is_some_and(|(vector, ..)| vector == 0)
}

fn invalid_opcode() -> bool {
    let seen = expect(|resume| {
        // SAFETY: as `divide_error`.
        unsafe {
            asm!("lea {t}, [rip + 2f]", "mov [{r}], {t}", "ud2", "2:", t = out(reg) _, r = in(reg) resume.as_ptr());
        }
    });
    seen.is_some_and(|(vector, ..)| vector == 6)
}

fn page_fault() -> bool {
    // The first byte past the 4 GiB that are mapped.
    let address = 1u64 << 32;
    let seen = expect(|resume| {
        // SAFETY: the write faults and the handler continues at the label.
        unsafe {
            asm!("lea {t}, [rip + 2f]", "mov [{r}], {t}", "mov byte ptr [{a}], 1", "2:",
                t = out(reg) _, r = in(reg) resume.as_ptr(), a = in(reg) address);
        }
    });
    // Error code: write, page not present (SDM vol. 3A, 4.7).
    seen == Some((14, 2, address))
}

fn self_modifying() -> bool {
    static mut CODE: [u8; 16] = [0; 16];
    let code = &raw mut CODE;
    let run = |value: u8| -> u32 {
        // mov eax, imm32; ret
        let bytes = [0xb8, value, 0, 0, 0, 0xc3];
        let result: u32;
        // SAFETY: writes six bytes into a buffer of 16 that only this
        // function uses, and calls the function they are.
        unsafe {
            for (i, byte) in bytes.into_iter().enumerate() {
                (&raw mut (*code)[i]).write_volatile(byte);
            }
            asm!("call {}", in(reg) code, out("eax") result);
        }
        result
    };
    (1..=20).all(|value| run(value) == u32::from(value))
}

fn time() -> bool {
    let (ticks, begin) = (crate::traps::PIT_TICKS.load(Relaxed), tsc());
    port::wait();
    tsc() > begin && crate::traps::PIT_TICKS.load(Relaxed) >= ticks
}
