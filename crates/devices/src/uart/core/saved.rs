//! The chip and the schema.

use super::{FIFO_DEPTH, Uart};

impl Uart {
    /// What a saved state says of the chip; `level` is its interrupt line's.
    pub fn saved(&self, level: bool) -> state::devices::Uart {
        state::devices::Uart {
            ier: self.ier,
            fcr: self.fcr,
            lcr: self.lcr,
            mcr: self.mcr,
            scr: self.scr,
            divisor: self.divisor,
            msr_delta: self.msr_delta,
            line_errors: self.line_errors,
            rx: self.rx.iter().copied().collect(),
            noticed: self.noticed,
            thre_pending: self.thre_pending,
            level,
        }
    }

    /// The chip that a saved state describes; `None` if its FIFO holds more
    /// than it can.
    pub fn from_saved(saved: &state::devices::Uart) -> Option<Self> {
        (saved.rx.len() <= FIFO_DEPTH).then(|| Self {
            ier: saved.ier,
            fcr: saved.fcr,
            lcr: saved.lcr,
            mcr: saved.mcr,
            scr: saved.scr,
            divisor: saved.divisor,
            msr_delta: saved.msr_delta,
            line_errors: saved.line_errors,
            rx: saved.rx.iter().copied().collect(),
            noticed: saved.noticed,
            returned: Vec::new(),
            thre_pending: saved.thre_pending,
            polls: 0,
        })
    }
}
