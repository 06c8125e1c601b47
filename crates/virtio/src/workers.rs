//! The threads of a device.

use crate::doorbell::Doorbell;
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

/// Threads that run between activation and reset. Dropping stops them.
#[derive(Debug, Default)]
pub struct Workers(Mutex<Crowd>);

#[derive(Debug, Default)]
struct Crowd {
    threads: Vec<(Arc<Doorbell>, JoinHandle<()>)>,
    /// They are being stopped; no others may start.
    stopping: bool,
}

impl Workers {
    /// Starts a thread that ends when `doorbell` is stopped. Threads may start
    /// others.
    ///
    /// # Errors
    /// The host's, or all are being stopped.
    pub fn start(
        &self,
        name: &str,
        doorbell: Arc<Doorbell>,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let mut crowd = self.0.lock();
        if crowd.stopping {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let thread = Builder::new().name(name.to_string()).spawn(work)?;
        crowd.threads.push((doorbell, thread));
        Ok(())
    }

    /// Ends all threads and waits for them: afterwards none touches guest
    /// memory.
    pub fn stop(&self) {
        let threads = {
            let mut crowd = self.0.lock();
            crowd.stopping = true;
            std::mem::take(&mut crowd.threads)
        };
        threads.iter().for_each(|(doorbell, _)| doorbell.stop());
        for (_, thread) in threads {
            if thread.join().is_err() {
                log::error!("a device's thread panicked");
            }
        }
        self.0.lock().stopping = false;
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
    }
}
