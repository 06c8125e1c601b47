//! Samples of one vCPU's thread.
#![allow(unsafe_code, reason = "a signal handler and its timer")]

use super::INTERVAL_NS;
use crate::ctx::Ctx;
use std::cell::Cell;
use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Samples that are kept until they are counted.
const KEPT: usize = 1 << 14;
/// The place of a sample outside generated code.
const OUTSIDE: u64 = u64::MAX;

thread_local! {
    /// The sampler of the vCPU that the thread runs, or ran last. Without a
    /// destructor and known at once, so that a signal handler may look at it.
    static MINE: Cell<Option<&'static Sampler>> = const { Cell::new(None) };
    static ID: i32 = {
        // SAFETY: no preconditions.
        unsafe { libc::gettid() }
    };
}

/// One sample.
pub(super) struct Sample {
    /// Offset in the code arena; none outside.
    pub(super) offset: Option<usize>,
    /// [`jit::JitCtx::page`].
    pub(super) page: u64,
}

/// What is known of one vCPU. It stays when the vCPU is no more: a signal may come at
/// any time.
pub(crate) struct Sampler {
    /// Where generated code is.
    code: Range<u64>,
    ctx: *const Ctx,
    /// Pairs of what [`Sample`] has; written by the handler alone.
    samples: Box<[[AtomicU64; 2]]>,
    /// How many were written and how many counted, ever.
    written: AtomicUsize,
    counted: AtomicUsize,
}

// SAFETY: `ctx` is looked at by the thread alone that is in the vCPU's generated code.
unsafe impl Send for Sampler {}
// SAFETY: as above; the rest is atomic.
unsafe impl Sync for Sampler {}

/// The thread that runs a vCPU, and what samples it if that could be made.
#[derive(Default)]
pub(crate) struct Sampling(Option<(i32, Option<Timer>)>);

impl Sampling {
    /// This thread runs the vCPU of `sampler` from now on, or one that has none.
    pub(crate) fn begin(&mut self, sampler: Option<&'static Sampler>) {
        MINE.set(sampler);
        if sampler.is_none() {
            return;
        }
        let me = ID.with(|id| *id);
        if self.0.as_ref().is_none_or(|(thread, _)| *thread != me) {
            let timer = Timer::start(me);
            if let Err(e) = &timer {
                log::warn!("profile: no timer for the vCPU's thread: {e}");
            }
            self.0 = Some((me, timer.ok()));
        }
    }
}

impl Sampler {
    /// For the vCPU with memory `ctx`, whose generated code is in `code`.
    pub(crate) fn create(code: Range<u64>, ctx: *const Ctx) -> &'static Self {
        let empty = || [const { AtomicU64::new(0) }; 2];
        Box::leak(Box::new(Self {
            code,
            ctx,
            samples: (0..KEPT).map(|_| empty()).collect(),
            written: AtomicUsize::new(0),
            counted: AtomicUsize::new(0),
        }))
    }

    /// Samples should be counted before there are too many.
    pub(crate) fn is_filling(&self) -> bool {
        let counted = self.counted.load(Ordering::Relaxed);
        self.written.load(Ordering::Relaxed) - counted > KEPT / 2
    }

    /// Hands out the samples that were not yet.
    pub(super) fn drain(&self, mut with: impl FnMut(Sample)) {
        let written = self.written.load(Ordering::Acquire);
        let from = self.counted.swap(written, Ordering::Relaxed);
        for i in from.max(written.saturating_sub(KEPT))..written {
            let [at, page] = &self.samples[i % KEPT];
            let at = at.load(Ordering::Relaxed);
            with(Sample {
                offset: (at != OUTSIDE).then_some(at as usize),
                page: page.load(Ordering::Relaxed),
            });
        }
    }

    /// In a signal handler, which interrupted `pc`.
    fn note(&self, pc: u64) {
        let (mut at, mut page) = (OUTSIDE, 0);
        if self.code.contains(&pc) {
            at = pc - self.code.start;
            // SAFETY: the thread is in the vCPU's generated code, so that its memory
            // is there.
            page = unsafe { (&raw const (*self.ctx).jit.page).read_volatile() };
        }
        let n = self.written.load(Ordering::Relaxed);
        let sample = &self.samples[n % KEPT];
        sample[0].store(at, Ordering::Relaxed);
        sample[1].store(page, Ordering::Relaxed);
        self.written.store(n + 1, Ordering::Release);
    }
}

/// A timer that sends SIGPROF to a thread for the CPU time it uses.
struct Timer(libc::timer_t);

// SAFETY: timers belong to the process.
unsafe impl Send for Timer {}

impl Timer {
    fn start(thread: i32) -> io::Result<Self> {
        install()?;
        // SAFETY: all zero is a valid one of each; the timer is made before it is set.
        unsafe {
            let mut event: libc::sigevent = zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = libc::SIGPROF;
            event.sigev_notify_thread_id = thread;
            let mut timer = MaybeUninit::uninit();
            let clock = libc::CLOCK_THREAD_CPUTIME_ID;
            if libc::timer_create(clock, &raw mut event, timer.as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
            let timer = Self(timer.assume_init());
            let mut times: libc::itimerspec = zeroed();
            times.it_interval.tv_nsec = INTERVAL_NS;
            times.it_value = times.it_interval;
            match libc::timer_settime(timer.0, 0, &raw const times, std::ptr::null_mut()) {
                0 => Ok(timer),
                _ => Err(io::Error::last_os_error()),
            }
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: made by `start`.
        unsafe { libc::timer_delete(self.0) };
    }
}

/// Installs the handler, once for the process.
fn install() -> io::Result<()> {
    static DONE: OnceLock<i32> = OnceLock::new();
    let error = *DONE.get_or_init(|| {
        // SAFETY: all zero is a valid action; the handler has the form that
        // SA_SIGINFO asks for.
        unsafe {
            let mut action: libc::sigaction = zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
            match libc::sigaction(libc::SIGPROF, &raw const action, std::ptr::null_mut()) {
                0 => 0,
                _ => io::Error::last_os_error()
                    .raw_os_error()
                    .unwrap_or(libc::EINVAL),
            }
        }
    });
    match error {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

extern "C" fn on_signal(_: i32, _: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    if let Some(sampler) = MINE.get() {
        // SAFETY: the kernel hands a context to such handlers.
        let pc = unsafe { (*context).uc_mcontext.gregs[libc::REG_RIP as usize] };
        sampler.note(pc.cast_unsigned());
    }
}
