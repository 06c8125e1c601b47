//! The memory map the loader passed.

use crate::boot::StartInfo;
use crate::console::println;

/// Prints the map and the sum of what is usable (ACPI 6.4, table 15.2).
pub fn report(start: Option<&StartInfo>) {
    let map = start.map(|s| s.map()).unwrap_or_default();
    let mut usable = 0u64;
    for (i, entry) in map.iter().enumerate() {
        let kind = match entry.kind {
            1 => "usable",
            2 => "reserved",
            3 => "ACPI tables",
            4 => "ACPI NVS",
            _ => "other",
        };
        if entry.kind == 1 {
            usable = usable.saturating_add(entry.size);
        }
        let title = if i == 0 { "memory" } else { "" };
        let last = entry.start.saturating_add(entry.size).saturating_sub(1);
        println!("{title:<12}{:012x}-{last:012x} {kind}", entry.start);
    }
    println!("            {} KiB usable", usable >> 10);
}
