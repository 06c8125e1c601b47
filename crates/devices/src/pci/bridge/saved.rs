//! A bridge and the schema.

use super::{Bridge, State};
use crate::Stateful;
use state::{Image, Result};

impl Stateful for Bridge {
    fn save(&self, instance: &str, image: &mut Image) -> Result<()> {
        let state = self.state.lock();
        state.config.save(instance, image);
        if let Some(msix) = &state.msix {
            msix.save(instance, image);
        }
        Ok(())
    }

    fn restore(&self, instance: &str, image: &mut Image) -> Result<()> {
        let mut state = self.state.lock();
        let State { config, msix } = &mut *state;
        config.restore(instance, image)?;
        match msix {
            Some(msix) => msix.restore(config, instance, image),
            None => Ok(()),
        }
    }
}
