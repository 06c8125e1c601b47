//! What CPUID says (Intel SDM vol. 2A, CPUID).

use crate::console::{print, println};
use core::arch::x86_64::__cpuid_count;

/// (leaf, register: 0 = EAX .. 3 = EDX, bit, name)
const FEATURES: [(u32, usize, u32, &str); 26] = [
    (1, 3, 26, "sse2"),
    (1, 2, 19, "sse4.1"),
    (1, 2, 20, "sse4.2"),
    (1, 2, 23, "popcnt"),
    (1, 2, 25, "aes"),
    (1, 2, 28, "avx"),
    (1, 2, 12, "fma"),
    (7, 1, 5, "avx2"),
    (7, 1, 3, "bmi1"),
    (7, 1, 8, "bmi2"),
    (7, 1, 29, "sha"),
    (7, 1, 16, "avx512f"),
    (1, 2, 30, "rdrand"),
    (1, 2, 26, "xsave"),
    (1, 2, 13, "cx16"),
    (1, 2, 17, "pcid"),
    (7, 1, 10, "invpcid"),
    (7, 1, 0, "fsgsbase"),
    (7, 1, 7, "smep"),
    (7, 1, 20, "smap"),
    (7, 2, 2, "umip"),
    (1, 2, 21, "x2apic"),
    (1, 2, 24, "tsc-deadline"),
    (0x8000_0001, 3, 20, "nx"),
    (0x8000_0001, 3, 26, "1g-pages"),
    (0x8000_0001, 3, 27, "rdtscp"),
];

/// EAX, EBX, ECX, EDX of a leaf; zeros if the CPU has no such leaf.
pub fn leaf(number: u32) -> [u32; 4] {
    let highest = __cpuid_count(number & 0xc000_0000, 0).eax;
    if number > highest && number & 0x7fff_ffff != 0 {
        return [0; 4];
    }
    let l = __cpuid_count(number, 0);
    [l.eax, l.ebx, l.ecx, l.edx]
}

/// Prints registers as the text they hold.
fn print_text(registers: &[u32]) {
    for byte in registers.iter().flat_map(|r| r.to_le_bytes()) {
        if (32..127).contains(&byte) {
            print!("{}", byte as char);
        }
    }
}

/// Prints what the CPU is and what it offers.
pub fn report() {
    let [_, b, c, d] = leaf(0);
    print!("cpu         ");
    print_text(&[b, d, c]);
    let signature = leaf(1)[0];
    let family = (signature >> 8 & 15) + (signature >> 20 & 255);
    let model = signature >> 4 & 15 | signature >> 12 & 0xf0;
    print!(
        " family {family} model {model} stepping {}, ",
        signature & 15
    );
    for number in 0x8000_0002..=0x8000_0004 {
        print_text(&leaf(number));
    }
    if leaf(1)[2] >> 31 != 0 {
        let l = __cpuid_count(0x4000_0000, 0);
        print!("\n            hypervisor ");
        print_text(&[l.ebx, l.ecx, l.edx]);
    }
    print!("\n           ");
    for (number, register, bit, name) in FEATURES {
        if leaf(number)[register] >> bit & 1 != 0 {
            print!(" {name}");
        }
    }
    println!();
}
