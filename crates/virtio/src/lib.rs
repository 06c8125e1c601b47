//! Virtio 1.2: devices and the transports that carry them.
//!
//! A device ([`VirtioDevice`]) knows its features, its configuration and what
//! to do with the buffers of its queues; a transport ([`transport`]) turns
//! register accesses into calls of a device. A vCPU's notification only rings
//! a [`Doorbell`]; the work is done on the device's own threads.
//!
//! What a guest does wrong ends in DEVICE_NEEDS_RESET (2.1.1): the queue that
//! saw it stops until the driver resets the device.

mod alarm;
pub mod balloon;
pub mod blk;
mod burst;
mod chain;
mod crew;
mod device;
mod doorbell;
pub mod fs;
mod memory;
pub mod net;
mod pace;
mod queue;
pub mod rng;
pub mod serial;
#[cfg(test)]
mod testing;
pub mod transport;
mod workers;

pub use chain::{Chain, Slice};
pub use device::{Activation, Interrupts, Kind, VirtioDevice, feature};
pub use doorbell::Doorbell;
pub use memory::{GuestMemory, WriteHook, WriteObserver};
pub use queue::{ActiveQueue, Broken};
pub use workers::Workers;
