//! Waiting for vCPUs: acknowledged requests, and the world stopped.
//!
//! A vCPU is *running* from [`Shared::start`] to [`Shared::stop`]; only then
//! does it use TLB entries, memory slots and code addresses. Two rules keep
//! waiting free of deadlock: who waits does not run, and who waits holds no
//! lock that a running vCPU takes (`code`, `chipset`, the sleep locks).

use crate::shared::{Forget, Shared};
use crate::vm::SoftVm;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// Stops and resumes all vCPUs of a VM.
#[derive(Default)]
pub struct WorldStop {
    /// Held while the world is stopped.
    owner: Mutex<()>,
    stopped: AtomicBool,
    /// Guards the wait of vCPUs: `stopped` is cleared under it.
    parking: Mutex<()>,
    resumed: Condvar,
}

/// The world is stopped while this lives.
pub struct Stopped<'a> {
    world: &'a WorldStop,
    _owner: MutexGuard<'a, ()>,
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let _parking = self.world.parking.lock();
        self.world.stopped.store(false, SeqCst);
        self.world.resumed.notify_all();
    }
}

impl WorldStop {
    /// A vCPU begins to run: it waits while the world is stopped.
    pub fn start(&self, vcpu: &Shared) {
        vcpu.start();
        self.park(vcpu);
    }

    /// A running vCPU does not run while the world is stopped.
    pub fn park(&self, vcpu: &Shared) {
        // Who stops the world next may have seen it not running; the look behind its
        // start finds out: `start` stores `running` and this then loads `stopped`,
        // [`SoftVm::stop_world`] the other way round.
        while self.stopped.load(SeqCst) {
            vcpu.stop();
            let mut parking = self.parking.lock();
            while self.stopped.load(SeqCst) {
                self.resumed.wait(&mut parking);
            }
            drop(parking);
            vcpu.start();
        }
    }
}

impl SoftVm {
    /// The other vCPUs, `me` left out (`usize::MAX`: all).
    fn others(&self, me: usize) -> Vec<Arc<Shared>> {
        let vcpus = self.vcpus.read();
        let others = vcpus.iter().enumerate().filter(|(i, _)| *i != me);
        others.map(|(_, v)| v.clone()).collect()
    }

    /// Asks the vCPUs except `me` without waiting.
    pub fn ask_others(&self, me: usize, add: impl Fn(&mut Forget)) {
        for v in self.others(me) {
            v.ask(&add);
        }
    }

    /// Asks the vCPUs except `me` and waits until each has forgotten or does
    /// not run. The caller does not run either.
    pub fn ask_and_wait(&self, me: usize, add: impl Fn(&mut Forget)) {
        let others = self.others(me);
        let tickets: Vec<u64> = others.iter().map(|v| v.ask(&add)).collect();
        for (v, ticket) in others.iter().zip(tickets) {
            wait_until(|| v.settled(ticket));
        }
    }

    /// Stops all vCPUs except `me`, the caller's, which does not run; they
    /// forget everything before they go on.
    pub fn stop_world(&self, me: usize) -> Stopped<'_> {
        let owner = self.world_stop.owner.lock();
        self.world_stop.stopped.store(true, SeqCst);
        let others = self.others(me);
        for v in &others {
            v.ask(Forget::all);
        }
        for v in &others {
            wait_until(|| !v.is_running());
        }
        Stopped {
            world: &self.world_stop,
            _owner: owner,
        }
    }
}

/// Spins a little, then lets other threads have the CPU: vCPUs may outnumber
/// host CPUs.
fn wait_until(mut done: impl FnMut() -> bool) {
    for _ in 0..200 {
        if done() {
            return;
        }
        std::hint::spin_loop();
    }
    while !done() {
        std::thread::yield_now();
    }
}
