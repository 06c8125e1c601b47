//! What these workloads ask of the kernel.
#![allow(
    unsafe_code,
    reason = "system calls without a safe wrapper in the standard library"
)]

use std::io;
use std::os::fd::{AsRawFd, RawFd};

/// The result of a call that returns -1 on errors.
pub(super) fn checked<T: PartialOrd + Default>(result: T) -> io::Result<T> {
    match result < T::default() {
        true => Err(io::Error::last_os_error()),
        false => Ok(result),
    }
}

/// Pages mapped until dropped.
pub(super) struct Mapping {
    start: *mut u8,
    length: usize,
}

impl Mapping {
    /// Private pages of nothing, or of a file.
    pub(super) fn new(length: usize, file: Option<&impl AsRawFd>) -> io::Result<Self> {
        let (flags, fd) = match file {
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
            Some(file) => (libc::MAP_PRIVATE, file.as_raw_fd()),
        };
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses the place, so nothing of ours is mapped over.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, fd, 0) };
        match start {
            libc::MAP_FAILED => Err(io::Error::last_os_error()),
            start => Ok(Self {
                start: start.cast(),
                length,
            }),
        }
    }

    /// Says that 4 KiB pages are wanted whatever the system's setting is.
    pub(super) fn small_pages(&self) -> io::Result<()> {
        // SAFETY: the range is this mapping.
        let result =
            unsafe { libc::madvise(self.start.cast(), self.length, libc::MADV_NOHUGEPAGE) };
        match checked(result) {
            // A kernel without huge pages has nothing else to offer.
            Err(why) if why.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            other => other.map(drop),
        }
    }

    pub(super) fn read(&self, at: usize) -> u8 {
        assert!(at < self.length);
        // SAFETY: the byte is in the mapping, which is readable until dropped.
        unsafe { self.start.add(at).read_volatile() }
    }

    pub(super) fn write(&mut self, at: usize, value: u8) {
        assert!(at < self.length);
        // SAFETY: the byte is in the mapping, which is writable and only ours.
        unsafe { self.start.add(at).write_volatile(value) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing refers to these pages but this value.
        unsafe { libc::munmap(self.start.cast(), self.length) };
    }
}

/// A child process.
pub(super) struct Process(libc::pid_t);

impl Process {
    /// Starts one that does `act` and ends with what it returns. There is one
    /// thread when this is called.
    pub(super) fn fork(act: impl FnOnce() -> u8) -> io::Result<Self> {
        // SAFETY: no other thread can hold a lock that the child would need.
        match checked(unsafe { libc::fork() })? {
            // SAFETY: ends this process at once, without destructors, which are
            // the parent's matter.
            0 => unsafe { libc::_exit(act().into()) },
            pid => Ok(Self(pid)),
        }
    }

    /// Its exit code.
    pub(super) fn wait(self) -> io::Result<u8> {
        let mut status = 0;
        // SAFETY: `status` is a live int.
        checked(unsafe { libc::waitpid(self.0, &mut status, 0) })?;
        match libc::WIFEXITED(status) {
            true => Ok(libc::WEXITSTATUS(status) as u8),
            false => Err(io::Error::other(format!("status {status:#x}"))),
        }
    }
}

/// Both ends of a pipe, closed when dropped.
pub(super) struct Pipe {
    pub(super) reader: io::PipeReader,
    pub(super) writer: io::PipeWriter,
}

impl Pipe {
    pub(super) fn new() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        Ok(Self { reader, writer })
    }

    /// Makes it hold `bytes`.
    pub(super) fn grow(&self, bytes: i32) -> io::Result<()> {
        let fd: RawFd = self.writer.as_raw_fd();
        // SAFETY: the descriptor is open; F_SETPIPE_SZ takes an int.
        checked(unsafe { libc::fcntl(fd, libc::F_SETPIPE_SZ, bytes) }).map(drop)
    }
}

/// Keeps this process, and those it starts meanwhile, on the CPU it is on: a
/// guest has one. Until dropped.
pub(super) struct OneCpu(libc::cpu_set_t);

impl OneCpu {
    pub(super) fn here() -> io::Result<Self> {
        // SAFETY: a set of CPUs is plain integers, for which zeros are valid.
        let mut before: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        let size = size_of::<libc::cpu_set_t>();
        // SAFETY: `before` has the size that is passed; 0 is this thread.
        checked(unsafe { libc::sched_getaffinity(0, size, &mut before) })?;
        // SAFETY: takes nothing.
        let cpu = checked(unsafe { libc::sched_getcpu() })?;
        // SAFETY: as above.
        let mut only: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: sets a bit of a live set; CPU_SET checks that it is in it.
        unsafe { libc::CPU_SET(cpu as usize, &mut only) };
        // SAFETY: `only` has the size that is passed.
        checked(unsafe { libc::sched_setaffinity(0, size, &only) })?;
        Ok(Self(before))
    }
}

impl Drop for OneCpu {
    fn drop(&mut self) {
        // SAFETY: the set has the size that is passed. That it fails means that
        // its CPUs are gone, and the process stays where it is.
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &self.0) };
    }
}
