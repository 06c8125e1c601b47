//! The requests, as other threads make them.

use super::{Deleted, HotpluggableCpu};
use crate::config::{DeviceConfig, DriveConfig, NetdevConfig};
use crate::handle::MachineHandle;
use crate::outcome::Result;

impl MachineHandle {
    /// Opens a disk for devices that come later.
    ///
    /// # Errors
    /// [`crate::Error::Drive`]: there is one with this id, or it cannot be
    /// opened.
    pub fn add_drive(&self, config: &DriveConfig) -> Result<()> {
        self.hotplug().add_drive(config)
    }

    /// Closes a disk: it is flushed and its lock is given back.
    ///
    /// # Errors
    /// [`crate::Error::Drive`]: there is none with this id, a device uses it,
    /// or it cannot be flushed; then it stays.
    pub fn remove_drive(&self, id: &str) -> Result<()> {
        self.hotplug().remove_drive(id)
    }

    /// Makes a network for adapters that come later.
    ///
    /// # Errors
    /// [`crate::Error::Netdev`]: there is one with this id, or it cannot be
    /// made.
    pub fn add_netdev(&self, config: &NetdevConfig) -> Result<()> {
        self.hotplug().add_netdev(config)
    }

    /// Ends a network.
    ///
    /// # Errors
    /// [`crate::Error::Netdev`]: there is none with this id, or an adapter uses
    /// it.
    pub fn remove_netdev(&self, id: &str) -> Result<()> {
        self.hotplug().remove_netdev(id)
    }

    /// Plugs a device into the PCI buses and tells the guest. It stays when the
    /// machine starts again.
    ///
    /// # Errors
    /// [`crate::Error::Device`], whose text says why: a name twice, a bus or a
    /// slot that is not there, in use or cannot be plugged into, a drive or
    /// netdev that is not there or in use, a model that cannot come while the
    /// machine runs, a board without PCI, or a machine that does not run.
    pub fn add_device(&self, device: DeviceConfig) -> Result<()> {
        self.hotplug().add_device(device)
    }

    /// Asks the guest to let go of a device. Once it has, the device is gone
    /// and [`Self::when_deleted`] tells. When the machine starts again, it is
    /// gone too.
    ///
    /// # Errors
    /// [`crate::Error::Device`]: there is none with this id, the guest was asked
    /// less than a second ago, or it cannot go while the machine runs.
    pub fn remove_device(&self, id: &str) -> Result<()> {
        self.hotplug().remove_device(id)
    }

    /// All processors that are there or may come.
    pub fn cpus(&self) -> Vec<HotpluggableCpu> {
        self.hotplug().cpus()
    }

    /// Plugs a processor in and tells the guest.
    ///
    /// # Errors
    /// [`crate::Error::Vcpus`]: it is there already or cannot be, or the name is
    /// another's; or the backend's.
    pub fn add_cpu(&self, number: u32, id: Option<&str>) -> Result<()> {
        self.hotplug().add_cpu(number, id)
    }

    /// Asks the guest to let go of a processor, as [`Self::remove_device`].
    ///
    /// # Errors
    /// [`crate::Error::Vcpus`]: it is not there, the first one, or the guest was
    /// asked less than a second ago.
    pub fn remove_cpu(&self, number: u32) -> Result<()> {
        self.hotplug().remove_cpu(number)
    }

    /// Calls `listener` for everything that is gone from then on, on the thread
    /// that saw it go: it must not wait, and not register another one.
    pub fn when_deleted(&self, listener: impl Fn(&Deleted) + Send + Sync + 'static) {
        self.hotplug().listen(Box::new(listener));
    }
}
