//! The processors of a running board: a thread each, more while it runs, and
//! those that the guest let go of.

use crate::board::Processor;
use crate::control::{Control, Ending};
use crate::outcome::{Error, Result};
use crate::saved;
use crate::vcpu_loop::Context;
use hv::Kicker;
use hv::abi::KVM_MP_STATE_UNINITIALIZED;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, Scope};

/// All processors, from the board's start to its end.
#[derive(Default)]
pub struct Crew {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// To be started.
    waiting: Vec<Processor>,
    running: BTreeMap<u32, Running>,
    /// Unplugged: they wait to be started by another processor.
    parked: BTreeMap<u32, Processor>,
    /// They left when the machine stopped.
    stopped: Vec<Processor>,
    /// All have stopped; none starts any more.
    over: bool,
}

struct Running {
    /// It was unplugged and is to leave.
    leave: Arc<AtomicBool>,
    kicker: Arc<dyn Kicker>,
}

impl Crew {
    /// Those that are there from the start.
    pub fn new(processors: Vec<Processor>) -> Self {
        let state = State {
            waiting: processors,
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// What makes those leave the guest that have not started yet.
    pub fn kickers(&self) -> Vec<(u32, Arc<dyn Kicker>)> {
        let state = self.state.lock();
        let waiting = state.waiting.iter();
        waiting.map(|p| (p.number, p.vcpu.kicker())).collect()
    }

    /// Brings back a processor that was unplugged; false if it has never been
    /// there: then [`Self::add`] one.
    pub fn bring_back(&self, number: u32, control: &Control) -> bool {
        let mut state = self.state.lock();
        if let Some(running) = state.running.get(&number) {
            // It has not left yet.
            running.leave.store(false, Ordering::Release);
            return true;
        }
        let parked = state.parked.remove(&number);
        let found = parked.is_some();
        if let Some(processor) = &parked {
            control.add_kicker(number, processor.vcpu.kicker());
        }
        state.waiting.extend(parked);
        self.changed.notify_all();
        found
    }

    /// Starts one more.
    pub fn add(&self, processor: Processor) {
        let mut state = self.state.lock();
        if !state.over {
            state.waiting.push(processor);
            self.changed.notify_all();
        }
    }

    /// Makes a processor leave the guest for good.
    pub fn unplug(&self, number: u32) {
        let state = self.state.lock();
        if let Some(running) = state.running.get(&number) {
            running.leave.store(true, Ordering::Release);
            running.kicker.kick();
        }
    }

    /// Runs all until they have stopped; returns them by number.
    pub fn run(&self, context: &Context<'_>) -> Vec<Processor> {
        let panicked = std::thread::scope(|scope| {
            let mut threads = Vec::new();
            while let Some((processor, leave)) = self.next() {
                threads.extend(self.start(scope, context, processor, leave));
            }
            let ends = threads.into_iter().filter_map(|t| t.join().err());
            ends.last()
        });
        if let Some(panic) = panicked {
            std::panic::resume_unwind(panic);
        }
        let mut stopped = std::mem::take(&mut self.state.lock().stopped);
        stopped.sort_by_key(|p| p.number);
        stopped
    }

    /// The next to be started; `None` once all have stopped.
    fn next(&self) -> Option<(Processor, Arc<AtomicBool>)> {
        let mut state = self.state.lock();
        loop {
            if let Some(processor) = state.waiting.pop() {
                let leave = Arc::<AtomicBool>::default();
                let running = Running {
                    leave: leave.clone(),
                    kicker: processor.vcpu.kicker(),
                };
                state.running.insert(processor.number, running);
                return Some((processor, leave));
            }
            if state.running.is_empty() {
                state.over = true;
                return None;
            }
            self.changed.wait(&mut state);
        }
    }

    /// Starts a processor's thread. Thread names are what `top -H` shows.
    fn start<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        context: &'scope Context<'_>,
        processor: Processor,
        leave: Arc<AtomicBool>,
    ) -> Option<std::thread::ScopedJoinHandle<'scope, ()>> {
        let number = processor.number;
        let builder = Builder::new().name(format!("vcpu{number}"));
        let spawned = builder.spawn_scoped(scope, move || {
            let _gone = Gone(self, number);
            self.serve(context, processor, &leave);
        });
        let failed = |source| {
            drop(Gone(self, number));
            let what = "starting a thread";
            let error = Error::Host { what, source };
            context.control.request(Ending::Failed(error));
        };
        spawned.map_err(failed).ok()
    }

    fn serve(&self, context: &Context<'_>, mut processor: Processor, leave: &AtomicBool) {
        loop {
            context.run(processor.number, &mut *processor.vcpu, leave);
            let left = leave.load(Ordering::Acquire);
            if left && let Err(error) = power_down(&mut processor) {
                context.control.request(Ending::Failed(error));
            }
            let mut state = self.state.lock();
            if !left {
                return state.stopped.push(processor);
            }
            if leave.load(Ordering::Acquire) {
                state.running.remove(&processor.number);
                context.control.remove_kicker(processor.number);
                state.parked.insert(processor.number, processor);
                return;
            }
        }
    }
}

/// The state after power-up: it waits until another processor starts it, which
/// puts its registers to where they belong.
fn power_down(processor: &mut Processor) -> Result<()> {
    saved::settle(&mut *processor.vcpu)?;
    processor.vcpu.set_mp_state(KVM_MP_STATE_UNINITIALIZED)?;
    Ok(())
}

/// A thread has ended, or could not begin.
struct Gone<'a>(&'a Crew, u32);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        // One that was parked may be running again already.
        if !state.parked.contains_key(&self.1) {
            state.running.remove(&self.1);
        }
        self.0.changed.notify_all();
    }
}
