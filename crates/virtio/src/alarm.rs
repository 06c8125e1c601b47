//! Wakes a thread that waits for file descriptors, too.
#![allow(unsafe_code, reason = "eventfd and ppoll")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, RawFd};
use std::time::Instant;

/// An eventfd. What was raised stays so until it is cleared.
#[derive(Debug)]
pub(crate) struct Alarm(File);

impl Alarm {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes plain numbers and returns a new descriptor.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and belongs to nobody else.
        Ok(Self(unsafe { File::from_raw_fd(fd) }))
    }

    /// Ends the present wait or the next one.
    pub(crate) fn raise(&self) {
        // An eventfd takes the value unless it is about to overflow, in which
        // case it is readable already.
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    /// What is raised from now on ends the next wait.
    pub(crate) fn clear(&self) {
        // It cannot be read if nothing was raised.
        let _ = (&self.0).read(&mut [0; 8]);
    }

    /// Waits until it was raised, `other` can be read, or `deadline` has come.
    pub(crate) fn wait(&self, other: Option<BorrowedFd<'_>>, deadline: Option<Instant>) {
        let entry = |fd: RawFd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        // The kernel passes over negative descriptors.
        let other = other.map_or(-1, |fd| fd.as_raw_fd());
        let mut fds = [entry(self.0.as_raw_fd()), entry(other)];
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        let left = left.map(|left| libc::timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        let timeout = left.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: pointer and count describe the array above; the timeout is null
        // or a timespec that outlives the call; there is no signal mask. A signal
        // ends the wait early, which does no harm.
        unsafe { libc::ppoll(fds.as_mut_ptr(), 2, timeout, std::ptr::null()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn each_of_three_ends_a_wait() {
        let alarm = Alarm::new().unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let begin = Instant::now();
        alarm.wait(Some(ours.as_fd()), Some(begin));
        let moment = Duration::from_millis(2);
        alarm.wait(None, Some(Instant::now() + moment));
        assert!(begin.elapsed() >= moment);
        alarm.raise();
        alarm.wait(Some(ours.as_fd()), Some(begin + LONG));
        alarm.clear();
        alarm.clear();
        theirs.write_all(&[1]).unwrap();
        alarm.wait(Some(ours.as_fd()), Some(begin + LONG));
        assert!(begin.elapsed() < LONG);
    }
}
