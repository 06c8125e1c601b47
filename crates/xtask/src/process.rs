//! Child processes: followed line by line, or measured.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

/// Tests that passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Passed.
    pub(crate) passed: u64,
    /// Failed.
    pub(crate) failed: u64,
}

impl Counts {
    /// One check.
    pub(crate) fn one(good: bool) -> Self {
        Self {
            passed: u64::from(good),
            failed: u64::from(!good),
        }
    }
    /// Adds `other`.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Runs `command`, passing its output on, and adds up the summaries of test
/// runners in it. A command that fails without a failed test counts as one.
pub(crate) fn tested(command: &mut Command) -> Result<Counts> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("{}", command.get_program().display()))?;
    let (send, lines) = mpsc::channel();
    follow(child.stdout.take(), send.clone());
    follow(child.stderr.take(), send);
    let mut counts = Counts::default();
    for line in lines {
        counts.add(summary(&line));
        println!("{line}");
    }
    if !child.wait()?.success() && counts.failed == 0 {
        counts.failed = 1;
    }
    Ok(counts)
}

/// What `command` prints; an error if it fails.
pub(crate) fn output_of(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{}", command.get_program().display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(text),
        false => bail!(
            "{} failed: {}{}",
            command.get_program().display(),
            text,
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

fn follow(stream: Option<impl Read + Send + 'static>, lines: mpsc::Sender<String>) {
    let Some(stream) = stream else { return };
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_string();
            if lines.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
}

/// The counts in a runner's closing line: nextest's `Summary`, cargo's
/// `test result:`, a plain `N passed, N failed`, or difftest's
/// `N compared, ... N differ`.
pub(crate) fn summary(line: &str) -> Counts {
    let words: Vec<&str> = line
        .split([' ', ',', ';'])
        .filter(|w| !w.is_empty())
        .collect();
    let plain = words.first().is_some_and(|w| w.parse::<u64>().is_ok());
    let labelled = words.first().is_some_and(|w| w.ends_with(':')) && words.len() <= 7;
    let closing = line.contains("tests run:")
        || line.contains("test run:")
        || line.starts_with("test result:");
    if !(closing || plain || labelled) {
        return Counts::default();
    }
    let count = |what: &str| {
        let at = words.iter().position(|w| *w == what)?;
        words[at.checked_sub(1)?].parse::<u64>().ok()
    };
    if let (Some(compared), Some(differ)) = (count("compared"), count("differ")) {
        return Counts {
            passed: compared.saturating_sub(differ),
            failed: differ,
        };
    }
    match (count("passed"), count("failed")) {
        (Some(passed), Some(failed)) => Counts { passed, failed },
        (Some(passed), None) if closing => Counts { passed, failed: 0 },
        _ => Counts::default(),
    }
}

/// Waits for `child` and returns (exit code or 128 + signal, peak resident set
/// in KiB). The set is the kernel's own account (getrusage(2)).
#[allow(
    unsafe_code,
    reason = "wait4 has no safe wrapper among our dependencies"
)]
pub(crate) fn wait_measured(child: Child) -> Result<(i32, u64)> {
    let mut status = 0;
    // SAFETY: `rusage` is plain integers, for which all zero bytes are valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live locals of the types wait4 writes; the
    // process is our child and nobody else waits for it, as we own `child`.
    let pid = unsafe { libc::wait4(child.id().cast_signed(), &mut status, 0, &mut usage) };
    if pid < 0 {
        return Err(std::io::Error::last_os_error()).context("wait4");
    }
    let code = match libc::WIFSIGNALED(status) {
        true => 128 + libc::WTERMSIG(status),
        false => libc::WEXITSTATUS(status),
    };
    Ok((code, u64::try_from(usage.ru_maxrss).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_of_runners_are_counted() {
        let cases = [
            (
                "     Summary [   1.2s] 12 tests run: 10 passed (1 slow), 2 failed, 3 skipped",
                10,
                2,
            ),
            (
                "     Summary [   1.2s] 12 tests run: 12 passed, 0 skipped",
                12,
                0,
            ),
            (
                "     Summary [   0.1s] 1 test run: 1 passed, 0 skipped",
                1,
                0,
            ),
            (
                "test result: ok. 11 passed; 0 failed; 0 ignored; 0 measured",
                11,
                0,
            ),
            ("test result: FAILED. 3 passed; 4 failed; 0 ignored", 3, 4),
            ("120 passed, 1 failed", 120, 1),
            (
                "5000 compared, 12 faults (3 #UD), 2 differ, 0 codes without a case",
                4998,
                2,
            ),
            ("conformance: 5 passed, 0 failed, 2 skipped", 5, 0),
            ("the boat passed, all failed to see", 0, 0),
            ("running 3 tests", 0, 0),
        ];
        for (line, passed, failed) in cases {
            assert_eq!(summary(line), Counts { passed, failed }, "{line}");
        }
    }

    #[test]
    fn a_command_that_fails_without_tests_is_one_failure() {
        assert_eq!(
            tested(&mut Command::new("false")).unwrap(),
            Counts {
                passed: 0,
                failed: 1
            }
        );
        let mut echo = Command::new("echo");
        let counts = tested(echo.arg("7 passed, 2 failed")).unwrap();
        assert_eq!(
            counts,
            Counts {
                passed: 7,
                failed: 2
            }
        );
    }
}
