//! What `cargo xtask bench cpu` measures: small workloads, each with a checksum,
//! in one static program that runs on the host and as a guest's first process.
//! It reads what to do from its standard input, one line each, and answers with
//! lines, the last of which is `done`:
//!
//! | line | answer |
//! |---|---|
//! | `run ROW COUNT` | `result ROW NANOSECONDS CHECKSUM`, `absent ROW FEATURE` or `failed ROW WHY` |
//! | `together COPIES ROW COUNT` | the same of so many processes at once, from the first one's start to the last one's end |
//! | `program NAME LINE` | the same of a line of shell, whose checksum is that of what it prints |
//! | `facts` | `fact NAME VALUE` for each |
//! | `quit` | none, not even `done`; the guest powers off |
//!
//! The kernel shows a terminal's lines of up to 4095 bytes. Which rows there are, how often each does its work and what must come out is
//! in `cpu.json`.

mod guest;
mod program;
mod row;
mod serve;
mod system;
mod user;

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
    match words.as_slice() {
        _ if std::process::id() == 1 => guest::main(),
        ["serve", folder] => match serve::serve(folder) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("cpubench: {why}");
                ExitCode::FAILURE
            }
        },
        ["list"] => {
            for row in row::all() {
                println!("{} {}", row.kind.name(), row.name);
            }
            ExitCode::SUCCESS
        }
        // What the row `exec` executes.
        [system::EXECUTED] => ExitCode::from(system::EXECUTED_CODE),
        _ => {
            eprintln!("cpubench serve FOLDER | list");
            ExitCode::FAILURE
        }
    }
}
