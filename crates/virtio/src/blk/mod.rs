//! Block device (virtio 1.2, 5.2) on any [`BlockDevice`]. Each queue has its
//! [`Crew`]; a request's data goes straight between guest memory and the disk.

mod config;
mod error;
mod request;
#[cfg(test)]
mod tests;
mod transfer;

use crate::chain::Chain;
use crate::crew::{Crew, Turn};
use crate::device::{Activation, Interrupts, Kind, VirtioDevice, copy_config};
use crate::workers::Workers;
use config::Config;
use disk::BlockDevice;
use error::Policies;
use parking_lot::Mutex;
use request::Disk;
use state::Image;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use error::{IoError, OnError, Resumed, Supervisor};

/// The type.
pub const KIND: Kind = Kind {
    name: "virtio-blk",
    id: 2,
    pci_id: 0x1001,
    class: 0x01_00_00,
};

/// QEMU's default.
pub const DEFAULT_QUEUE_SIZE: u16 = 256;
/// Largest queue.
pub const MAX_QUEUE_SIZE: u16 = 1024;
/// Bytes of a serial number (5.2.6, VIRTIO_BLK_T_GET_ID).
pub const SERIAL_LEN: usize = 20;

/// Feature bits (5.2.3).
mod feature {
    pub const SEG_MAX: u64 = 1 << 2;
    pub const GEOMETRY: u64 = 1 << 4;
    pub const RO: u64 = 1 << 5;
    pub const BLK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const TOPOLOGY: u64 = 1 << 10;
    pub const CONFIG_WCE: u64 = 1 << 11;
    pub const MQ: u64 = 1 << 12;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// What a device is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of queues, 1 or more.
    pub queues: u16,
    /// Size of each, a power of two up to [`MAX_QUEUE_SIZE`].
    pub queue_size: u16,
    /// Serial number, at most [`SERIAL_LEN`] bytes count.
    pub serial: String,
    /// Writes wait in a cache until a flush, unless the driver says otherwise.
    pub write_cache: bool,
    /// The guest may discard.
    pub discard: bool,
    /// What an error of a read does; [`OnError::READ`] if nothing is said.
    pub read_error: Option<OnError>,
    /// What an error of a write does; [`OnError::WRITE`] if nothing is said.
    pub write_error: Option<OnError>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queues: 1,
            queue_size: DEFAULT_QUEUE_SIZE,
            serial: String::new(),
            write_cache: true,
            discard: true,
            read_error: None,
            write_error: None,
        }
    }
}

/// The device.
pub struct Blk {
    disk: Arc<dyn BlockDevice>,
    options: Options,
    config: Mutex<Config>,
    /// The driver asked for a write cache; requests look at it.
    write_cache: Arc<AtomicBool>,
    supervisor: Option<Arc<dyn Supervisor>>,
    workers: Arc<Workers>,
    /// The driver, if there is one.
    interrupts: Mutex<Option<Arc<dyn Interrupts>>>,
}

impl Blk {
    /// A device for `disk`.
    pub fn new(disk: Arc<dyn BlockDevice>, options: Options) -> Self {
        Self {
            config: Mutex::new(Config::new(&*disk, &options)),
            write_cache: Arc::new(AtomicBool::new(options.write_cache)),
            disk,
            options,
            supervisor: None,
            workers: Arc::default(),
            interrupts: Mutex::default(),
        }
    }

    /// The disk has another size now: tells the driver.
    pub fn resized(&self) {
        self.config.lock().set_len(self.disk.len());
        let interrupts = self.interrupts.lock().clone();
        if let Some(interrupts) = interrupts {
            interrupts.config_changed();
        }
    }

    /// With someone who stops the machine; without, errors that would stop it
    /// are reported.
    pub fn supervised(mut self, supervisor: Arc<dyn Supervisor>) -> Self {
        self.supervisor = Some(supervisor);
        self
    }
}

impl VirtioDevice for Blk {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn features(&self) -> u64 {
        let always = feature::SEG_MAX
            | feature::GEOMETRY
            | feature::BLK_SIZE
            | feature::FLUSH
            | feature::TOPOLOGY
            | feature::CONFIG_WCE;
        let when = |condition, bits| if condition { bits } else { 0 };
        always
            | when(self.disk.read_only(), feature::RO)
            | when(self.options.queues > 1, feature::MQ)
            | when(
                self.options.discard,
                feature::DISCARD | feature::WRITE_ZEROES,
            )
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![self.options.queue_size; self.options.queues.into()]
    }

    fn config_len(&self) -> usize {
        config::LEN
    }

    fn read_config(&self, offset: usize, bytes: &mut [u8]) {
        let config = self.config.lock();
        copy_config(config.bytes(), offset, bytes);
    }

    fn write_config(&self, offset: usize, bytes: &[u8]) {
        if let Some(on) = self.config.lock().write(offset, bytes) {
            self.write_cache.store(on, Ordering::Release);
        }
    }

    fn activate(&self, activation: Activation) -> io::Result<()> {
        let disk = Disk {
            device: self.disk.clone(),
            flushes: activation.features & feature::FLUSH != 0,
            write_cache: self.write_cache.clone(),
            serial: self.options.serial.clone(),
            policies: Policies {
                read: self.options.read_error.unwrap_or(OnError::READ),
                write: self.options.write_error.unwrap_or(OnError::WRITE),
            },
            supervisor: self.supervisor.clone(),
        };
        let disk = Arc::new(disk);
        *self.interrupts.lock() = Some(activation.interrupts);
        for queue in activation.queues {
            let disk = disk.clone();
            let act = Box::new(move |chain: Chain<'_>, turn: &Turn<'_>| disk.serve(chain, turn));
            Crew::start(KIND.name, queue, &self.workers, act)?;
        }
        Ok(())
    }

    fn suspend(&self) -> bool {
        self.workers.stop();
        true
    }

    fn save(&self, instance: &str, image: &mut Image) {
        let write_cache = self.write_cache.load(Ordering::Acquire);
        image.put(instance, &state::virtio::Blk { write_cache });
    }

    fn restore(&self, instance: &str, image: &mut Image) -> state::Result<()> {
        let saved: state::virtio::Blk = image.take(instance)?;
        self.config.lock().set_write_cache(saved.write_cache);
        self.write_cache.store(saved.write_cache, Ordering::Release);
        Ok(())
    }

    fn reset(&self) {
        self.workers.stop();
        *self.interrupts.lock() = None;
        let cache = self.options.write_cache;
        self.config.lock().set_write_cache(cache);
        self.write_cache.store(cache, Ordering::Release);
    }
}

impl Drop for Blk {
    fn drop(&mut self) {
        // The threads hold the workers, too.
        self.workers.stop();
    }
}
