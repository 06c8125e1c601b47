//! Power-off and reset the ACPI way (ACPI 6.4, 5.2.5, 5.2.9, 7.4.2; on boards
//! with hardware-reduced ACPI 4.8.3.7).

use crate::boot::StartInfo;
use crate::console::println;
use crate::port::{self, in16, out8, out16, tsc};

/// What the tables say about power-off.
pub struct Pc {
    control: Control,
    /// Sleep type of S5.
    s5_type: u16,
}

/// Where the sleep type is written.
#[derive(Clone, Copy)]
enum Control {
    /// There are no tables.
    Unknown,
    /// PM1a control register, an I/O port.
    Pm1a(u16),
    /// Sleep control register, in identity-mapped memory.
    Reduced(u32),
}

const SLEEP_ENABLE: u16 = 1 << 13;
/// The same in the sleep control register.
const REDUCED_SLEEP_ENABLE: u8 = 1 << 5;
/// FADT flag HW_REDUCED_ACPI.
const REDUCED: u64 = 1 << 20;
/// TSC cycles, a second or so.
const PATIENCE: u64 = 3_000_000_000;
const LARGEST_TABLE: u32 = 1 << 20;

/// The bytes of a table, or nothing if the address cannot be one.
fn table(address: u64) -> Option<&'static [u8]> {
    if address == 0 || address >= 1 << 32 {
        return None;
    }
    let start = address as *const u8;
    // SAFETY: the first 4 GiB are identity-mapped and nobody writes the tables.
    unsafe {
        let length = start.add(4).cast::<u32>().read_unaligned();
        (36..=LARGEST_TABLE)
            .contains(&length)
            .then(|| core::slice::from_raw_parts(start, length as usize))
    }
}

fn word(bytes: &[u8], at: usize, size: usize) -> u64 {
    let mut value = [0; 8];
    match bytes.get(at..at + size) {
        Some(field) => value[..size].copy_from_slice(field),
        None => return 0,
    }
    u64::from_le_bytes(value)
}

fn sums_to_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)) == 0
}

impl Pc {
    /// Follows RSDP, RSDT or XSDT, FADT and DSDT.
    pub fn find(start: Option<&StartInfo>) -> Self {
        Self::from_tables(start).unwrap_or(Self {
            control: Control::Unknown,
            s5_type: 0,
        })
    }

    fn from_tables(start: Option<&StartInfo>) -> Option<Self> {
        let rsdp = start?.rsdp;
        if rsdp == 0 || rsdp >= 1 << 32 {
            return None;
        }
        // SAFETY: as `table`; an RSDP has 36 bytes from revision 2 on, and
        // memory lies behind an older one.
        let rsdp = unsafe { core::slice::from_raw_parts(rsdp as *const u8, 36) };
        if !rsdp.starts_with(b"RSD PTR ") || !sums_to_zero(&rsdp[..20]) {
            return None;
        }
        let extended = rsdp[15] >= 2 && word(rsdp, 24, 8) != 0;
        let (root, size) = match extended {
            true => (table(word(rsdp, 24, 8))?, 8),
            false => (table(word(rsdp, 16, 4))?, 4),
        };
        let fadt = root[36..].chunks_exact(size).find_map(|entry| {
            table(word(entry, 0, size)).filter(|t| t.starts_with(b"FACP") && sums_to_zero(t))
        })?;
        let dsdt = table(word(fadt, 40, 4)).or_else(|| table(word(fadt, 140, 8)))?;
        Some(Self {
            control: control(fadt),
            s5_type: s5_type(dsdt)?,
        })
    }
}

fn control(fadt: &[u8]) -> Control {
    // SLEEP_CONTROL_REG: a generic address, 0 for memory.
    let (space, address) = (word(fadt, 244, 1), word(fadt, 248, 8));
    match (word(fadt, 112, 4) & REDUCED != 0, word(fadt, 64, 4) as u16) {
        (true, _) if space == 0 && address != 0 && address < 1 << 32 => {
            Control::Reduced(address as u32)
        }
        (true, _) | (false, 0) => Control::Unknown,
        (false, port) => Control::Pm1a(port),
    }
}

/// SLP_TYPa of `Name (_S5, Package () { a, b, ... })`: name, PackageOp (0x12),
/// PkgLength, element count, then an AML integer (ACPI 6.4, 20.2).
fn s5_type(dsdt: &[u8]) -> Option<u16> {
    let at = dsdt.windows(5).position(|w| w == b"_S5_\x12")? + 5;
    let length_bytes = 1 + usize::from(dsdt.get(at)? >> 6);
    let value = at + length_bytes + 1;
    match *dsdt.get(value)? {
        0x0a => Some(u16::from(*dsdt.get(value + 1)?)),
        constant @ (0 | 1) => Some(u16::from(constant)),
        _ => None,
    }
}

/// Prints what was found.
pub fn report(pc: &Pc) {
    let kind = pc.s5_type;
    match pc.control {
        Control::Unknown => println!("acpi        no tables"),
        Control::Pm1a(port) => {
            println!("acpi        PM1a control at port {port:#x}, S5 is sleep type {kind}");
        }
        Control::Reduced(at) => {
            println!("acpi        sleep control at {at:#x}, S5 is sleep type {kind}");
        }
    }
}

/// Enters S5; if that does not work, resets.
pub fn power_off(pc: &Pc) -> ! {
    port::interrupts_off();
    match pc.control {
        Control::Unknown => {}
        Control::Pm1a(port) => {
            let kept = in16(port) & !0x3c00;
            out16(port, kept | pc.s5_type << 10 | SLEEP_ENABLE);
        }
        Control::Reduced(at) => {
            let value = (pc.s5_type as u8) << 2 | REDUCED_SLEEP_ENABLE;
            // SAFETY: the first 4 GiB are identity-mapped, and the tables say
            // that the register is there.
            unsafe { (at as *mut u8).write_volatile(value) };
        }
    }
    // The power goes a little after the write.
    let begin = tsc();
    while !matches!(pc.control, Control::Unknown) && tsc() - begin < PATIENCE {}
    println!("power-off did not work");
    reset()
}

/// Resets through the keyboard controller's output port.
pub fn reset() -> ! {
    out8(0x64, 0xfe);
    loop {
        port::halt();
    }
}
