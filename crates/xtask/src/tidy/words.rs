//! What must not stand in the sources.

use super::Source;

/// (text, why not). The rows are split so that this file does not find itself.
const WORDS: [(&str, &str, &str); 8] = [
    ("todo", "!(", "finish it or return an error"),
    ("unimplemented", "!(", "return an error"),
    ("dbg", "!(", "remove it"),
    ("#[ign", "ore", "a test that does not run is no test"),
    ("FIX", "ME", "fix it or file an issue"),
    ("XX", "X", "fix it or file an issue"),
    (
        "SAFETY: parameters are ",
        "valid",
        "name the invariant and who upholds it",
    ),
    ("SAFETY: ", "safe", "name the invariant and who upholds it"),
];

/// Names that say nothing about what is inside.
const MODULES: [&str; 4] = ["util", "utils", "common", "misc"];

pub(super) fn check(sources: &[Source]) -> Vec<String> {
    sources
        .iter()
        .flat_map(|s| complaints(&s.path, &s.text))
        .collect()
}

fn complaints(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let stem = path
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .trim_end_matches(".rs");
    if MODULES.contains(&stem) {
        found.push(format!("{path}: a module's name says what is inside"));
    }
    for (number, line) in text.lines().enumerate() {
        for (left, right, why) in WORDS {
            if line.contains(&format!("{left}{right}")) {
                found.push(format!("{path}:{}: '{left}{right}': {why}", number + 1));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_found() {
        for (left, right, _) in WORDS {
            let text = format!("fn f() {{\n    {left}{right}\n}}\n");
            assert!(
                complaints("a.rs", &text)[0].starts_with("a.rs:2:"),
                "{left}{right}"
            );
        }
        assert_eq!(complaints("crates/x/src/misc.rs", "").len(), 1);
        assert_eq!(complaints("crates/x/src/near.rs", "fn f() {}"), [""; 0]);
    }
}
