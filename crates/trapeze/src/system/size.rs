//! Sizes as QEMU writes them.

/// Bytes in `text`: a number, possibly with a fraction, and a suffix B, K, M,
/// G, T, P or E in either case (powers of 1024); `default` is the suffix's
/// shift when there is none.
pub(crate) fn parse(text: &str, default: u32) -> Result<u64, String> {
    let bad = || format!("'{text}' is not a size; write a number with K, M, G or T, such as 1G");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => default,
        "B" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        "P" => 50,
        "E" => 60,
        _ => return Err(bad()),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let plain = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !plain(whole) || !plain(fraction) {
        return Err(bad());
    }
    let too_large = || format!("'{text}' is more than 64 bits can address");
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let bytes = whole.checked_mul(1 << shift).ok_or_else(too_large)?;
    let part: f64 = format!("0.{fraction}").parse().map_err(|_| bad())?;
    bytes
        .checked_add((part * (1u64 << shift) as f64) as u64)
        .ok_or_else(too_large)
}

/// `bytes` for a reader.
pub(crate) fn show(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >> shift > 0 && bytes & ((1 << shift) - 1) == 0 {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_qemus() {
        let megabytes = [("1", 1 << 20), ("512", 512 << 20), ("0", 0)];
        let suffixed = [
            ("1G", 1u64 << 30),
            ("2k", 2048),
            ("64M", 64 << 20),
            ("3T", 3 << 40),
        ];
        let fractions = [("1.5G", 3u64 << 29), ("0.5", 1 << 19), ("7B", 7)];
        for (text, bytes) in megabytes.into_iter().chain(suffixed).chain(fractions) {
            assert_eq!(parse(text, 20), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn garbage_is_refused() {
        for text in [
            "", "G", "1X", "-1", "1 G", "0x10", "1.2.3", "1.", ".5", "1GB", "lots", "1é",
        ] {
            assert!(parse(text, 20).is_err(), "{text}");
        }
        assert!(
            parse("99999999999999999999", 20)
                .unwrap_err()
                .contains("64 bits")
        );
        assert!(parse("16E", 20).unwrap_err().contains("64 bits"));
    }

    #[test]
    fn sizes_are_shown_in_the_largest_whole_unit() {
        assert_eq!(show(1 << 30), "1 GiB");
        assert_eq!(show(1536 << 20), "1536 MiB");
        assert_eq!(show(5), "5 bytes");
    }
}
