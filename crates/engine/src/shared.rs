//! The part of a vCPU that other threads reach: kicks, events, requests.

use crate::ctx::CtxCell;
use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::time::Instant;

/// Requests and wake-ups for one vCPU.
pub struct Shared {
    ctx: CtxCell,
    /// Something in the interrupt controllers concerns this vCPU.
    event: AtomicBool,
    /// Return to the VMM once.
    kicked: AtomicBool,
    /// Return to the VMM while set.
    immediate: AtomicBool,
    /// Drop write entries and code-dependent state (dirty log, DMA).
    flush: AtomicBool,
    /// The vCPU runs translated code or still uses what it left behind.
    inside: AtomicBool,
    /// Guards the sleep of a halted vCPU: a waker sets a flag, then takes the
    /// lock; a sleeper takes the lock, then checks the flags.
    sleep: Mutex<()>,
    wake: Condvar,
}

impl Shared {
    /// For one vCPU's memory.
    pub fn new(ctx: CtxCell) -> Self {
        Self {
            ctx,
            event: AtomicBool::new(true),
            kicked: AtomicBool::new(false),
            immediate: AtomicBool::new(false),
            flush: AtomicBool::new(false),
            inside: AtomicBool::new(false),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        }
    }
    /// The vCPU's memory.
    pub fn ctx(&self) -> &CtxCell {
        &self.ctx
    }
    fn poke(&self) {
        self.ctx.poll().store(1, SeqCst);
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
    /// Asks the vCPU to drop its first-level TLB.
    pub fn request_flush(&self) {
        self.flush.store(true, SeqCst);
        self.poke();
    }
    /// Enters or leaves translated code.
    pub fn set_inside(&self, inside: bool) {
        self.inside.store(inside, SeqCst);
    }
    /// True while translations must stay for this vCPU.
    pub fn is_inside(&self) -> bool {
        self.inside.load(SeqCst)
    }
    /// Takes the flush request.
    pub fn take_flush(&self) -> bool {
        self.flush.load(Relaxed) && self.flush.swap(false, SeqCst)
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
            || self.flush.load(SeqCst)
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
