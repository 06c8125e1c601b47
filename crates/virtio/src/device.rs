//! What a transport asks of a device, and a device of its transport.

use crate::memory::GuestMemory;
use crate::queue::ActiveQueue;
use state::Image;
use std::io;
use std::sync::Arc;

/// Feature bits of every device (virtio 1.2, 6).
pub mod feature {
    /// Any layout of buffers; of interest to legacy drivers only.
    pub const ANY_LAYOUT: u64 = 1 << 27;
    /// Indirect descriptors.
    pub const INDIRECT: u64 = 1 << 28;
    /// Notifications are suppressed by index.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// The device follows version 1 of the specification.
    pub const VERSION_1: u64 = 1 << 32;
}

/// What a device is: one row per type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Name in messages and of threads: `virtio-blk`.
    pub name: &'static str,
    /// Virtio device id (5).
    pub id: u16,
    /// PCI device id: that of the transitional device, if the type has one.
    pub pci_id: u16,
    /// PCI class, subclass and programming interface.
    pub class: u32,
}

impl Kind {
    /// Serves legacy drivers too.
    pub const fn transitional(&self) -> bool {
        self.pci_id < 0x1040
    }
}

/// To the driver. Called from any thread.
pub trait Interrupts: Send + Sync {
    /// A queue has used buffers.
    fn queue(&self, index: u16);
    /// The device's configuration changed.
    fn config_changed(&self);
    /// The device cannot go on because of what the driver did.
    fn needs_reset(&self, why: &str);
}

/// A driver is ready: what it negotiated and set up.
pub struct Activation {
    /// Features both sides know.
    pub features: u64,
    /// The queues it enabled.
    pub queues: Vec<ActiveQueue>,
    /// Guest memory.
    pub memory: GuestMemory,
    /// To the driver.
    pub interrupts: Arc<dyn Interrupts>,
}

/// A device without its transport.
pub trait VirtioDevice: Send + Sync {
    /// What it is.
    fn kind(&self) -> &'static Kind;
    /// Its own feature bits; the transport adds those of [`feature`].
    fn features(&self) -> u64;
    /// Largest size of each queue, a power of two.
    fn queue_sizes(&self) -> Vec<u16>;
    /// Bytes of its configuration.
    fn config_len(&self) -> usize {
        0
    }
    /// Reads its configuration; bytes beyond it are 0.
    fn read_config(&self, _offset: usize, _bytes: &mut [u8]) {}
    /// Writes its configuration; what is read-only stays.
    fn write_config(&self, _offset: usize, _bytes: &[u8]) {}
    /// Begins to serve the queues.
    fn activate(&self, activation: Activation) -> io::Result<()>;
    /// Stops. When it returns nothing of the device touches guest memory.
    fn reset(&self);
    /// Stops its threads after what they have begun, and keeps what the
    /// driver set; false for a device that cannot.
    fn suspend(&self) -> bool {
        false
    }
    /// Puts what the transport does not know of it into a saved state.
    fn save(&self, _instance: &str, _image: &mut Image) {}
    /// Takes that.
    ///
    /// # Errors
    /// What the saved state lacks.
    fn restore(&self, _instance: &str, _image: &mut Image) -> state::Result<()> {
        Ok(())
    }
}

/// Copies what `config` has at `offset`; the rest of `bytes` is left alone.
pub(crate) fn copy_config(config: &[u8], offset: usize, bytes: &mut [u8]) {
    let rest = config.get(offset..).unwrap_or_default();
    let n = rest.len().min(bytes.len());
    bytes[..n].copy_from_slice(&rest[..n]);
}
