//! How long a halted vCPU watches for its wake-up before it sleeps.
//!
//! A sleep and a wake-up of the host cost some tens of microseconds, more than
//! many waits of a guest for its disk. As in KVM (halt polling), the watch grows
//! while wake-ups come soon after it ended, and is given up when they take so
//! long that it would have been in vain: an idle guest costs nothing.

use crate::counters::bump;
use crate::shared::Shared;
use crate::vm::SoftVm;
use std::time::{Duration, Instant};

/// Longest watch: what a disk in the host's memory takes for 1 MiB. Twice KVM's
/// `halt_poll_ns`.
const MAX: Duration = Duration::from_micros(400);
/// The first watch after a time without.
const MIN: Duration = Duration::from_micros(10);
/// Looks between offers of the host CPU to another thread.
const LOOKS: u32 = 32;

/// Of one vCPU.
#[derive(Debug, Default)]
pub struct HaltPoll {
    watch: Duration,
}

impl HaltPoll {
    /// Waits until something is asked of the vCPU, which is halted and has told
    /// others that they need not wait for it.
    pub fn wait(&mut self, shared: &Shared, vm: &SoftVm) {
        let counters = &vm.counters;
        let begin = Instant::now();
        if !self.watch.is_zero() {
            bump(&counters.halt_attempted_poll);
            if watch(shared, vm, begin + self.watch) {
                bump(&counters.halt_successful_poll);
                return;
            }
        }
        shared.sleep(None);
        self.slept(begin.elapsed());
    }

    /// The wake-up came `after` the watch began, in a sleep.
    fn slept(&mut self, after: Duration) {
        self.watch = match after <= MAX {
            true => (self.watch * 2).clamp(MIN, MAX),
            false => Duration::ZERO,
        };
    }
}

/// True if something was asked before `end`. What it waits for is a timer most of
/// the time, and the timer's thread would have to wake up first.
fn watch(shared: &Shared, vm: &SoftVm, end: Instant) -> bool {
    while Instant::now() < end {
        vm.fire_due_timers();
        for _ in 0..LOOKS {
            if shared.anything_pending() {
                return true;
            }
            std::hint::spin_loop();
        }
        std::thread::yield_now();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    #[test]
    fn the_watch_grows_while_it_could_help_and_ends_when_it_is_vain() {
        let mut halt = HaltPoll::default();
        for expected in [10, 20, 40, 80, 160, 320, 400, 400] {
            halt.slept(350 * US);
            assert_eq!(halt.watch, expected * US);
        }
        halt.slept(401 * US);
        assert_eq!(halt.watch, Duration::ZERO);
    }
}
