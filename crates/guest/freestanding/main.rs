//! Trapeze's embedded guest: what a PC looks like from inside.
//!
//! Everything runs on one CPU at CPL 0 with the first 4 GiB identity-mapped.

#![no_std]
#![no_main]

mod acpi;
mod apic;
mod boot;
mod checks;
mod console;
mod cpu;
mod memory;
mod port;
mod routines;
mod timer;
mod traps;

use boot::StartInfo;
use console::{print, println};

/// Called by the start code with the PVH start information.
#[unsafe(no_mangle)]
extern "C" fn guest_main(start: *const StartInfo) -> ! {
    console::init();
    // SAFETY: the boot protocol passes the address of a start information
    // structure in identity-mapped memory that nobody writes.
    let start = unsafe { start.as_ref() };
    println!("\nTrapeze embedded guest {}", env!("TRAPEZE_VERSION"));
    traps::init();
    cpu::report();
    memory::report(start);
    let pc = acpi::Pc::find(start);
    acpi::report(&pc);
    timer::report();
    let good = checks::report();
    if start.is_some_and(|s| s.command_line().ends_with(b"check")) {
        println!("{}", if good { "GUEST-OK" } else { "GUEST-FAILED" });
        acpi::power_off(&pc);
    }
    echo(&pc)
}

/// Returns typed lines until one asks to end.
fn echo(pc: &acpi::Pc) -> ! {
    println!("\nWhat you type comes back; 'poweroff', 'reboot' and 'ticks' do what they say.");
    let mut line = [0u8; 80];
    loop {
        print!("> ");
        match console::read_line(&mut line) {
            b"poweroff" | b"exit" => acpi::power_off(pc),
            b"reboot" => acpi::reset(),
            b"ticks" => timer::show_counts(),
            b"" => {}
            text => println!("{}", core::str::from_utf8(text).unwrap_or("?")),
        }
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    println!("guest panic: {info}");
    loop {
        port::halt();
    }
}
