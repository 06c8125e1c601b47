//! Standard input and output as a console.

use super::feed::Feed;
use super::stream::StreamReader;
use super::terminal::RawTerminal;
use crate::outcome::{Error, Result};
use std::fs::File;
use std::os::fd::BorrowedFd;
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
    pub fn start(feed: Arc<Feed>) -> Result<Self> {
        let stdin = duplicate(&std::io::stdin(), "standard input")?;
        let terminal = RawTerminal::enter(duplicate(&std::io::stdin(), "standard input")?);
        Ok(Self {
            _thread: StreamReader::of_pipe(stdin, feed)?,
            _terminal: terminal,
        })
    }

    /// Ends the thread and restores the terminal.
    pub fn stop(self) {
        drop(self);
    }
}
