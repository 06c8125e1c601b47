//! A console as the host's end of a virtio port.

use super::input::Receiver;
use super::{InputQueue, Output};
use devices::uart::ByteSource;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use virtio::serial::{HostEnd, Listener};

/// The end.
pub struct End {
    output: Arc<Output>,
    input: Arc<InputQueue>,
    connected: Arc<AtomicBool>,
    /// The queue only knows it weakly.
    listener: Mutex<Option<Arc<Bell>>>,
}

/// Passes on what the queue says.
struct Bell(Weak<dyn Listener>);

impl Receiver for Bell {
    fn pump(&self) {
        if let Some(listener) = self.0.upgrade() {
            listener.changed();
        }
    }
}

impl End {
    pub(super) fn new(
        output: Arc<Output>,
        input: Arc<InputQueue>,
        connected: Arc<AtomicBool>,
    ) -> Self {
        Self {
            output,
            input,
            connected,
            listener: Mutex::default(),
        }
    }
}

impl HostEnd for End {
    fn put(&self, bytes: &[u8]) -> usize {
        self.output.offer(bytes)
    }

    fn wait_for_room(&self) {
        self.output.wait_for_room();
    }

    fn get(&self, bytes: &mut [u8]) -> usize {
        self.input.get(bytes)
    }

    fn has_input(&self) -> bool {
        self.input.has_bytes()
    }

    fn connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    fn attach(&self, listener: Weak<dyn Listener>) {
        let bell = Arc::new(Bell(listener));
        let weak: Weak<Bell> = Arc::downgrade(&bell);
        *self.listener.lock() = Some(bell);
        self.input.attach(weak);
    }
}
