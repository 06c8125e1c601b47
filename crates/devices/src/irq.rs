//! Interrupt lines.

/// An interrupt line as a device sees it: a level, nothing more.
pub trait IrqLine: Send + Sync {
    /// Drives the line. Setting the level it already has is harmless.
    fn set_level(&self, high: bool);
}

/// A line that leads nowhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoIrq;

impl IrqLine for NoIrq {
    fn set_level(&self, _high: bool) {}
}
