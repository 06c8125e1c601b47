//! docs/kvm-names.md says in which file something is done, and what to look for
//! there: both must exist.

use super::Source;
use crate::paths;

const TABLE: &str = "docs/kvm-names.md";

pub(super) fn check(sources: &[Source]) -> Vec<String> {
    match std::fs::read_to_string(paths::root().join(TABLE)) {
        Ok(table) => complaints(&table, sources),
        Err(why) => vec![format!("{TABLE}: {why}")],
    }
}

fn complaints(table: &str, sources: &[Source]) -> Vec<String> {
    let mut all = Vec::new();
    for (number, line) in (1..).zip(table.lines()) {
        let mut place: Option<&Source> = None;
        // Text, name, text, name and so on; a comma or nothing joins a file and what
        // is in it.
        let parts: Vec<&str> = line.split('`').collect();
        for pair in parts.chunks_exact(2) {
            let [text, name] = pair else { continue };
            if name.ends_with(".rs") {
                let path = format!("crates/{name}");
                place = sources.iter().find(|source| source.path == path);
                if place.is_none() {
                    all.push(format!("{TABLE}:{number}: there is no file {name}"));
                }
            } else if !matches!(*text, " " | ", ") {
                place = None;
            } else if let Some(place) = place.filter(|place| !place.text.contains(name)) {
                all.push(format!("{TABLE}:{number}: {} has no {name}", place.path));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_what_is_in_them() {
        let sources = [Source {
            path: "crates/a/src/b.rs".into(),
            text: "fn here() {}".into(),
        }];
        let table =
            "| `x` | `a/src/b.rs` `here` |\n| `y` | `a/src/b.rs` `there`: `z` |\n| `a/c.rs` |";
        assert_eq!(
            complaints(table, &sources),
            [
                "docs/kvm-names.md:2: crates/a/src/b.rs has no there",
                "docs/kvm-names.md:3: there is no file a/c.rs",
            ]
        );
    }
}
