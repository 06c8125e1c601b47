//! Every row of `cpu.json` is there, and computes what it says.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_cpubench");

#[derive(Deserialize)]
struct Config {
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    name: String,
    kind: String,
    /// Count and checksum; programs have none.
    #[serde(default)]
    smoke: (u64, String),
}

/// All but real programs.
fn rows() -> Vec<Row> {
    let config: Config = serde_json::from_str(include_str!("../cpu.json")).unwrap();
    let rows = config.rows.into_iter();
    rows.filter(|r| r.kind != "program").collect()
}

/// What the program answers to `lines`.
fn said(lines: &str) -> String {
    let folder = env!("CARGO_TARGET_TMPDIR");
    let mut child = Command::new(PROGRAM)
        .args(["serve", folder])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(lines.as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_file_and_the_program_have_the_same_rows() {
    let output = Command::new(PROGRAM).arg("list").output().unwrap();
    let list = String::from_utf8(output.stdout).unwrap();
    let in_program: Vec<String> = list.lines().map(str::to_string).collect();
    let in_file: Vec<String> = rows()
        .iter()
        .map(|r| format!("{} {}", r.kind, r.name))
        .collect();
    assert_eq!(in_program, in_file);
}

/// Twice in one process: a row must not depend on what ran before.
#[test]
fn each_row_computes_what_the_file_says() {
    let rows = rows();
    let order = rows.iter().chain(rows.iter().rev());
    let lines: String = order
        .map(|r| format!("run {} {}\n", r.name, r.smoke.0))
        .collect();
    let said = said(&lines);
    let mut answers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in said.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["result", name, _, checksum] => answers.entry(name).or_default().push(checksum),
            // The host lacks the instructions: there is nothing to compare.
            ["absent", name, feature] => {
                assert!(
                    ["avx2", "avx512f", "aes", "sha_ni"].contains(feature),
                    "{line}"
                );
                answers.entry(name).or_default().push("absent");
            }
            ["done"] | ["cpubench", "ready"] => {}
            _ => panic!("{line}"),
        }
    }
    for Row { name, smoke, .. } in &rows {
        let given = answers.get(name.as_str()).cloned().unwrap_or_default();
        let right = |answer: &&str| *answer == smoke.1 || *answer == "absent";
        assert!(
            given.len() == 2 && given.iter().all(right),
            "{name}: {given:?}"
        );
    }
}

#[test]
fn a_programs_output_is_its_checksum() {
    let said = said(
        "program a echo 'one  two'\nprogram b echo 'one  two'\nprogram c echo 'one two'\n\
         program d echo no such luck >&2; exit 3\n",
    );
    let checksum = |name: &str| {
        let line = said
            .lines()
            .find(|l| l.starts_with(&format!("result {name} ")));
        line.and_then(|l| l.split(' ').nth(3))
            .unwrap_or_else(|| panic!("{said}"))
    };
    assert_eq!(checksum("a"), checksum("b"));
    assert_ne!(checksum("a"), checksum("c"));
    assert!(
        said.contains("failed d exit status: 3: no such luck"),
        "{said}"
    );
}

#[test]
fn what_is_not_understood_is_said() {
    let said = said("run nothing 1\nrun sieve many\njump\n");
    assert!(
        said.contains("failed nothing there is no such row"),
        "{said}"
    );
    assert!(said.contains("failed sieve 'many' is no count"), "{said}");
    assert!(said.contains("failed line unknown: jump"), "{said}");
}
