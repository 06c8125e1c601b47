//! A bound on the time a guest may run without an exit.

use crate::Kicker;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Far more than any case needs, even on a nested and emulated processor.
const LIMIT: Duration = Duration::from_secs(20);

/// Kicks a vCPU unless dropped in time.
pub struct Watchdog {
    fired: Arc<AtomicBool>,
    _disarm: Sender<()>,
}

impl Watchdog {
    /// Starts the clock.
    pub fn arm(kicker: Arc<dyn Kicker>) -> Self {
        let (disarm, expired) = channel();
        let fired = Arc::new(AtomicBool::new(false));
        let flag = fired.clone();
        std::thread::spawn(move || {
            if expired.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
                flag.store(true, Ordering::SeqCst);
                kicker.kick();
            }
        });
        Self {
            fired,
            _disarm: disarm,
        }
    }

    /// True once the time is over.
    pub fn fired(&self) -> bool {
        self.fired.load(Ordering::SeqCst)
    }
}
