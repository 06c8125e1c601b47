//! The interface and the schema.

use super::Core;
use state::devices::FwCfg;

impl Core {
    pub(in crate::fw_cfg) fn saved(&self) -> FwCfg {
        FwCfg {
            key: self.key,
            at: self.at,
            dma: self.dma,
        }
    }

    pub(in crate::fw_cfg) fn restore(&mut self, saved: &FwCfg) {
        self.select(saved.key);
        self.at = saved.at;
        self.dma = saved.dma;
    }
}
