//! The block and the schema.

use super::{AcpiPm, PmCore, ticks};
use crate::Stateful;
use state::devices::AcpiPm as Saved;
use state::{Image, Result};

impl Stateful for AcpiPm {
    fn save(&self, instance: &str, image: &mut Image) -> Result<()> {
        let mut state = self.state.lock();
        let timer_ns = self.timer_ns();
        let (pm, level) = &mut *state;
        pm.run_due(timer_ns);
        let saved = Saved {
            status: pm.status,
            enable: pm.enable,
            control: pm.control,
            gpe_status: pm.gpe_status,
            gpe_enable: pm.gpe_enable,
            timer_ns,
            level: *level,
        };
        image.put(instance, &saved);
        Ok(())
    }

    fn restore(&self, instance: &str, image: &mut Image) -> Result<()> {
        let saved: Saved = image.take(instance)?;
        let mut state = self.state.lock();
        self.set_timer_ns(saved.timer_ns);
        let core = PmCore {
            status: saved.status,
            enable: saved.enable,
            control: saved.control,
            seen: ticks(saved.timer_ns),
            gpe_status: saved.gpe_status,
            gpe_enable: saved.gpe_enable,
        };
        *state = (core, saved.level);
        self.sci.restore_level(saved.level);
        self.waker.wake();
        Ok(())
    }
}
