//! The interrupt controllers.

use crate::command::*;
use crate::target::Target;
use std::fmt::Write;

pub static COMMANDS: &[Command] = &[
    people(&["info pic"], "the 8259s and the I/O APIC", |context, _| {
        Ok(pic(context.target)?.into())
    }),
    people(
        &["info irq"],
        "how often the interrupt controllers' inputs rose",
        |context, _| {
            let counts = context.target.machine.irq_counts();
            match counts.is_empty() {
                true => Err("this accelerator does not count them".into()),
                false => Ok(counts.iter().map(irq_counts).collect::<String>().into()),
            }
        },
    ),
    people(
        &["info lapic"],
        "the local APIC of the vCPU, or of the one with this number",
        |context, arguments| {
            let vcpu = number_of(arguments, "vcpu").map_or(Ok(context.vcpu), u32::try_from)?;
            let state = context
                .target
                .machine
                .on_vcpu(vcpu, |vcpu| vcpu.lapic())??;
            let bytes = state.regs.map(|b| b as u8);
            Ok(lapic(vcpu, &bytes).into())
        },
    )
    .takes(&[need("vcpu", Kind::Number).optional()]),
];

const MODES: [&str; 8] = [
    "fixed", "lowest", "SMI", "reserved", "NMI", "INIT", "reserved", "ExtINT",
];

fn pic(target: &Target) -> Result<String, Failure> {
    let (pics, ioapic) = target.machine.interrupt_controllers()?;
    let mut text = String::new();
    for (number, pic) in (0..).zip(pics) {
        let _ = writeln!(
            text,
            "pic{number}: irr={:02x} imr={:02x} isr={:02x} hprio={} irq_base={:02x}",
            pic.irr, pic.imr, pic.isr, pic.priority_add, pic.irq_base
        );
    }
    let _ = writeln!(text, "ioapic: id={:#x} irr={:06x}", ioapic.id, ioapic.irr);
    for (pin, entry) in (0..).zip(ioapic.entries) {
        let bit = |bit: u32, set, clear| if entry >> bit & 1 != 0 { set } else { clear };
        let _ = writeln!(
            text,
            "  pin {pin:<2} {entry:016x} dest={} vec={:<3} {} {} {}{}",
            entry >> 56,
            entry & 0xff,
            MODES[(entry >> 8 & 7) as usize],
            bit(15, "level", "edge"),
            bit(11, "logical", "physical"),
            bit(16, " masked", "")
        );
    }
    Ok(text)
}

fn irq_counts((name, counts): &(&'static str, Vec<u64>)) -> String {
    let mut text = format!("IRQ statistics for {name}:\n");
    for (input, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let _ = writeln!(text, "{input:2}: {count}");
    }
    text
}

fn lapic(vcpu: u32, bytes: &[u8]) -> String {
    let reg = |offset: usize| -> u32 {
        let bytes = bytes.get(offset..offset + 4).unwrap_or(&[0; 4]);
        bytes
            .iter()
            .rev()
            .fold(0, |value, &byte| value << 8 | u32::from(byte))
    };
    let mut text = format!("dumping local APIC state for CPU {vcpu}\n\n");
    let rows = [
        ("ID", 0x20),
        ("VERSION", 0x30),
        ("TPR", 0x80),
        ("PPR", 0xa0),
        ("LDR", 0xd0),
        ("DFR", 0xe0),
        ("SPIV", 0xf0),
        ("ESR", 0x280),
        ("ICR", 0x300),
        ("ICR2", 0x310),
        ("LVTT", 0x320),
        ("LVTTHMR", 0x330),
        ("LVTPC", 0x340),
        ("LVT0", 0x350),
        ("LVT1", 0x360),
        ("LVTERR", 0x370),
        ("TMICT", 0x380),
        ("TMCCT", 0x390),
        ("TDCR", 0x3e0),
    ];
    for (name, offset) in rows {
        let _ = writeln!(text, "{name:<9}{:#010x}", reg(offset));
    }
    for (name, first) in [("ISR", 0x100), ("IRR", 0x200), ("TMR", 0x180)] {
        let vectors = (0..256usize).filter(|v| reg(first + v / 32 * 16) >> (v % 32) & 1 != 0);
        let list: Vec<String> = vectors.map(|v| v.to_string()).collect();
        let list = if list.is_empty() {
            "(none)".into()
        } else {
            list.join(" ")
        };
        let _ = writeln!(text, "{name:<9}{list}");
    }
    text
}
