//! Configuration spaces and the schema.

use super::{ConfigSpace, STATUS_INTX, header};
use crate::stateful::impossible;
use state::pci::Config;
use state::{Image, Result};

impl ConfigSpace {
    /// Puts its section into `image`.
    pub fn save(&self, instance: &str, image: &mut Image) {
        let bytes = self.bytes.to_vec();
        image.put(instance, &Config { bytes });
    }

    /// Takes its section. What a guest cannot change must be the same.
    pub fn restore(&mut self, instance: &str, image: &mut Image) -> Result<()> {
        let saved: Config = image.take(instance)?;
        let refuse = |why: String| impossible("pci-config", instance, &why);
        if saved.bytes.len() != self.bytes.len() {
            return Err(refuse(format!("{} bytes", saved.bytes.len())));
        }
        for (at, (saved, present)) in saved.bytes.iter().zip(&self.bytes).enumerate() {
            let status = if at == header::STATUS { STATUS_INTX } else { 0 };
            let fixed = !(self.writable[at] | status);
            if (saved ^ present) & fixed != 0 {
                let why =
                    format!("{saved:#04x} at offset {at:#x}, this function has {present:#04x}");
                return Err(refuse(why));
            }
        }
        self.bytes.copy_from_slice(&saved.bytes);
        Ok(())
    }
}
