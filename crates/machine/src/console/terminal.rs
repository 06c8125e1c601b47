//! Raw mode of the controlling terminal.
#![allow(unsafe_code, reason = "termios")]

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

/// A terminal in raw mode; dropping it restores what was there.
pub struct RawTerminal {
    /// A descriptor of its own: the reader's may be closed first.
    tty: File,
    saved: libc::termios,
}

impl RawTerminal {
    /// Puts `tty` into raw mode; `None` if it is no terminal or the process is
    /// in the background (touching it would stop the process).
    pub fn enter(tty: File) -> Option<Self> {
        let fd = tty.as_raw_fd();
        let mut saved = MaybeUninit::uninit();
        // SAFETY: tcgetattr writes a termios through a valid pointer, or
        // fails and writes nothing.
        let saved = unsafe {
            if libc::tcgetattr(fd, saved.as_mut_ptr()) != 0 {
                return None;
            }
            saved.assume_init()
        };
        // SAFETY: both calls take and return plain numbers.
        let (owner, ours) = unsafe { (libc::tcgetpgrp(fd), libc::getpgrp()) };
        // A terminal that is not our controlling one has no owner to respect
        // and stops nobody.
        if owner >= 0 && owner != ours {
            return None;
        }
        let mut raw = saved;
        // Input goes to the guest untouched, signals included; output keeps
        // its newline translation for messages of our own.
        raw.c_iflag &= !(libc::IGNBRK
            | libc::BRKINT
            | libc::PARMRK
            | libc::ISTRIP
            | libc::INLCR
            | libc::IGNCR
            | libc::ICRNL
            | libc::IXON);
        raw.c_lflag &= !(libc::ECHO | libc::ECHONL | libc::ICANON | libc::ISIG | libc::IEXTEN);
        raw.c_cflag = raw.c_cflag & !(libc::CSIZE | libc::PARENB) | libc::CS8;
        raw.c_oflag |= libc::OPOST;
        raw.c_cc[libc::VMIN] = 1;
        raw.c_cc[libc::VTIME] = 0;
        // SAFETY: `raw` is an initialised termios.
        let done = unsafe { libc::tcsetattr(fd, libc::TCSANOW, &raw) } == 0;
        done.then_some(Self { tty, saved })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Not TCSADRAIN: a terminal that takes no output must not keep the
        // process from ending.
        // SAFETY: `saved` is what tcgetattr returned for this terminal, whose
        // descriptor `tty` keeps open.
        unsafe { libc::tcsetattr(self.tty.as_raw_fd(), libc::TCSANOW, &self.saved) };
    }
}
