//! Runs apt-get: its progress, its complaint, and an end when nothing comes.

use crate::{Error, Progress, Result};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Nothing will come any more: a network that drops packets would otherwise
/// cost apt's timeout for each file of each source.
const STALL: Duration = Duration::from_secs(30);

/// How a tool ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// It said success.
    pub(crate) good: bool,
    /// Its first error or warning, which names the cause; later ones only sum
    /// up.
    pub(crate) complaint: String,
}

/// Runs a tool, following its progress (`APT::Status-Fd` lines,
/// `dlstatus:item:percent:text`).
pub(crate) fn run(command: Command, program: &'static str, progress: &mut Progress) -> Result<End> {
    run_for(command, program, progress, STALL)
}

fn run_for(
    mut command: Command,
    program: &'static str,
    progress: &mut Progress,
    stall: Duration,
) -> Result<End> {
    let no_program = |source| Error::NoProgram { program, source };
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(no_program)?;
    let complaints = lines_of(child.stderr.take());
    let output = lines_of(child.stdout.take());
    if !follow(&output, progress, stall) {
        return stop(child).map_err(no_program);
    }
    let good = child.wait().map_err(no_program)?.success();
    let mut all = complaints.into_iter();
    let complaint = all.find_map(|l| Some(l.strip_prefix("E: ").or(l.strip_prefix("W: "))?.into()));
    Ok(End {
        good,
        complaint: complaint.unwrap_or_default(),
    })
}

/// Whoever still holds the tool's pipes is not waited for.
fn stop(mut child: Child) -> std::io::Result<End> {
    child.kill()?;
    child.wait()?;
    Ok(End {
        good: false,
        complaint: "the network does not answer".into(),
    })
}

fn lines_of(stream: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (send, lines) = mpsc::channel();
    let Some(stream) = stream else { return lines };
    std::thread::spawn(move || {
        let all = BufReader::new(stream).lines().map_while(|l| l.ok());
        // The receiver is gone after a stall.
        let _ = all.map(|l| send.send(l)).take_while(|r| r.is_ok()).count();
    });
    lines
}

/// Shows progress until the output ends; false if there was none for `stall`.
fn follow(output: &Receiver<String>, progress: &mut Progress, stall: Duration) -> bool {
    let (mut last, mut moved) = (0.0, Instant::now());
    loop {
        let left = stall.saturating_sub(moved.elapsed());
        match output.recv_timeout(left) {
            Ok(line) => {
                if let Some(percent) = percent_of(&line).filter(|p| *p != last) {
                    last = percent;
                    progress.percent(percent as u32);
                    moved = Instant::now();
                }
            }
            Err(RecvTimeoutError::Disconnected) => return true,
            Err(RecvTimeoutError::Timeout) => return false,
        }
    }
}

fn percent_of(line: &str) -> Option<f32> {
    let mut fields = line.strip_prefix("dlstatus:")?.split(':');
    fields.nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, stall: Duration) -> End {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run_for(command, "sh", &mut Progress::silent(), stall).unwrap()
    }

    #[test]
    fn status_lines_are_understood() {
        assert_eq!(
            percent_of("dlstatus:1:42.9:Retrieving file 1 of 1"),
            Some(42.9)
        );
        assert_eq!(percent_of("Get:1 foo"), None);
    }

    #[test]
    fn the_first_complaint_is_kept() {
        let script = "echo dlstatus:1:50:x; echo noise >&2; echo 'W: cause' >&2; echo 'E: sum' >&2; exit 100";
        let end = End {
            good: false,
            complaint: "cause".into(),
        };
        assert_eq!(shell(script, STALL), end);
        let quiet = End {
            good: true,
            complaint: String::new(),
        };
        assert_eq!(shell("true", STALL), quiet);
    }

    #[test]
    fn a_tool_that_gets_nothing_is_stopped() {
        let begin = Instant::now();
        let end = shell(
            "while :; do echo dlstatus:1:7:x; sleep 0.01; done",
            Duration::from_millis(200),
        );
        assert!(!end.good && end.complaint.contains("does not answer"));
        assert!(begin.elapsed() < STALL);
    }
}
