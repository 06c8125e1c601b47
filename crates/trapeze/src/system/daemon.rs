//! `-daemonize`: the process leaves its terminal and whoever started it, who is
//! told when the machine is set up, or that it is not.

#![allow(unsafe_code, reason = "fork, and descriptors by number")]

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, RawFd};

/// QEMU's.
const UMASK: libc::mode_t = 0o027;

/// Who one is after [`leave`].
pub(super) enum Side {
    /// The process that was started; its exit code.
    Caller(u8),
    /// The one that runs the machine.
    Daemon(Word),
}

/// What the caller waits for. Dropped without being given it means that the
/// machine could not be set up, which the daemon has said by then.
pub(super) struct Word(PipeWriter);

/// Forks, as long as the process has one thread. The daemon leads no session
/// (daemon(7), SysV daemons), so no terminal that it opens becomes its own.
pub(super) fn leave() -> io::Result<Side> {
    let (reader, writer) = io::pipe()?;
    match fork()? {
        0 => drop(reader),
        first => {
            drop(writer);
            return Ok(Side::Caller(answer(reader, first)));
        }
    }
    // SAFETY: takes no memory; a new child leads no process group.
    if unsafe { libc::setsid() } < 0 {
        return Err(io::Error::last_os_error());
    }
    if fork()? != 0 {
        // SAFETY: ends this process, which has nothing to clean up.
        unsafe { libc::_exit(0) };
    }
    be_private();
    Ok(Side::Daemon(Word(writer)))
}

/// What QEMU 10 changes as well, found with strace: what the daemon makes
/// nobody but its group reads, and no terminal stops it.
fn be_private() {
    // SAFETY: sets a number of the process, which has one thread.
    unsafe { libc::umask(UMASK) };
    for signal in [libc::SIGTSTP, libc::SIGTTOU, libc::SIGTTIN] {
        // SAFETY: ignoring a signal runs no handler. It cannot fail for these.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// The number of the new process; 0 in that one.
fn fork() -> io::Result<libc::pid_t> {
    // SAFETY: options are parsed by the process's only thread, so the child
    // finds no lock held.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(pid),
    }
}

/// Waits for the word; 1 if it cannot come any more.
fn answer(mut reader: PipeReader, first: libc::pid_t) -> u8 {
    // SAFETY: a null pointer for a status nobody asks for is allowed; the
    // process is our child.
    unsafe { libc::waitpid(first, std::ptr::null_mut(), 0) };
    let mut word = [0];
    u8::from(reader.read_exact(&mut word).is_err())
}

impl Word {
    /// Lets go of the current folder and of the standard streams, what comes on
    /// standard error goes to `log` if there is one, and gives the word. Names
    /// that are used afterwards must be absolute.
    pub(super) fn give(&self, log: Option<&File>) -> io::Result<()> {
        std::env::set_current_dir("/")?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let error = log.unwrap_or(&null);
        for (stream, file) in [(0, &null), (1, &null), (2, error)] {
            replace(stream, file)?;
        }
        (&self.0).write_all(&[0])
    }
}

/// Makes `stream` another name of `file`.
fn replace(stream: RawFd, file: &File) -> io::Result<()> {
    // SAFETY: the standard streams are used by number only, so nobody owns
    // what is closed here.
    match unsafe { libc::dup2(file.as_raw_fd(), stream) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
