//! Interrupt lines.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// An interrupt line as a device sees it: a level, nothing more.
pub trait IrqLine: Send + Sync {
    /// Drives the line. Setting the level it already has is harmless. Called
    /// with the device's lock held: it must not call back into the device.
    fn set_level(&self, high: bool);

    /// After a saved state was restored: this is the level the device drives.
    /// The interrupt controllers know it already.
    fn restore_level(&self, _high: bool) {}
}

/// A line that leads nowhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoIrq;

impl IrqLine for NoIrq {
    fn set_level(&self, _high: bool) {}
}

/// Several devices on one line: high while any of them drives it high.
pub struct OrGate {
    /// How many inputs are high. Held while the output is driven, so that it
    /// ends at the level of the last change.
    high: Mutex<usize>,
    output: Arc<dyn IrqLine>,
}

impl OrGate {
    /// A gate in front of `output`.
    pub fn new(output: Arc<dyn IrqLine>) -> Arc<Self> {
        Arc::new(Self {
            high: Mutex::new(0),
            output,
        })
    }

    /// A new input, low.
    pub fn input(self: &Arc<Self>) -> Arc<dyn IrqLine> {
        Arc::new(OrInput {
            gate: self.clone(),
            level: AtomicBool::new(false),
        })
    }
}

struct OrInput {
    gate: Arc<OrGate>,
    /// Changed under the gate's lock only.
    level: AtomicBool,
}

impl IrqLine for OrInput {
    fn set_level(&self, level: bool) {
        let mut high = self.gate.high.lock();
        if self.level.swap(level, Ordering::Relaxed) == level {
            return;
        }
        let before = *high != 0;
        *high = if level { *high + 1 } else { *high - 1 };
        let after = *high != 0;
        if before != after {
            self.gate.output.set_level(after);
        }
    }

    fn restore_level(&self, level: bool) {
        let mut high = self.gate.high.lock();
        if self.level.swap(level, Ordering::Relaxed) != level {
            let before = *high != 0;
            *high = if level { *high + 1 } else { *high - 1 };
            let after = *high != 0;
            if before != after {
                self.gate.output.restore_level(after);
            }
        }
    }
}

/// Where a device's interrupt messages go.
pub trait MsiSink: Send + Sync {
    /// Writes `data` to `address` in the interrupt window.
    fn send(&self, address: u64, data: u32);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Keeps every level that was driven.
    #[derive(Default)]
    pub(crate) struct Levels(pub(crate) Mutex<Vec<bool>>);
    impl IrqLine for Levels {
        fn set_level(&self, high: bool) {
            self.0.lock().push(high);
        }
    }

    #[test]
    fn the_gate_falls_with_its_last_input() {
        let out = Arc::new(Levels::default());
        let gate = OrGate::new(out.clone());
        let (a, b) = (gate.input(), gate.input());
        a.set_level(true);
        b.set_level(true);
        a.set_level(false);
        assert_eq!(*out.0.lock(), [true]);
        b.set_level(false);
        b.set_level(false);
        assert_eq!(*out.0.lock(), [true, false]);
    }
}
