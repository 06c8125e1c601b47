//! SIGINT, SIGTERM and SIGHUP end the machine in an orderly way.
#![allow(unsafe_code, reason = "signal handlers")]

use crate::control::Control;
use crate::outcome::{Error, Outcome, Result};
use crate::stop_pipe::StopPipe;
use std::fs::File;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread::JoinHandle;

const ENDING: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// Where the handler writes; -1 while no machine runs. Handlers are
/// process-wide, so only one machine at a time can have them.
static WRITE_END: AtomicI32 = AtomicI32::new(-1);

/// Writes the signal's number into the pipe. A handler rather than a blocked
/// mask: a mask would have to be in place before any thread of the process
/// started.
extern "C" fn note(signal: libc::c_int) {
    let fd = WRITE_END.load(Ordering::Acquire);
    let byte = signal as u8;
    // SAFETY: write is async-signal-safe and the buffer is one live byte; a
    // stale descriptor number makes it fail, which is ignored. errno is
    // preserved for the interrupted code.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(fd, (&raw const byte).cast(), 1);
        *libc::__errno_location() = errno;
    }
}

/// While it lives the signals become outcomes.
pub struct SignalGuard {
    old: Vec<(libc::c_int, libc::sigaction)>,
    stop: Arc<StopPipe>,
    thread: Option<JoinHandle<()>>,
    _write_end: File,
}

impl SignalGuard {
    /// Installs the handlers. A second machine in the same process gets none.
    pub fn new(control: Arc<Control>) -> Result<Option<Self>> {
        let (read_end, write_end) = pipe()?;
        let fd = write_end.as_raw_fd();
        let claim = WRITE_END.compare_exchange(-1, fd, Ordering::AcqRel, Ordering::Acquire);
        if claim.is_err() {
            return Ok(None);
        }
        let mut guard = Self {
            old: Vec::new(),
            stop: Arc::new(StopPipe::new()?),
            thread: None,
            _write_end: write_end,
        };
        let stop = guard.stop.clone();
        let thread = std::thread::Builder::new().name("signals".into());
        let thread = thread.spawn(move || wait(read_end, &stop, &control));
        guard.thread = Some(thread.map_err(|source| Error::Host {
            what: "starting a thread",
            source,
        })?);
        guard.old = ENDING.iter().filter_map(|&s| install(s)).collect();
        Ok(Some(guard))
    }
}

fn pipe() -> Result<(File, File)> {
    let mut fds = [-1; 2];
    // SAFETY: the pointer is to two descriptors' worth of memory.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } != 0 {
        return Err(Error::Host {
            what: "pipe",
            source: std::io::Error::last_os_error(),
        });
    }
    // SAFETY: both descriptors are new and belong to nobody else.
    Ok(unsafe { (File::from_raw_fd(fds[0]), File::from_raw_fd(fds[1])) })
}

/// Installs the handler unless the signal is ignored (nohup), and returns
/// what was there.
fn install(signal: libc::c_int) -> Option<(libc::c_int, libc::sigaction)> {
    // SAFETY: the structures are zeroed, which is a valid empty sigaction;
    // the handler only does what signal handlers may do.
    unsafe {
        let mut old: libc::sigaction = MaybeUninit::zeroed().assume_init();
        let mut new: libc::sigaction = MaybeUninit::zeroed().assume_init();
        if libc::sigaction(signal, std::ptr::null(), &mut old) != 0
            || old.sa_sigaction == libc::SIG_IGN
        {
            return None;
        }
        new.sa_sigaction = note as *const () as libc::sighandler_t;
        new.sa_flags = libc::SA_RESTART;
        libc::sigemptyset(&mut new.sa_mask);
        (libc::sigaction(signal, &new, std::ptr::null_mut()) == 0).then_some((signal, old))
    }
}

fn wait(mut pipe: File, stop: &StopPipe, control: &Control) {
    while stop.wait_readable(pipe.as_raw_fd()) {
        let mut signal = [0];
        if pipe.read_exact(&mut signal).is_ok() {
            control.end(Outcome::Signal(signal[0].into()));
        }
    }
}

impl Drop for SignalGuard {
    fn drop(&mut self) {
        for (signal, old) in &self.old {
            // SAFETY: `old` is what sigaction returned for this signal.
            unsafe { libc::sigaction(*signal, old, std::ptr::null_mut()) };
        }
        WRITE_END.store(-1, Ordering::Release);
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
