//! Two threads that wake each other, and a timer.
#![allow(
    unsafe_code,
    reason = "futexes and nanosleep have no safe wrapper in the standard library"
)]

use super::os::OneCpu;
use crate::row::{Outcome, attempt, mix, timed};
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

fn futex(word: &AtomicU32, operation: libc::c_int, value: u32) {
    // SAFETY: the word lives until the call returns; without a timeout. That a
    // wait returns early is seen by looking at the word again.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            operation | libc::FUTEX_PRIVATE_FLAG,
            value,
            std::ptr::null::<libc::timespec>(),
        )
    };
}

/// Waits until the word is `wanted`.
fn wait_for(word: &AtomicU32, wanted: u32) {
    loop {
        match word.load(Ordering::Acquire) {
            value if value == wanted => return,
            value => futex(word, libc::FUTEX_WAIT, value),
        }
    }
}

fn set(word: &AtomicU32, value: u32) {
    word.store(value, Ordering::Release);
    futex(word, libc::FUTEX_WAKE, 1);
}

/// One thread makes the word odd, the other even; a count is both.
pub(super) fn futex_wake(count: u64) -> io::Result<Outcome> {
    let _one = OneCpu::here()?;
    let word = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..count as u32 {
                wait_for(&word, 2 * round + 1);
                set(&word, 2 * round + 2);
            }
        });
        timed(|| {
            for round in 0..count as u32 {
                set(&word, 2 * round + 1);
                wait_for(&word, 2 * round + 2);
            }
            mix(0, word.load(Ordering::Relaxed).into())
        })
    })
}

/// Sleeps 50 us; the kernel may add as much again unless told otherwise.
/// (`man 2 PR_SET_TIMERSLACK`)
pub(super) fn timer_wake(count: u64) -> io::Result<Outcome> {
    // SAFETY: takes plain integers and cannot fail for 1 ns.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1u64) };
    let time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 50_000,
    };
    attempt(|| {
        for _ in 0..count {
            // SAFETY: the time is a live timespec; what is left is not asked for.
            let result = unsafe { libc::nanosleep(&time, std::ptr::null_mut()) };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(mix(0, count))
    })
}
