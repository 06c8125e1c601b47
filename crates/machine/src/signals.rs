//! SIGINT, SIGTERM and SIGHUP end the machine in an orderly way.
#![allow(unsafe_code, reason = "signal masks and signalfd")]

use crate::control::Control;
use crate::outcome::{Error, Outcome, Result};
use crate::stop_pipe::StopPipe;
use std::fs::File;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;
use std::thread::JoinHandle;

const ENDING: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
const SIGINFO_SIZE: usize = size_of::<libc::signalfd_siginfo>();

/// While it lives the signals are blocked in the calling thread and in every
/// thread started afterwards, and a thread turns them into an outcome.
pub struct SignalGuard {
    old_mask: libc::sigset_t,
    stop: Arc<StopPipe>,
    thread: Option<JoinHandle<()>>,
}

impl SignalGuard {
    /// Call it on the thread that runs the machine, before it starts others.
    pub fn new(control: Arc<Control>) -> Result<Self> {
        let set = ending_set();
        let mut old_mask = MaybeUninit::uninit();
        // SAFETY: `set` is initialised, `old_mask` is written on success, and
        // the arguments are valid, so the call succeeds.
        let old_mask = unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, old_mask.as_mut_ptr());
            old_mask.assume_init()
        };
        let mut guard = Self {
            old_mask,
            stop: Arc::new(StopPipe::new()?),
            thread: None,
        };
        // SAFETY: a new descriptor for an initialised set.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC) };
        if fd < 0 {
            return Err(host("signalfd"));
        }
        // SAFETY: the descriptor is new and belongs to nobody else.
        let file = unsafe { File::from_raw_fd(fd) };
        let stop = guard.stop.clone();
        let thread = std::thread::Builder::new().name("signals".into());
        let thread = thread.spawn(move || wait(file, &stop, &control));
        guard.thread = Some(thread.map_err(|_| host("starting a thread"))?);
        Ok(guard)
    }
}

fn host(what: &'static str) -> Error {
    Error::Host {
        what,
        source: std::io::Error::last_os_error(),
    }
}

fn ending_set() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set before sigaddset changes it.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in ENDING {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

fn wait(mut file: File, stop: &StopPipe, control: &Control) {
    while stop.wait_readable(file.as_raw_fd()) {
        let mut info = [0u8; SIGINFO_SIZE];
        if file.read_exact(&mut info).is_err() {
            return;
        }
        // `ssi_signo` is the structure's first field (signalfd(2)).
        let [a, b, c, d, ..] = info;
        control.end(Outcome::Signal(i32::from_ne_bytes([a, b, c, d])));
    }
}

impl Drop for SignalGuard {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // SAFETY: the mask is the one the constructor got.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.old_mask, std::ptr::null_mut());
        }
    }
}
