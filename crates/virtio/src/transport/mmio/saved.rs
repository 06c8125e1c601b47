//! The registers and the schema.

use super::VirtioMmio;
use devices::Stateful;
use state::virtio::Transport;
use state::{Image, Result};

impl Stateful for VirtioMmio {
    fn save(&self, instance: &str, image: &mut Image) -> Result<()> {
        self.device.save(instance, image);
        let mut setup = self.common.lock();
        // The threads stop here, so interrupts are told before they are noted.
        let mut saved = setup.save(0)?;
        saved.isr = *self.link.pending.lock();
        saved.status = self.link.signals.status();
        image.put(instance, &saved);
        Ok(())
    }

    fn restore(&self, instance: &str, image: &mut Image) -> Result<()> {
        let saved: Transport = image.take(instance)?;
        self.common.lock().restore(&saved, instance)?;
        self.device.restore(instance, image)?;
        *self.link.pending.lock() = saved.isr;
        self.link.line.restore_level(saved.isr != 0);
        Ok(())
    }

    fn resume(&self) {
        self.common.lock().resume(self.link.clone());
        self.ring_all();
    }
}
