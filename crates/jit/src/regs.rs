//! Where guest registers live while translated code runs.
//!
//! RSP is generated code's stack and three registers are scratch, so of the guest's
//! sixteen twelve stay in host registers: all but R8..R11, which compilers use
//! least, and guest RSP moves to host R8.

use iced_x86::Register;

/// Host register that holds guest RSP.
pub const GUEST_RSP: u8 = 8;
/// The host's own stack pointer. The TLB arrays lie at fixed distances from it.
pub const RSP: u8 = 4;
/// Scratch: the linear address, then the offset inside the page.
pub const T0: u8 = 9;
/// Scratch: the TLB index, then the host page.
pub const T1: u8 = 10;
/// Scratch: operands.
pub const T2: u8 = 11;

/// Where one guest register lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// In this host register.
    Host(u8),
    /// In the vCPU's memory.
    Slot(usize),
}

/// Home of guest register number `n` (0..16).
pub fn home(n: usize) -> Home {
    match n {
        4 => Home::Host(GUEST_RSP),
        8..=11 => Home::Slot(n),
        _ => Home::Host(n as u8),
    }
}

/// Host registers that hold a guest register, as (host, guest) pairs.
pub fn pinned() -> impl Iterator<Item = (u8, usize)> {
    (0..16).filter_map(|g| match home(g) {
        Home::Host(h) => Some((h, g)),
        Home::Slot(_) => None,
    })
}

/// The `size`-byte name of host register `n`.
pub fn named(n: u8, size: usize) -> Register {
    let base = match size {
        1 => {
            // SPL..DIL follow R-numbers; AH..BH sit between BL and SPL.
            return Register::AL
                + if n < 4 {
                    u32::from(n)
                } else {
                    u32::from(n) + 4
                };
        }
        2 => Register::AX,
        4 => Register::EAX,
        _ => Register::RAX,
    };
    base + u32::from(n)
}

/// True for AH, CH, DH, BH.
pub fn is_high_byte(r: Register) -> bool {
    matches!(r, Register::AH | Register::CH | Register::DH | Register::BH)
}
