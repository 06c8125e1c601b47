//! Checks the compiler does not make: the dependency law, lengths, words, names in
//! docs, licences.

mod functions;
mod law;
mod lengths;
mod licences;
mod names;
mod words;

use crate::paths;
use crate::process::Counts;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// A source file: its path from the root, and its text.
pub(crate) struct Source {
    path: String,
    text: String,
}

/// One check: its complaints, one line each.
type Check = (&'static str, fn(&[Source]) -> Vec<String>);

const CHECKS: [Check; 6] = [
    ("dependency law", law::check),
    ("function lengths", |s| {
        lengths::check(s, lengths::Kind::Function)
    }),
    ("file lengths", |s| lengths::check(s, lengths::Kind::File)),
    ("words", words::check),
    ("names of the documents", names::check),
    ("licences", licences::check),
];

/// `cargo xtask tidy [--bless]`.
pub(crate) fn run(arguments: &[String]) -> Result<bool> {
    if arguments.first().is_some_and(|a| a == "--bless") {
        lengths::bless(&sources()?)?;
    }
    let counts = check()?;
    println!("{} passed, {} failed", counts.passed, counts.failed);
    Ok(counts.failed == 0)
}

/// Runs the checks and prints the complaints.
pub(crate) fn check() -> Result<Counts> {
    let sources = sources()?;
    let mut counts = Counts::default();
    for (name, check) in CHECKS {
        let complaints = check(&sources);
        for complaint in &complaints {
            println!("tidy: {name}: {complaint}");
        }
        counts.add(Counts::one(complaints.is_empty()));
    }
    Ok(counts)
}

/// Every `.rs` and `Cargo.toml` under `crates`, sorted.
fn sources() -> Result<Vec<Source>> {
    let root = paths::root();
    let mut files = Vec::new();
    walk(&root.join("crates"), &mut files)?;
    files.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let path = path
            .strip_prefix(root)
            .unwrap_or(&path)
            .to_string_lossy()
            .into_owned();
        Ok(Source { path, text })
    };
    files.into_iter().map(read).collect()
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "rs") || path.ends_with("Cargo.toml") {
            files.push(path);
        }
    }
    Ok(())
}
