//! What is printed: tables for people, JSON for programs.

use anyhow::{Context, Result};
use serde_json::Value;
use std::io::{ErrorKind, Write, stdout};

/// Rows, the first of which is the head; the last column is as wide as it is.
pub(super) fn table(rows: &[Vec<String>]) -> Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(String::len).max();
    let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, w)| format!("{cell:<w$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    print(text.as_bytes()).map(drop)
}

pub(super) fn json(value: &Value) -> Result<()> {
    print(format!("{value:#}\n").as_bytes()).map(drop)
}

/// Whether somebody still reads: `head` need not hear all of it.
pub(crate) fn print(bytes: &[u8]) -> Result<bool> {
    let written = stdout().write_all(bytes).and_then(|()| stdout().flush());
    match written {
        Ok(()) => Ok(true),
        Err(why) if why.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(why) => Err(why).context("standard output"),
    }
}
