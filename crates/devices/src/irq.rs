//! Interrupt lines.

use parking_lot::Mutex;
use std::sync::Arc;

/// An interrupt line as a device sees it: a level, nothing more.
pub trait IrqLine: Send + Sync {
    /// Drives the line. Setting the level it already has is harmless. Called
    /// with the device's lock held: it must not call back into the device.
    fn set_level(&self, high: bool);
}

/// A line that leads nowhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoIrq;

impl IrqLine for NoIrq {
    fn set_level(&self, _high: bool) {}
}

/// Several devices on one line: high while any of them drives it high.
pub struct OrGate {
    /// One bit per input. Held while the output is driven, so that it ends at
    /// the level of the last change.
    inputs: Mutex<u32>,
    output: Arc<dyn IrqLine>,
}

impl OrGate {
    /// A gate in front of `output`.
    pub fn new(output: Arc<dyn IrqLine>) -> Arc<Self> {
        Arc::new(Self {
            inputs: Mutex::new(0),
            output,
        })
    }

    /// Input number `n`, below 32.
    pub fn input(self: &Arc<Self>, n: u32) -> Arc<dyn IrqLine> {
        Arc::new(OrInput {
            gate: self.clone(),
            bit: 1 << (n % 32),
        })
    }
}

struct OrInput {
    gate: Arc<OrGate>,
    bit: u32,
}

impl IrqLine for OrInput {
    fn set_level(&self, high: bool) {
        let mut inputs = self.gate.inputs.lock();
        let before = *inputs != 0;
        *inputs = *inputs & !self.bit | if high { self.bit } else { 0 };
        let now = *inputs != 0;
        if now != before {
            self.gate.output.set_level(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Levels(Mutex<Vec<bool>>);
    impl IrqLine for Levels {
        fn set_level(&self, high: bool) {
            self.0.lock().push(high);
        }
    }

    #[test]
    fn the_gate_falls_with_its_last_input() {
        let out = Arc::new(Levels::default());
        let gate = OrGate::new(out.clone());
        let (a, b) = (gate.input(0), gate.input(1));
        a.set_level(true);
        b.set_level(true);
        a.set_level(false);
        assert_eq!(*out.0.lock(), [true]);
        b.set_level(false);
        b.set_level(false);
        assert_eq!(*out.0.lock(), [true, false]);
    }
}
