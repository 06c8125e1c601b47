//! Standard input and output as a console.

use super::escape::{Action, Escape, HELP};
use super::stream::StreamReader;
use super::terminal::RawTerminal;
use super::{InputQueue, Output};
use crate::control::Control;
use crate::outcome::{Error, Outcome, Result};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

/// A descriptor of its own for standard output.
pub fn stdout_file() -> Result<File> {
    duplicate(&std::io::stdout(), "standard output")
}

fn duplicate(stream: &impl std::os::fd::AsFd, what: &'static str) -> Result<File> {
    let fd: BorrowedFd = stream.as_fd();
    let owned = fd.try_clone_to_owned();
    owned
        .map(File::from)
        .map_err(|source| Error::Host { what, source })
}

/// The thread that reads standard input, and the terminal's raw mode.
pub struct StdinReader {
    _thread: StreamReader,
    /// Dropped last: restores the terminal.
    _terminal: Option<RawTerminal>,
}

impl StdinReader {
    /// Starts reading. End of file ends the reading, not the guest.
    pub fn start(
        input: Arc<InputQueue>,
        output: Arc<Output>,
        control: Arc<Control>,
    ) -> Result<Self> {
        let mut stdin = duplicate(&std::io::stdin(), "standard input")?;
        let terminal = RawTerminal::enter(duplicate(&std::io::stdin(), "standard input")?);
        let thread = StreamReader::start(move |stop| {
            let mut escape = Escape::default();
            let mut buf = [0; 256];
            while stop.wait_readable(stdin.as_raw_fd()) {
                let n = match stdin.read(&mut buf) {
                    Ok(0) => return,
                    Ok(n) => n,
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => continue,
                    Err(_) => return,
                };
                let actions = buf[..n].iter().filter_map(|&byte| escape.take(byte));
                if !perform(actions, &input, &output, &control) {
                    return;
                }
            }
        })?;
        Ok(Self {
            _thread: thread,
            _terminal: terminal,
        })
    }

    /// Ends the thread and restores the terminal.
    pub fn stop(self) {
        drop(self);
    }
}

/// False when the reader should end.
fn perform(
    actions: impl Iterator<Item = Action>,
    input: &InputQueue,
    output: &Output,
    control: &Control,
) -> bool {
    let mut bytes = Vec::new();
    for action in actions {
        match action {
            Action::Byte(byte) => bytes.push(byte),
            Action::Help => output.print(HELP),
            Action::Break => input.send_break(),
            Action::Quit => {
                control.end(Outcome::Quit);
                return false;
            }
        }
    }
    bytes.is_empty() || input.push(&bytes)
}
