//! `-help` and `docs/options.md`, both from the table.

use super::table::{OPTIONS, Row, Shape};

fn synopsis(row: &Row) -> String {
    let names = std::iter::once(&row.name).chain(row.aliases);
    let names: Vec<String> = names.map(|n| format!("-{n}")).collect();
    match row.shape {
        Shape::Flag => names.join(" | "),
        Shape::Value(value) => format!("{} {value}", names.join(" | ")),
    }
}

/// What is said of one option.
pub(super) fn of(row: &Row) -> String {
    format!("{}\n        {}\n", synopsis(row), row.help)
}

/// The text of `-help`.
pub(super) fn text(program: &str) -> String {
    let call = match program {
        "trapeze" => "trapeze system",
        name => name,
    };
    let mut text = format!("{}\n\nusage: {call} [options]\n\n", super::version());
    for row in OPTIONS {
        text.push_str(&of(row));
    }
    text
}

/// `docs/options.md`.
#[cfg(test)]
fn markdown() -> String {
    let mut text = String::from(
        "# Options of `trapeze system`\n\n\
         Generated from the option table (`crates/trapeze/src/system/table.rs`); a test\n\
         keeps it current, `BLESS=1 cargo test -p trapeze` rewrites it. Names and meanings\n\
         are QEMU's. What is not listed is refused with an error that names it.\n\n\
         | option | meaning |\n|---|---|\n",
    );
    let cell = |s: &str| s.replace('|', "\\|");
    for row in OPTIONS {
        text.push_str(&format!(
            "| `{}` | {} |\n",
            cell(&synopsis(row)),
            cell(row.help)
        ));
    }
    text.push_str("\n## Items of `-d`\n\n| item | meaning |\n|---|---|\n");
    for item in &super::log_items::ITEMS {
        text.push_str(&format!("| `{}` | {} |\n", item.name, cell(item.help)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_options_document_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/options.md");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, markdown()).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == markdown(),
            "BLESS=1 cargo test -p trapeze rewrites docs/options.md"
        );
    }

    #[test]
    fn no_name_stands_twice_in_the_table() {
        let mut names: Vec<&str> = OPTIONS
            .iter()
            .flat_map(|r| std::iter::once(r.name).chain(r.aliases.iter().copied()))
            .collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
