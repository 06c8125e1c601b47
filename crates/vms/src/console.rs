//! The user's terminal on a machine's serial console.

use crate::Vm;
use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{IsTerminal, Read, Write, stdin, stdout};
use std::os::unix::net::UnixStream;

/// The key that is not the guest's.
const ESCAPE: u8 = 0x01;

/// Why the console was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// The machine ended.
    Ended,
    /// The user goes, the machine stays.
    Detached,
    /// The user wants it to end.
    Quit,
}

/// Connects standard input and output. Without a terminal, which should be in raw
/// mode, nothing is typed.
///
/// # Errors
/// The console cannot be reached, or output cannot be written.
pub fn attach(vm: &Vm) -> Result<Left> {
    let path = vm.path("console.sock");
    let mut socket = UnixStream::connect(&path)
        .with_context(|| format!("the console of {} ({})", vm.name, path.display()))?;
    let typed = stdin().is_terminal();
    let (mut keys, mut buffer) = (Keys::default(), [0; 4096]);
    loop {
        let input = stdin();
        let mut ends = vec![PollFd::new(&socket, PollFlags::IN)];
        if typed {
            ends.push(PollFd::new(&input, PollFlags::IN));
        }
        match poll(&mut ends, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(why) => return Err(why.into()),
        }
        let ready: Vec<bool> = ends.iter().map(|e| !e.revents().is_empty()).collect();
        drop(ends);
        if ready[0] {
            let count = socket.read(&mut buffer).unwrap_or(0);
            if count == 0 {
                return Ok(Left::Ended);
            }
            stdout().write_all(&buffer[..count])?;
            stdout().flush()?;
        }
        if ready.get(1) == Some(&true) {
            let count = rustix::io::read(stdin(), &mut buffer)?;
            if count == 0 {
                return Ok(Left::Detached);
            }
            let (bytes, left) = keys.take(&buffer[..count]);
            // A machine that ends meanwhile is noticed above.
            let _ = socket.write_all(&bytes);
            if let Some(left) = left {
                return Ok(left);
            }
        }
    }
}

/// What was typed: Ctrl-A and a letter, or for the guest.
#[derive(Default)]
struct Keys {
    escaped: bool,
}

impl Keys {
    fn take(&mut self, typed: &[u8]) -> (Vec<u8>, Option<Left>) {
        let mut bytes = Vec::new();
        for &byte in typed {
            match (std::mem::take(&mut self.escaped), byte) {
                (true, b'x' | b'X') => return (bytes, Some(Left::Quit)),
                (true, b'd' | b'D') => return (bytes, Some(Left::Detached)),
                (false, ESCAPE) => self.escaped = true,
                // Ctrl-A twice is one of the guest's; others lose it.
                (_, byte) => bytes.push(byte),
            }
        }
        (bytes, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_a_leads_out() {
        let mut keys = Keys::default();
        assert_eq!(keys.take(b"ls\x01"), (b"ls".to_vec(), None));
        assert_eq!(keys.take(b"d..."), (vec![], Some(Left::Detached)));
        assert_eq!(keys.take(b"\x01\x01a"), (b"\x01a".to_vec(), None));
        assert_eq!(keys.take(b"a\x01X"), (b"a".to_vec(), Some(Left::Quit)));
    }
}
