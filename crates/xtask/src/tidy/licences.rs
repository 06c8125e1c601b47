//! Licences of everything in the dependency tree, against `deny.toml`.

use super::Source;
use crate::paths::{self, cargo};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::iter::Peekable;

/// What is built for; others' packages are not looked at.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
}

/// Packages whose licence `deny.toml` does not allow.
pub(super) fn check(_: &[Source]) -> Vec<String> {
    complaints().unwrap_or_else(|why| vec![format!("{why:#}")])
}

fn complaints() -> Result<Vec<String>> {
    let rules = paths::root().join("deny.toml");
    let rules = std::fs::read_to_string(&rules).context("deny.toml")?;
    let allowed = allowed(&rules);
    ensure!(!allowed.is_empty(), "deny.toml allows no licence");
    let output = cargo()
        .args(["metadata", "--format-version=1", "--locked"])
        .args(["--filter-platform", PLATFORM])
        .output()
        .context("cargo metadata")?;
    ensure!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let bad = metadata.packages.iter().filter(|p| {
        let license = p.license.as_deref();
        !license.is_some_and(|l| satisfied(l, &allowed))
    });
    let text = |p: &Package| {
        let license = p.license.as_deref().unwrap_or("none");
        format!("{} {}: licence {license}", p.name, p.version)
    };
    Ok(bad.map(text).collect())
}

/// The strings of `allow` in the section `[licenses]`.
fn allowed(rules: &str) -> Vec<&str> {
    let lines = rules.lines().map(str::trim);
    let section = lines.skip_while(|l| *l != "[licenses]").skip(1);
    let section = section.take_while(|l| !l.starts_with('['));
    let list = section
        .skip_while(|l| !l.starts_with("allow"))
        .skip(1)
        .take_while(|l| *l != "]");
    list.filter_map(|l| l.strip_prefix('"')?.split('"').next())
        .collect()
}

/// True if the SPDX expression can be met with allowed licences only. `/` is
/// an old way to write OR. What does not parse is not met.
fn satisfied(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let met = any(&mut words, allowed);
    met == Some(true) && words.next().is_none()
}

fn any<'a>(words: &mut Peekable<impl Iterator<Item = &'a str>>, allowed: &[&str]) -> Option<bool> {
    let mut met = all(words, allowed)?;
    while words.next_if_eq(&"OR").is_some() {
        met |= all(words, allowed)?;
    }
    Some(met)
}

fn all<'a>(words: &mut Peekable<impl Iterator<Item = &'a str>>, allowed: &[&str]) -> Option<bool> {
    let mut met = one(words, allowed)?;
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words, allowed)?;
    }
    Some(met)
}

/// A licence, perhaps with an exception, or an expression in parentheses.
fn one<'a>(words: &mut Peekable<impl Iterator<Item = &'a str>>, allowed: &[&str]) -> Option<bool> {
    let word = words.next()?;
    if word == "(" {
        let mut inner: Vec<&str> = Vec::new();
        let mut depth = 1;
        for word in words.by_ref() {
            depth += i32::from(word == "(") - i32::from(word == ")");
            if depth == 0 {
                return Some(satisfied(&inner.join(" "), allowed));
            }
            inner.push(word);
        }
        return None;
    }
    let Some(_) = words.next_if_eq(&"WITH") else {
        return Some(allowed.contains(&word));
    };
    let exception = words.next()?;
    let name = format!("{word} WITH {exception}");
    // An exception only adds permissions.
    Some(allowed.contains(&name.as_str()) || allowed.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_met_or_not() {
        let allowed = ["MIT", "Apache-2.0", "Zlib"];
        for (expression, met) in [
            ("MIT", true),
            ("GPL-2.0-only", false),
            ("GPL-2.0-only OR MIT", true),
            ("MIT/Apache-2.0", true),
            ("MIT AND GPL-2.0-only", false),
            ("(MIT OR GPL-2.0-only) AND Zlib", true),
            ("(MIT AND GPL-2.0-only) OR (Zlib)", true),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("GPL-2.0-only WITH Classpath-exception-2.0", false),
            ("GPL-2.0-only OR MIT AND Zlib", true),
            ("", false),
            ("MIT OR", false),
            ("(MIT", false),
            ("MIT)", false),
        ] {
            assert_eq!(satisfied(expression, &allowed), met, "{expression}");
        }
    }

    #[test]
    fn the_rules_of_the_section_are_read() {
        let rules = "[bans]\nallow = [\n\"A\",\n]\n[licenses]\nallow = [\n  # why\n  \"MIT\",\n\
            \"Apache-2.0 WITH X\",\n]\n[sources]\n";
        assert_eq!(allowed(rules), ["MIT", "Apache-2.0 WITH X"]);
    }
}
