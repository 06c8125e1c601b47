//! Names that were probably meant.

/// `; did you mean 'x' or 'y'?`, or nothing if no candidate is near.
pub(crate) fn did_you_mean<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> String {
    let limit = (word.len() / 3).clamp(1, 3);
    let mut near: Vec<(usize, &str)> = candidates
        .map(|c| (distance(word, c), c))
        .filter(|&(d, c)| d <= limit || (word.len() >= 3 && c.starts_with(word)))
        .collect();
    near.sort();
    near.dedup();
    near.truncate(3);
    let names: Vec<String> = near.iter().map(|(_, c)| format!("'{c}'")).collect();
    match names.is_empty() {
        true => String::new(),
        false => format!("; did you mean {}?", names.join(" or ")),
    }
}

/// Edits between two names: a byte inserted, removed or replaced, or two
/// neighbours swapped (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (&a.as_bytes()[..a.len().min(64)], b.as_bytes());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let replaced = last[j] + usize::from(a[i] != b[j]);
            let mut best = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_edits() {
        // The textbook pair.
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("kmv", "kvm"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("smp", "smp"), 0);
    }

    #[test]
    fn near_names_are_offered_and_far_ones_not() {
        let names = ["kernel", "initrd", "append"];
        assert_eq!(
            did_you_mean("kernal", names.into_iter()),
            "; did you mean 'kernel'?"
        );
        assert_eq!(did_you_mean("netdev", names.into_iter()), "");
        assert_eq!(
            did_you_mean("apend", ["append", "append"].into_iter()),
            "; did you mean 'append'?"
        );
    }
}
