//! The part of a vCPU that other threads reach: kicks, events, requests.
//!
//! A *request* is work a vCPU does before it runs guest code again. Whoever
//! needs it done now (law 4 of the design: no vCPU may still write to a page
//! without notice when its bytes are read for translation) waits until the
//! vCPU has done it or does not run; see [`crate::world_stop`] for the rules of
//! waiting.

use crate::ctx::CtxCell;
use crate::profile::Sampler;
use jit::cache::Dropped;
use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::time::Instant;

/// More pages or addresses than this at once become "everything".
const LISTED: usize = 64;

/// What a vCPU is asked to forget.
#[derive(Debug, Default)]
pub struct Forget {
    /// All it derived from guest memory: slots, first-level TLB, jump caches.
    pub everything: bool,
    /// Guest-physical pages whose next write must be noticed.
    pub writes: Vec<u64>,
    /// Translations that were dropped.
    pub code: Vec<Dropped>,
}

impl Forget {
    fn add<T: Copy>(list: &mut Vec<T>, everything: &mut bool, new: &[T]) {
        if list.len() + new.len() > LISTED {
            *everything = true;
        } else if !*everything {
            list.extend_from_slice(new);
        }
    }
    /// Everything.
    pub fn all(&mut self) {
        self.everything = true;
    }
    /// That writes to the page need no notice.
    pub fn write(&mut self, gpa: u64) {
        Self::add(&mut self.writes, &mut self.everything, &[gpa]);
    }
    /// Translations that were dropped.
    pub fn code(&mut self, dropped: &[Dropped]) {
        Self::add(&mut self.code, &mut self.everything, dropped);
    }
}

/// Requests and wake-ups for one vCPU.
pub struct Shared {
    ctx: CtxCell,
    /// Who samples it, with [`crate::Options::profile`].
    sampler: Option<&'static Sampler>,
    /// Something in the interrupt controllers concerns this vCPU.
    event: AtomicBool,
    /// Return to the VMM once.
    kicked: AtomicBool,
    /// Return to the VMM while set.
    immediate: AtomicBool,
    /// What is to be forgotten, and how many times something was added.
    forget: Mutex<(Forget, u64)>,
    /// That count, without the lock.
    asked: AtomicU64,
    /// The count up to which the vCPU has forgotten.
    done: AtomicU64,
    /// The vCPU may use what it derived from guest memory.
    running: AtomicBool,
    /// Guards the sleep of a halted vCPU: a waker sets a flag, then takes the
    /// lock; a sleeper takes the lock, then checks the flags.
    sleep: Mutex<()>,
    wake: Condvar,
}

impl Shared {
    /// For one vCPU's memory.
    pub fn new(ctx: CtxCell, sampler: Option<&'static Sampler>) -> Self {
        Self {
            ctx,
            sampler,
            event: AtomicBool::new(true),
            kicked: AtomicBool::new(false),
            immediate: AtomicBool::new(false),
            forget: Mutex::default(),
            asked: AtomicU64::new(0),
            done: AtomicU64::new(0),
            running: AtomicBool::new(false),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        }
    }
    /// The vCPU's memory.
    pub fn ctx(&self) -> &CtxCell {
        &self.ctx
    }
    /// Who samples it.
    pub(crate) fn sampler(&self) -> Option<&'static Sampler> {
        self.sampler
    }
    fn poke(&self) {
        self.ctx.ask();
        drop(self.sleep.lock());
        self.wake.notify_all();
    }
    /// Tells the vCPU to look at the interrupt controllers.
    pub fn notify_event(&self) {
        self.event.store(true, SeqCst);
        self.poke();
    }
    /// The same by the vCPU's own thread, which is running.
    pub fn note_event(&self) {
        self.event.store(true, SeqCst);
    }
    /// Takes the event flag.
    pub fn take_event(&self) -> bool {
        self.event.load(Relaxed) && self.event.swap(false, SeqCst)
    }
    /// Asks the vCPU to forget what `add` says; the ticket is for
    /// [`Self::settled`].
    pub fn ask(&self, add: impl FnOnce(&mut Forget)) -> u64 {
        let mut forget = self.forget.lock();
        add(&mut forget.0);
        forget.1 += 1;
        let ticket = forget.1;
        self.asked.store(ticket, SeqCst);
        drop(forget);
        self.poke();
        ticket
    }
    /// True if the vCPU has done what the ticket stands for, or does not run
    /// and will do it before it does.
    pub fn settled(&self, ticket: u64) -> bool {
        // `start` stores `running` and then loads `asked`; `ask` stores
        // `asked` before this loads `running`: one of the two is seen.
        self.done.load(SeqCst) >= ticket || !self.is_running()
    }
    /// From now on others wait for this vCPU.
    pub fn start(&self) {
        self.running.store(true, SeqCst);
    }
    /// Nothing derived from guest memory is used until [`Self::start`] and a
    /// look at the requests.
    pub fn stop(&self) {
        self.running.store(false, SeqCst);
    }
    /// True between the two.
    pub fn is_running(&self) -> bool {
        self.running.load(SeqCst)
    }
    /// Something is to be forgotten.
    pub fn is_asked(&self) -> bool {
        self.asked.load(SeqCst) != self.done.load(Relaxed)
    }
    /// Takes the requests; `None` if there are none. The count goes to
    /// [`Self::has_forgotten`] when it is done.
    pub fn take_forget(&self) -> Option<(Forget, u64)> {
        if !self.is_asked() {
            return None;
        }
        let mut forget = self.forget.lock();
        Some((std::mem::take(&mut forget.0), forget.1))
    }
    /// The requests up to `count` are done.
    pub fn has_forgotten(&self, count: u64) {
        self.done.store(count, SeqCst);
    }
    /// True if `run` must return to the VMM now; takes a kick.
    pub fn must_leave(&self) -> bool {
        (self.kicked.load(Relaxed) && self.kicked.swap(false, SeqCst))
            || self.immediate.load(SeqCst)
    }
    /// Arms the poll word again: called with it just cleared, so that a
    /// request made in between is not lost.
    pub fn anything_pending(&self) -> bool {
        self.event.load(SeqCst)
            || self.kicked.load(SeqCst)
            || self.immediate.load(SeqCst)
            || self.is_asked()
    }
    /// Sleeps until a request arrives or `deadline` passes.
    pub fn sleep(&self, deadline: Option<Instant>) {
        let mut guard = self.sleep.lock();
        while !self.anything_pending() {
            match deadline {
                None => self.wake.wait(&mut guard),
                Some(t) => {
                    if self.wake.wait_until(&mut guard, t).timed_out() {
                        return;
                    }
                }
            }
        }
    }
}

impl hv::Kicker for Shared {
    fn kick(&self) {
        self.kicked.store(true, SeqCst);
        self.poke();
    }
    fn set_immediate_exit(&self, on: bool) {
        self.immediate.store(on, SeqCst);
        if on {
            self.poke();
        }
    }
}
