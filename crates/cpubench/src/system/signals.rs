//! System calls and signals.
#![allow(
    unsafe_code,
    reason = "system calls without a safe wrapper in the standard library"
)]

use super::os::checked;
use crate::row::{Outcome, attempt, mix, timed};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// `getppid`, of which neither the C library nor the kernel's vDSO knows a
/// shorter way. (`man 2 getpid`)
pub(super) fn system_call(count: u64) -> io::Result<Outcome> {
    timed(|| {
        // SAFETY: takes nothing and cannot fail.
        let parent = || unsafe { libc::getppid() };
        let first = parent();
        let same = (0..count).filter(|_| parent() == first).count();
        mix(0, same as u64)
    })
}

static CAUGHT: AtomicU64 = AtomicU64::new(0);

extern "C" fn catch(number: libc::c_int) {
    CAUGHT.fetch_add(number as u64, Ordering::Relaxed);
}

/// A signal to this thread, its handler and back.
pub(super) fn signal(count: u64) -> io::Result<Outcome> {
    // SAFETY: a sigaction is integers and an optional pointer, for which zeros are
    // valid.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = catch as *const () as usize;
    // SAFETY: the handler is a function of the right type that only adds to an
    // atomic; the old action is not asked for.
    checked(unsafe { libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()) })?;
    let before = CAUGHT.load(Ordering::Relaxed);
    attempt(|| {
        for _ in 0..count {
            // SAFETY: takes a plain integer.
            checked(unsafe { libc::raise(libc::SIGUSR1) })?;
        }
        Ok(mix(0, CAUGHT.load(Ordering::Relaxed) - before))
    })
}
