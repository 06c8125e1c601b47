//! The table of results, and where a soak test goes on after an interruption.

use crate::bench::host;
use crate::paths;
use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

const HEAD: &str = "# Soak tests

One row for each finished run, written by `cargo xtask soak`; a `+` after the
commit means that the sources had changes on top of it.

| date | commit | what | result | measured | guest | host |
|---|---|---|---|---|---|---|
";

/// Appends a row for a run that began on `commit`.
pub(super) fn append(
    commit: &str,
    what: &str,
    good: bool,
    measured: &str,
    guest: &str,
) -> Result<()> {
    let path = paths::root().join("docs/soak.md");
    let show = || path.display().to_string();
    let mut file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(show)?;
    let head = match file.metadata().with_context(show)?.len() {
        0 => HEAD,
        _ => "",
    };
    let result = if good { "passed" } else { "FAILED" };
    let (date, host) = (said("date", &["-u", "+%F"]), host());
    let measured = measured.replace(['|', '\n'], " ");
    let row = format!(
        "{head}| {date} | {commit} | {what} | {result} | {measured} | {guest} | {host} |\n"
    );
    file.write_all(row.as_bytes()).with_context(show)
}

/// The sources' commit, with a `+` if they were changed since.
pub(super) fn commit() -> String {
    let commit = said("git", &["rev-parse", "--short=10", "HEAD"]);
    let changes = said(
        "git",
        &["status", "--porcelain", "--", "crates", "Cargo.lock"],
    );
    match (commit.is_empty(), changes.is_empty()) {
        (true, _) => "unknown".into(),
        (false, true) => commit,
        (false, false) => commit + "+",
    }
}

fn said(program: &str, words: &[&str]) -> String {
    let output = Command::new(program)
        .args(words)
        .current_dir(paths::root())
        .output();
    let text = output.map(|o| o.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text).trim().to_string()
}

/// What an interrupted run left.
pub(super) struct Progress(PathBuf);

impl Progress {
    pub(super) fn of(name: &str) -> Result<Self> {
        Ok(Self(paths::target()?.join(format!("soak-{name}.json"))))
    }
    /// What was saved last, if anything.
    pub(super) fn load<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&std::fs::read(&self.0).ok()?).ok()
    }
    pub(super) fn save(&self, state: &impl Serialize) -> Result<()> {
        std::fs::write(&self.0, serde_json::to_vec(state)?).context("soak state")
    }
    pub(super) fn done(&self) -> Result<()> {
        std::fs::remove_file(&self.0).context("soak state")
    }
}
