//! The program; see the library.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args_os().map(into_text);
    let program = words.next().unwrap_or_default();
    let arguments: Vec<String> = words.collect();
    ExitCode::from(trapeze::dispatch(&program, &arguments))
}

/// Arguments that are not UTF-8 are shown with replacement characters in the
/// error they lead to.
fn into_text(argument: OsString) -> String {
    argument
        .into_string()
        .unwrap_or_else(|bytes| bytes.to_string_lossy().into_owned())
}
