//! Real programs, started by a shell.

use crate::row::{Outcome, attempt, mix};
use std::fs::{self, File};
use std::io::{self, Read};
use std::process::{Command, Stdio};

/// Where a program starts: empty.
const FOLDER: &str = "work";
/// What it complains about goes here.
const ERRORS: &str = "errors";

/// Runs a line of shell; the checksum is that of what it prints.
pub(crate) fn run(line: &str) -> io::Result<Outcome> {
    if fs::exists(FOLDER)? {
        fs::remove_dir_all(FOLDER)?;
    }
    fs::create_dir(FOLDER)?;
    let mut printed = Vec::new();
    let mut outcome = attempt(|| {
        let mut child = Command::new("/bin/sh")
            .args(["-c", line])
            .current_dir(FOLDER)
            .env_clear()
            .envs([("PATH", "/usr/bin:/bin"), ("LC_ALL", "C"), ("HOME", "/tmp")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(ERRORS)?)
            .spawn()?;
        if let Some(mut output) = child.stdout.take() {
            output.read_to_end(&mut printed)?;
        }
        match child.wait()? {
            status if status.success() => Ok(0),
            status => Err(io::Error::other(format!("{status}: {}", complaint()))),
        }
    })?;
    outcome.checksum = printed.iter().fold(0, |sum, &b| mix(sum, b.into()));
    Ok(outcome)
}

/// The last line of the errors.
fn complaint() -> String {
    let text = fs::read_to_string(ERRORS).unwrap_or_default();
    text.lines().last().unwrap_or_default().to_string()
}
