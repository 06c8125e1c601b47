//! Sizes as `qemu-img` reads and writes them.

/// Bytes in `text`; the suffix may be one of bkKMGTPE.
pub(super) fn parse(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => crate::system::parse_size(text, 0).ok(),
    }
}

/// What is said of a text that is no size.
pub(super) fn expected(what: &str) -> String {
    format!(
        "Parameter '{what}' expects a non-negative number below 2^64\n\
         Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n\
         and exabytes, respectively."
    )
}

/// Three digits and a unit; the unit is the largest that leaves less than
/// 1000.
pub(super) fn show(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}B", three_digits(value), UNITS[unit])
}

/// As C's `%.3g`, for numbers below 1000.
fn three_digits(value: f64) -> String {
    let decimals = match value {
        0.0 => 0,
        v => (2 - v.log10().floor() as i32).max(0) as usize,
    };
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_with_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (512, "512 B"),
            (1000, "0.977 KiB"),
            (1024, "1 KiB"),
            (196 << 10, "196 KiB"),
            (1_208_320, "1.15 MiB"),
            (10_725_376, "10.2 MiB"),
            (10 << 30, "10 GiB"),
            (1 << 60, "1 EiB"),
        ] {
            assert_eq!(show(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse("1.5G"), Some(3 << 29));
        assert_eq!(parse("512"), Some(512));
        assert_eq!(parse("0x10"), Some(16));
        assert_eq!(parse("1Z"), None);
        assert_eq!(parse(""), None);
    }
}
