//! The thread that serves devices with deadlines.

use devices::timed::{Timed, Waker};
use devices::{Clock, SystemClock};
use std::sync::Arc;

/// Runs until the waker stops. Sleeps while no device has a deadline.
pub fn serve(devices: &[Arc<dyn Timed>], clock: &SystemClock, waker: &Waker) {
    loop {
        let next = devices.iter().filter_map(|d| d.run_due()).min();
        let wait = next.map(|at| at.saturating_sub(clock.monotonic_ns()));
        if !waker.wait(wait) {
            return;
        }
    }
}
