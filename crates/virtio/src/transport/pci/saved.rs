//! The function and the schema.

use super::{BusState, VirtioPci};
use devices::Stateful;
use devices::pci::command;
use state::virtio::Transport;
use state::{Image, Result};
use std::sync::atomic::Ordering;

impl Stateful for VirtioPci {
    fn save(&self, instance: &str, image: &mut Image) -> Result<()> {
        self.device.save(instance, image);
        let mut setup = self.common.lock();
        // The threads stop here, so interrupts are told before they are noted.
        let mut saved = setup.save(0)?;
        saved.isr = self.link.isr.load(Ordering::Acquire);
        saved.status = self.link.signals.status();
        image.put(instance, &saved);
        let bus = self.link.bus.lock();
        bus.config.save(instance, image);
        bus.msix.save(instance, image);
        Ok(())
    }

    fn restore(&self, instance: &str, image: &mut Image) -> Result<()> {
        let saved: Transport = image.take(instance)?;
        self.common.lock().restore(&saved, instance)?;
        self.device.restore(instance, image)?;
        let mut bus = self.link.bus.lock();
        let BusState { config, msix } = &mut *bus;
        config.restore(instance, image)?;
        msix.restore(config, instance, image)?;
        self.link.isr.store(saved.isr, Ordering::Release);
        let level = config.drive_intx(saved.isr != 0 && !msix.enabled());
        self.link.intx.restore_level(level);
        let master = config.command() & command::MASTER != 0;
        self.master.store(master, Ordering::Release);
        Ok(())
    }

    fn resume(&self) {
        self.common.lock().resume(self.link.clone());
        self.ring_all();
    }
}
