//! A pseudo-terminal as a host end.

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

/// One that a machine has, or will have; clones share it.
#[derive(Clone, Debug)]
pub struct Pty(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    label: String,
    /// Known once it is open.
    name: Mutex<Option<String>>,
}

impl Pty {
    /// That the user calls so.
    pub fn new(label: &str) -> Self {
        Self(Arc::new(Inner {
            label: label.into(),
            name: Mutex::default(),
        }))
    }

    /// Where it is in the file system, once it is open.
    pub fn name(&self) -> Option<String> {
        self.0.name.lock().clone()
    }

    /// Opens it and prints its name, as QEMU does.
    pub(super) fn open(&self) -> io::Result<File> {
        let (file, name) = open()?;
        eprintln!("char device redirected to {name} (label {})", self.0.label);
        *self.0.name.lock() = Some(name);
        Ok(file)
    }
}

/// Opens one, raw; its name, too.
fn open() -> io::Result<(File, String)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let name = name.to_string_lossy().into_owned();
    // Opened and closed once: from then on the master says whether anybody has
    // it open.
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(&*name, flags, Mode::empty())?;
    let mut raw = tcgetattr(&slave)?;
    raw.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &raw)?;
    Ok((File::from(master), name))
}

/// Whether anybody has the other end open.
pub fn is_open(master: &File) -> bool {
    let mut fds = [PollFd::new(master, PollFlags::OUT)];
    let now = Timespec::default();
    let polled = poll(&mut fds, Some(&now));
    polled.is_ok() && !fds[0].revents().contains(PollFlags::HUP)
}

/// Writes while somebody listens; otherwise bytes are dropped, as a serial
/// line's are.
pub struct Sink(pub File);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match is_open(&self.0) {
            true => self.0.write(bytes),
            false => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
