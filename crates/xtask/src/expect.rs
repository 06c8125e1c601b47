//! A program on a pseudo-terminal, driven by what it prints.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A running program and everything it has printed.
pub(crate) struct Session {
    child: Child,
    terminal: File,
    output: Arc<Output>,
    /// Up to where the output has been matched.
    matched: usize,
}

#[derive(Default)]
struct Output {
    /// Bytes so far, and whether more can come.
    state: Mutex<(Vec<u8>, bool)>,
    changed: Condvar,
}

impl Session {
    /// Starts `command` with a new terminal as its standard streams.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let (master, slave) = pseudo_terminal().context("pseudo-terminal")?;
        own_terminal(command);
        let child = command
            .stdin(slave.try_clone()?)
            .stdout(slave.try_clone()?)
            .stderr(slave)
            .spawn()
            .with_context(|| format!("{}", command.get_program().display()))?;
        // The command holds the slave end; without it the terminal ends with
        // the program.
        command.stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::null());
        command.stderr(std::process::Stdio::null());
        let terminal = File::from(master);
        let output = Arc::new(Output::default());
        collect(terminal.try_clone()?, Arc::clone(&output));
        Ok(Self {
            child,
            terminal,
            output,
            matched: 0,
        })
    }

    /// Waits until `needle` is printed after what was matched before; what
    /// came before it. Time that the program waited for a CPU, because the host
    /// is busy, is not counted.
    pub(crate) fn expect(&mut self, needle: &str, patience: Duration) -> Result<String> {
        let mut deadline = Deadline::new(self.pid(), patience);
        let mut state = self
            .output
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        loop {
            let new = &state.0[self.matched..];
            if let Some(at) = new
                .windows(needle.len())
                .position(|w| w == needle.as_bytes())
            {
                let before = String::from_utf8_lossy(&new[..at]).into_owned();
                self.matched += at + needle.len();
                return Ok(before);
            }
            let left = deadline.left();
            if state.1 || left.is_zero() {
                let why = if state.1 { "it ended" } else { "time is up" };
                let tail =
                    String::from_utf8_lossy(&new[new.len().saturating_sub(1500)..]).into_owned();
                bail!("'{needle}' did not come: {why}; the last it printed:\n{tail}");
            }
            let waited = self.output.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The program's process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills the program (SIGKILL); it may have ended.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill().context("kill")
    }

    /// Types `text`.
    pub(crate) fn send(&mut self, text: &str) -> Result<()> {
        self.terminal.write_all(text.as_bytes()).context("typing")
    }

    /// Everything printed so far.
    pub(crate) fn output(&self) -> String {
        let state = self
            .output
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&state.0).into_owned()
    }

    /// Waits for the program's end: its exit code, none if a signal ended it.
    pub(crate) fn finish(&mut self, patience: Duration) -> Result<Option<i32>> {
        let mut deadline = Deadline::new(self.pid(), patience);
        let mut state = self
            .output
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while !state.1 {
            let left = deadline.left();
            if left.is_zero() {
                bail!("it did not end");
            }
            let waited = self.output.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        Ok(self.child.wait()?.code())
    }
}

/// The end of a wait for a process.
struct Deadline {
    pid: u32,
    at: Instant,
    /// What [`starved`] was at the last look.
    starved: Duration,
}

impl Deadline {
    fn new(pid: u32, patience: Duration) -> Self {
        Self {
            pid,
            at: Instant::now() + patience,
            starved: starved(pid),
        }
    }

    /// Time left; at the end it is put off by what the process missed.
    fn left(&mut self) -> Duration {
        let left = self.at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let before = std::mem::replace(&mut self.starved, starved(self.pid));
            self.at += self.starved.saturating_sub(before);
            return self.at.saturating_duration_since(Instant::now());
        }
        left
    }
}

/// How long the thread of `pid` that has waited longest for a CPU has done so:
/// the second number of its `schedstat` (Linux, Documentation/scheduler/
/// sched-stats.rst), in ns.
fn starved(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let waits = tasks.into_iter().flatten().flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').nth(1)?.parse().ok()
    });
    Duration::from_nanos(waits.max().unwrap_or(0))
}

impl Drop for Session {
    fn drop(&mut self) {
        // Already gone in the good case.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut terminal: File, output: Arc<Output>) {
    std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        // A master whose slave is closed reads EIO.
        while let Ok(n @ 1..) = terminal.read(&mut chunk) {
            let mut state = output.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.0.extend_from_slice(&chunk[..n]);
            output.changed.notify_all();
        }
        output
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .1 = true;
        output.changed.notify_all();
    });
}

/// The program leads a session whose controlling terminal is its standard
/// input, as one started from a shell's terminal sees it.
#[allow(unsafe_code, reason = "runs between fork and exec")]
fn own_terminal(command: &mut Command) {
    let lead = || {
        // SAFETY: both are plain system calls, allowed after fork; standard
        // input is the slave by now.
        match unsafe { libc::setsid() >= 0 && libc::ioctl(0, libc::TIOCSCTTY, 0) == 0 } {
            true => Ok(()),
            false => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: `lead` neither allocates nor locks.
    unsafe { command.pre_exec(lead) };
}

/// Master and slave, 24 lines of 80.
#[allow(
    unsafe_code,
    reason = "openpty has no safe wrapper among our dependencies"
)]
fn pseudo_terminal() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let (mut master, mut slave) = (-1, -1);
    let size = libc::winsize {
        ws_row: 24,
        ws_col: 80,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the first two pointers are to live locals openpty writes, the
    // last to a `winsize` it reads; null is allowed for name and attributes.
    let answer = unsafe {
        libc::openpty(
            &mut master,
            &mut slave,
            std::ptr::null_mut(),
            std::ptr::null(),
            &size,
        )
    };
    if answer < 0 {
        return Err(std::io::Error::last_os_error());
    }
    for fd in [master, slave] {
        // SAFETY: sets a flag of a descriptor we own.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    // SAFETY: openpty returned two new descriptors that nobody else owns.
    Ok(unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn a_conversation_and_an_exit_code() {
        let mut command = Command::new("sh");
        command.args(["-c", "read a; echo got $a; exit 3"]);
        let mut session = Session::start(&mut command).unwrap();
        session.send("word\n").unwrap();
        session.expect("got word", PATIENCE).unwrap();
        assert_eq!(session.finish(PATIENCE).unwrap(), Some(3));
        assert!(session.output().contains("got word"));
    }

    #[test]
    fn a_process_that_does_not_want_a_cpu_gets_no_more_time() {
        let mut session = Session::start(&mut Command::new("cat")).unwrap();
        session.send("here\n").unwrap();
        session.expect("here", PATIENCE).unwrap();
        let short = Duration::from_millis(10);
        assert!(session.expect("there", short).is_err());
        let mut deadline = Deadline::new(session.pid(), Duration::ZERO);
        deadline.starved = Duration::ZERO;
        let missed = starved(session.pid());
        assert!(deadline.left() <= missed);
        assert_eq!(starved(u32::MAX), Duration::ZERO);
    }

    #[test]
    fn what_does_not_come_is_an_error_with_the_output() {
        let mut session = Session::start(Command::new("echo").arg("other")).unwrap();
        let error = session.expect("this", PATIENCE).unwrap_err().to_string();
        assert!(
            error.contains("it ended") && error.contains("other"),
            "{error}"
        );
    }
}
