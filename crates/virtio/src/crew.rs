//! Several threads on one queue, so that requests are in flight together.
//!
//! One thread at a time looks after the ring. It serves what it finds itself,
//! which for a fast disk needs no other thread at all. If requests have shown
//! to wait for the host ([`clock`]), it wakes another one to look after the
//! ring first. Requests that copy for long are of use to each other for a few
//! threads or for one, as they say. A long request is work for several
//! ([`share`]).

mod clock;
pub(crate) mod share;

use crate::chain::Chain;
use crate::device::Interrupts;
use crate::doorbell::Doorbell;
use crate::memory::{GuestMemory, WriteHook};
use crate::pace::{MAX_GAP, MAX_HOLD, Pace};
use crate::queue::{ActiveQueue, Broken};
use crate::workers::Workers;
use clock::Clock;
use parking_lot::{Condvar, Mutex, MutexGuard};
use share::Offers;
use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;

/// Most threads of a queue: requests in flight.
const MAX_THREADS: u32 = 32;
/// While so many wait for the host, watching for more takes the time of those who
/// are at it.
const DEEP: u32 = 4;
/// So many requests after a slow one are taken for slow, too.
const SLOW_FOR: u32 = 16;

/// Serves a request; the number of bytes written to guest memory. What is
/// known to wait for the host calls [`Turn::hand_over`] first.
pub(crate) type Act = dyn Fn(Chain<'_>, &Turn<'_>) -> Result<u32, Broken> + Send + Sync;

/// The right to look after the ring, while a request is served.
pub(crate) struct Turn<'a> {
    crew: &'a Arc<Crew>,
    /// It was given away.
    over: Cell<bool>,
    clock: Clock,
}

impl Turn<'_> {
    /// Another thread shall look after the ring from now on.
    pub(crate) fn hand_over(&self) -> Result<(), Broken> {
        self.give(&mut self.crew.state.lock())
    }

    fn give(&self, state: &mut State) -> Result<(), Broken> {
        if !self.over.replace(true) {
            state.busy -= 1;
        }
        self.crew.signal(state)?;
        self.crew.call_another(state);
        Ok(())
    }

    /// Requests like this one copy: so many threads do more of them than one.
    pub(crate) fn copies(&self, threads: usize) {
        self.clock.copies();
        let mut state = self.crew.state.lock();
        state.together = u32::try_from(threads).unwrap_or(MAX_THREADS);
        // A ring that cannot be read is found out by who looks after it.
        let waiting = state.waiting(&self.crew.memory).unwrap_or(0);
        if state.busy < state.together && waiting > 0 {
            self.crew.call_another(&mut state);
        }
    }

    /// Does what the host does for one request at a time. Those that wait for
    /// it sleep here instead of contending for the host's lock.
    pub(crate) fn alone<R>(&self, act: impl FnOnce() -> R) -> R {
        let _alone = self.clock.except(|| self.crew.alone.lock());
        act()
    }
}

/// The threads of a queue.
pub(crate) struct Crew {
    name: &'static str,
    index: u16,
    memory: GuestMemory,
    doorbell: Arc<Doorbell>,
    interrupts: Arc<dyn Interrupts>,
    workers: Arc<Workers>,
    act: Box<Act>,
    state: Mutex<State>,
    called: Condvar,
    /// Somebody who helped is done.
    helped: Condvar,
    /// Held by [`Turn::alone`].
    alone: Mutex<()>,
}

struct State {
    queue: Queue,
    ended: bool,
    /// A thread looks after the ring.
    watched: bool,
    /// Threads, and those of them that wait to be called, were called and have
    /// not woken yet, have not begun yet.
    threads: u32,
    idle: u32,
    called: u32,
    starting: u32,
    /// Requests that are being served, and those of them whose threads have
    /// not handed the ring over: they will look at it when they are done.
    serving: u32,
    busy: u32,
    /// Threads that may be busy: all, until requests say otherwise.
    together: u32,
    /// Requests that will be taken for slow.
    slow: u32,
    /// Work that others may join.
    offers: Offers,
    pace: Pace,
    /// Completions that the driver has not been told of, and since when.
    untold: u32,
    untold_since: Instant,
}

impl State {
    fn new(queue: Queue) -> Self {
        Self {
            queue,
            ended: false,
            watched: false,
            threads: 0,
            idle: 0,
            called: 0,
            starting: 0,
            serving: 0,
            busy: 0,
            together: MAX_THREADS,
            // Nothing is known yet.
            slow: SLOW_FOR,
            offers: Offers::default(),
            pace: Pace::default(),
            untold: 0,
            untold_since: Instant::now(),
        }
    }

    /// Requests in the ring that nobody has taken.
    fn waiting(&self, memory: &GuestMemoryMmap<WriteHook>) -> Result<u16, Broken> {
        let available = self.queue.avail_idx(memory, Ordering::Acquire)?;
        Ok(available.0.wrapping_sub(self.queue.next_avail()))
    }
}

impl Crew {
    /// Serves `queue` with `act` until its doorbell stops.
    pub(crate) fn start(
        name: &'static str,
        queue: ActiveQueue,
        workers: &Arc<Workers>,
        act: Box<Act>,
    ) -> io::Result<()> {
        let crew = Arc::new(Self {
            name,
            index: queue.index,
            memory: queue.memory,
            doorbell: queue.doorbell,
            interrupts: queue.interrupts,
            workers: workers.clone(),
            act,
            state: Mutex::new(State::new(queue.queue)),
            called: Condvar::new(),
            helped: Condvar::new(),
            alone: Mutex::new(()),
        });
        let mut state = crew.state.lock();
        crew.spawn(&mut state)
    }

    fn spawn(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        let crew = self.clone();
        let name = format!("{}-q{}", self.name, self.index);
        let work = move || crew.work();
        self.workers.start(&name, self.doorbell.clone(), work)?;
        state.threads += 1;
        state.starting += 1;
        Ok(())
    }

    /// A thread's life.
    fn work(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.starting -= 1;
        while !state.ended {
            if self.doorbell.is_stopped() {
                self.end(&mut state);
            } else if let Err(Broken(why)) = self.step(&mut state) {
                self.end(&mut state);
                MutexGuard::unlocked(&mut state, || self.interrupts.needs_reset(why));
            }
        }
    }

    fn end(&self, state: &mut State) {
        state.ended = true;
        self.called.notify_all();
    }

    /// Serves a request, or waits for one.
    fn step(self: &Arc<Self>, state: &mut MutexGuard<'_, State>) -> Result<(), Broken> {
        let enough = state.busy >= state.together;
        if !enough && let Some(request) = state.queue.iter(&*self.memory)?.next() {
            return self.serve(state, request);
        }
        if enough || state.watched {
            // Who looks after the ring may be asleep or take its time.
            self.signal(state)?;
            self.follow(state);
            return Ok(());
        }
        self.watch(state)
    }

    fn serve(
        self: &Arc<Self>,
        state: &mut MutexGuard<'_, State>,
        request: DescriptorChain<&GuestMemoryMmap<WriteHook>>,
    ) -> Result<(), Broken> {
        let head = request.head_index();
        let turn = Turn {
            crew: self,
            over: Cell::new(false),
            clock: Clock::start(),
        };
        state.serving += 1;
        state.busy += 1;
        if state.slow > 0 {
            state.slow -= 1;
            turn.give(state)?;
        }
        let begin = Instant::now();
        let served = MutexGuard::unlocked(state, || {
            let chain = Chain::collect(&self.memory, request)?;
            let bytes = chain.readable_len() + chain.writable_len();
            turn.clock.moves(bytes);
            (self.act)(chain, &turn)
        });
        state.serving -= 1;
        state.busy -= u32::from(!turn.over.get());
        let written = served?;
        state.pace.served(begin.elapsed());
        if turn.clock.waited() {
            state.slow = SLOW_FOR;
        }
        self.complete(state, head, written)
    }

    fn complete(&self, state: &mut State, head: u16, written: u32) -> Result<(), Broken> {
        state.queue.add_used(&*self.memory, head, written)?;
        if state.untold == 0 {
            state.untold_since = Instant::now();
        }
        state.untold += 1;
        let full = state.untold >= state.pace.batch();
        if full && state.slow == 0 {
            state.pace.filled();
        }
        match full || state.slow > 0 || state.untold_since.elapsed() > MAX_HOLD {
            true => self.signal(state),
            false => Ok(()),
        }
    }

    /// Tells the driver of what is done, if it wants to know.
    fn signal(&self, state: &mut State) -> Result<(), Broken> {
        if std::mem::take(&mut state.untold) > 0 && state.queue.needs_notification(&*self.memory)? {
            self.interrupts.queue(self.index);
        }
        Ok(())
    }

    /// Has another thread look after the ring: one that is idle, or a new one.
    fn call_another(self: &Arc<Self>, state: &mut State) {
        if state.watched || state.called + state.starting > 0 {
            return;
        }
        if state.idle > 0 {
            state.called += 1;
            self.called.notify_one();
        } else {
            self.spawn_another(state);
        }
    }

    /// Makes another thread, unless there are many.
    fn spawn_another(self: &Arc<Self>, state: &mut State) {
        if state.threads < MAX_THREADS
            && let Err(error) = self.spawn(state)
        {
            // Those that there are will do it.
            log::warn!("{}: another thread: {error}", self.name);
        }
    }

    /// Waits to be called, and helps others meanwhile.
    fn follow(self: &Arc<Self>, state: &mut MutexGuard<'_, State>) {
        state.idle += 1;
        while state.called == 0 && !state.ended {
            if !self.help(state) {
                self.called.wait(state);
            }
        }
        state.called = state.called.saturating_sub(1);
        state.idle -= 1;
    }

    /// Looks after the ring until there is a request or the doorbell stops.
    fn watch(&self, state: &mut MutexGuard<'_, State>) -> Result<(), Broken> {
        let begin = Instant::now();
        state.watched = true;
        let busy = state.slow > 0 && state.serving >= DEEP;
        let found = !busy && self.poll(state, begin)? || self.sleep(state)?;
        state.watched = false;
        if found {
            state.pace.came(begin.elapsed());
        }
        Ok(())
    }

    /// Looks at the ring for a while. What is done is told at the end.
    fn poll(&self, state: &mut MutexGuard<'_, State>, begin: Instant) -> Result<bool, Broken> {
        let (gap, hold) = (begin + MAX_GAP, state.untold_since + MAX_HOLD);
        loop {
            if state.waiting(&self.memory)? > 0 {
                return Ok(true);
            }
            let now = Instant::now();
            if state.untold > 0 && now >= gap.min(hold) {
                let got = state.untold;
                if now >= gap {
                    state.pace.starved(got);
                }
                self.signal(state)?;
            }
            let over = state.untold == 0 && now >= begin + state.pace.watch();
            if over || self.doorbell.is_stopped() {
                return Ok(false);
            }
            MutexGuard::unlocked(state, std::thread::yield_now);
        }
    }

    /// Sleeps until the doorbell rings; false if there is no request.
    fn sleep(&self, state: &mut MutexGuard<'_, State>) -> Result<bool, Broken> {
        let memory = &*self.memory;
        // Something may have come before notifications were on.
        if !state.queue.enable_notification(memory)? {
            MutexGuard::unlocked(state, || self.doorbell.wait());
        }
        state.queue.disable_notification(memory)?;
        Ok(state.waiting(memory)? > 0)
    }
}
