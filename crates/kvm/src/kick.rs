//! Getting a vCPU's thread out of `KVM_RUN`.
//!
//! A kick must not be lost whether the thread is before, inside or after the
//! ioctl. `immediate_exit` covers "before" (the kernel checks it on entry), a
//! signal covers "inside", and the `kicked` flag remembers "after".
#![allow(unsafe_code, reason = "signals")]

use crate::run_page::RunPage;
use hv::{Error, Result};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst};

/// The signal that interrupts `KVM_RUN`.
fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

extern "C" fn nothing(_signal: libc::c_int) {}

/// Installs the empty handler once per process: a signal with a handler makes
/// `KVM_RUN` return `EINTR`, an ignored one does not.
pub(crate) fn install_handler() -> Result<()> {
    static DONE: OnceLock<bool> = OnceLock::new();
    let ok = *DONE.get_or_init(|| {
        // SAFETY: an all-zero `sigaction` is a valid value (no flags, empty
        // mask), and the handler is an async-signal-safe no-op.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
            libc::sigaction(kick_signal(), &action, std::ptr::null_mut()) == 0
        }
    });
    if ok {
        Ok(())
    } else {
        Err(Error::last_os("sigaction"))
    }
}

pub(crate) struct KvmKicker {
    page: RunPage,
    /// A kick that no run has reported yet.
    kicked: AtomicBool,
    /// What `set_immediate_exit` asked for.
    immediate: AtomicBool,
    /// Thread inside (or about to enter) `KVM_RUN`; 0 if none.
    runner: AtomicI32,
}

impl KvmKicker {
    pub(crate) fn new(page: RunPage) -> Self {
        Self {
            page,
            kicked: AtomicBool::new(false),
            immediate: AtomicBool::new(false),
            runner: AtomicI32::new(0),
        }
    }

    pub(crate) fn page(&self) -> &RunPage {
        &self.page
    }

    /// Called by the vCPU's thread before `KVM_RUN`. The order matters: the
    /// thread is published first, so that a kick which comes too late for the
    /// flag finds somebody to signal.
    pub(crate) fn enter(&self) {
        // SAFETY: gettid has no preconditions.
        self.runner.store(unsafe { libc::gettid() }, SeqCst);
        self.page.set_immediate_exit(self.immediate.load(SeqCst));
        if self.kicked.load(SeqCst) {
            self.page.set_immediate_exit(true);
        }
    }

    /// Called after `KVM_RUN`; `interrupted` consumes the kick.
    pub(crate) fn leave(&self, interrupted: bool) {
        self.runner.store(0, SeqCst);
        if interrupted {
            self.kicked.store(false, SeqCst);
        }
    }
}

impl hv::Kicker for KvmKicker {
    fn kick(&self) {
        self.kicked.store(true, SeqCst);
        self.page.set_immediate_exit(true);
        let thread = self.runner.load(SeqCst);
        if thread != 0 {
            // SAFETY: tgkill only names a thread of this process; if it has
            // ended meanwhile the call fails, and a stray signal meets an
            // empty handler.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, kick_signal()) };
        }
    }

    fn set_immediate_exit(&self, on: bool) {
        self.immediate.store(on, SeqCst);
        self.page.set_immediate_exit(on || self.kicked.load(SeqCst));
    }
}
