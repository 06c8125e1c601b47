//! Help, from the tables.

#[cfg(test)]
use super::table::REFUSED;
use super::table::{COMMANDS, Command, Row};
use std::fmt::Write;

/// What there is.
pub(super) fn overview(name: &str) -> String {
    let mut out = format!("usage: {name} COMMAND [OPTIONS]\n\n");
    for c in COMMANDS {
        let _ = writeln!(out, "  {:<10}{}", c.name, c.help);
    }
    let _ = writeln!(
        out,
        "\nFormats: raw, qcow2. '{name} COMMAND --help' lists a command's options."
    );
    out
}

/// A command and its options.
pub(super) fn of(name: &str, command: &Command) -> String {
    let mut out = format!(
        "usage: {name} {} [OPTIONS] {}\n\n{}\n\n",
        command.name, command.operands, command.help
    );
    for row in command.options.iter().filter(|r| !r.help.is_empty()) {
        let _ = writeln!(out, "  {}\n      {}", spelling(row), row.help);
    }
    let refused: Vec<String> = command
        .options
        .iter()
        .filter(|r| r.help.is_empty())
        .map(|r| format!("--{}", r.long))
        .collect();
    if !refused.is_empty() {
        let _ = writeln!(out, "  not supported: {}", refused.join(", "));
    }
    out
}

fn spelling(row: &Row) -> String {
    let value = if row.value.is_empty() { "" } else { " " };
    match row.short {
        ' ' => format!("--{}{value}{}", row.long, row.value),
        short => format!("-{short}, --{}{value}{}", row.long, row.value),
    }
}

/// `docs/img.md`.
#[cfg(test)]
fn document() -> String {
    let mut out = String::from(
        "# trapeze img\n\nThe commands of `qemu-img` for raw and qcow2 images. This file is made \
         from\n`crates/trapeze/src/img/table.rs`; `BLESS=1 cargo test -p trapeze` rewrites it.\n",
    );
    for c in COMMANDS {
        let _ = write!(
            out,
            "\n## {}\n\n`trapeze img {} [OPTIONS] {}`: {}.\n\n| option | what it does |\n|---|---|\n",
            c.name, c.name, c.operands, c.help
        );
        for row in c.options.iter().filter(|r| !r.help.is_empty()) {
            let cell = spelling(row).replace('|', "\\|");
            let _ = writeln!(out, "| `{cell}` | {} |", row.help.replace('|', "\\|"));
        }
        let refused: Vec<String> = c
            .options
            .iter()
            .filter(|r| r.help.is_empty())
            .map(|r| format!("`--{}`", r.long))
            .collect();
        if !refused.is_empty() {
            let _ = writeln!(out, "\nRefused by name: {}.", refused.join(", "));
        }
    }
    let _ = writeln!(out, "\nCommands refused by name: {}.", REFUSED.join(", "));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_the_tables() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/img.md");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(path, document()).expect("docs is writable");
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(written, document(), "BLESS=1 cargo test -p trapeze");
    }
}
