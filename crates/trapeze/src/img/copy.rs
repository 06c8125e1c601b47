//! What copying commands share.

use std::ops::Range;

/// Bytes copied at once.
pub(super) const PIECE: u64 = 2 << 20;

/// All bytes are zero.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|c| c == &ZEROS[..c.len()])
}

/// Cuts bytes into runs that are zero or not, in units of `unit`. `offset` is
/// where the bytes are: units are aligned there.
pub(super) fn zero_runs(bytes: &[u8], offset: u64, unit: u64) -> Vec<(Range<usize>, bool)> {
    let mut runs: Vec<(Range<usize>, bool)> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = unit - (offset + at as u64) % unit;
        let end = bytes.len().min(at + rest as usize);
        let zero = is_zero(&bytes[at..end]);
        match runs.last_mut() {
            Some((range, same)) if *same == zero => range.end = end,
            _ => runs.push((at..end, zero)),
        }
        at = end;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_aligned_units() {
        let mut bytes = vec![0u8; 4 * 512];
        bytes[700] = 1;
        assert_eq!(
            zero_runs(&bytes, 0, 512),
            [(0..512, true), (512..1024, false), (1024..2048, true)]
        );
        // The unit that begins at 612 of the bytes is zero.
        assert_eq!(
            zero_runs(&bytes, 412, 512),
            [(0..100, true), (100..612, true), (612..1124, false)]
                .into_iter()
                .fold(Vec::new(), |mut all: Vec<(Range<usize>, bool)>, run| {
                    match all.last_mut() {
                        Some(last) if last.1 == run.1 => last.0.end = run.0.end,
                        _ => all.push(run),
                    }
                    all
                })
                .into_iter()
                .chain([(1124..2048, true)])
                .collect::<Vec<_>>()
        );
        assert!(is_zero(&[]));
    }
}
