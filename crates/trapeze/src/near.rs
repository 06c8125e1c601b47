//! Names that were probably meant.

/// `; did you mean 'x' or 'y'?`, or nothing if no candidate is near.
pub(crate) fn did_you_mean<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> String {
    let limit = (word.len() / 3).clamp(1, 3);
    let mut near: Vec<(usize, &str)> = candidates
        .map(|c| (distance(word, c), c))
        .filter(|&(d, c)| d <= limit || (word.len() >= 3 && c.starts_with(word)))
        .collect();
    near.sort();
    near.truncate(3);
    let names: Vec<String> = near.iter().map(|(_, c)| format!("'{c}'")).collect();
    match names.is_empty() {
        true => String::new(),
        false => format!("; did you mean {}?", names.join(" or ")),
    }
}

/// Levenshtein distance in bytes, of names short enough not to care.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (&a.as_bytes()[..a.len().min(64)], b.as_bytes());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_levenshtein() {
        // The textbook pair.
        assert_eq!(distance("kitten", "sitting"), 3);
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
    }
}
