//! Lengths of functions and files, with a ratchet: what is longer than the
//! rule today is listed in `ratchet.txt` and may only get shorter.

use super::Source;
use super::functions::functions;
use crate::paths;
use anyhow::{Context, Result};
use std::collections::BTreeMap;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Functions, by `path name`.
    Function,
    /// Files, by path.
    File,
}

const RATCHET: &str = include_str!("ratchet.txt");
const RATCHET_PATH: &str = "crates/xtask/src/tidy/ratchet.txt";

impl Kind {
    /// Longest allowed, in lines.
    fn limit(self) -> usize {
        match self {
            Self::Function => 70,
            Self::File => 800,
        }
    }
}

/// Everything of `kind` beyond its limit.
fn too_long(sources: &[Source], kind: Kind) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for source in sources.iter().filter(|s| s.path.ends_with(".rs")) {
        let items = match kind {
            Kind::File => vec![(source.path.clone(), source.text.lines().count())],
            Kind::Function => functions(&source.text)
                .into_iter()
                .map(|f| (format!("{} {}", source.path, f.name), f.lines))
                .collect(),
        };
        for (name, lines) in items.into_iter().filter(|i| i.1 > kind.limit()) {
            let entry: &mut usize = found.entry(name).or_default();
            *entry = lines.max(*entry);
        }
    }
    found
}

/// `lines path [function]`, one a line.
fn parse(ratchet: &str, kind: Kind) -> BTreeMap<String, usize> {
    let rows = ratchet.lines().filter_map(|l| l.split_once(' '));
    rows.filter(|(_, name)| name.contains(' ') == (kind == Kind::Function))
        .filter_map(|(lines, name)| Some((name.to_string(), lines.parse().ok()?)))
        .collect()
}

pub(super) fn check(sources: &[Source], kind: Kind) -> Vec<String> {
    compare(
        &too_long(sources, kind),
        &parse(RATCHET, kind),
        kind.limit(),
    )
}

fn compare(
    found: &BTreeMap<String, usize>,
    allowed: &BTreeMap<String, usize>,
    limit: usize,
) -> Vec<String> {
    let longer = found.iter().filter_map(|(name, &lines)| {
        let most = allowed.get(name).copied().unwrap_or(limit);
        (lines > most).then(|| format!("{name}: {lines} lines, at most {most} are allowed"))
    });
    let loose = allowed.iter().filter_map(|(name, &most)| {
        let lines = found.get(name).copied().unwrap_or(0);
        (lines < most)
            .then(|| format!("{name}: shorter than the ratchet says; 'cargo xtask tidy --bless'"))
    });
    longer.chain(loose).collect()
}

/// Writes today's excesses as the ratchet.
pub(super) fn bless(sources: &[Source]) -> Result<()> {
    let mut text = String::new();
    for kind in [Kind::Function, Kind::File] {
        for (name, lines) in too_long(sources, kind) {
            text.push_str(&format!("{lines} {name}\n"));
        }
    }
    std::fs::write(paths::root().join(RATCHET_PATH), text).context(RATCHET_PATH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratchet_only_turns_one_way() {
        let map = |rows: &[(&str, usize)]| rows.iter().map(|(n, l)| (n.to_string(), *l)).collect();
        let allowed = map(&[("a f", 90), ("b g", 80)]);
        assert_eq!(
            compare(&map(&[("a f", 90), ("b g", 80)]), &allowed, 70),
            [""; 0]
        );
        assert_eq!(
            compare(&map(&[("a f", 91), ("b g", 80)]), &allowed, 70).len(),
            1
        );
        assert_eq!(compare(&map(&[("a f", 90)]), &allowed, 70).len(), 1);
        assert_eq!(
            compare(&map(&[("a f", 90), ("b g", 80), ("c h", 71)]), &allowed, 70).len(),
            1
        );
    }

    #[test]
    fn ratchet_rows_of_both_kinds_are_told_apart() {
        let text = "90 crates/a.rs f\n900 crates/a.rs\n";
        assert_eq!(parse(text, Kind::Function)["crates/a.rs f"], 90);
        assert_eq!(parse(text, Kind::File)["crates/a.rs"], 900);
    }
}
