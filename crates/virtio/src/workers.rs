//! The threads of a device.

use crate::doorbell::Doorbell;
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

/// Threads that run between activation and reset. Dropping stops them.
#[derive(Debug, Default)]
pub struct Workers(Mutex<Vec<(Arc<Doorbell>, JoinHandle<()>)>>);

impl Workers {
    /// Starts a thread that ends when `doorbell` is stopped.
    pub fn start(
        &self,
        name: &str,
        doorbell: Arc<Doorbell>,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let thread = Builder::new().name(name.to_string()).spawn(work)?;
        self.0.lock().push((doorbell, thread));
        Ok(())
    }

    /// Ends all threads and waits for them: afterwards none touches guest
    /// memory.
    pub fn stop(&self) {
        let threads = std::mem::take(&mut *self.0.lock());
        threads.iter().for_each(|(doorbell, _)| doorbell.stop());
        for (_, thread) in threads {
            if thread.join().is_err() {
                log::error!("a device's thread panicked");
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
    }
}
