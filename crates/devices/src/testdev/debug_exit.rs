//! `isa-debug-exit`: a write ends the process with a code of the guest's.

use crate::{Effect, PortDevice};

/// The device, as wide as its range.
#[derive(Clone, Copy, Debug)]
pub struct DebugExit {
    /// Number of ports it has.
    pub ports: u16,
}

impl PortDevice for DebugExit {
    fn max_width(&self) -> u8 {
        self.ports.clamp(1, 4) as u8
    }
    fn read(&self, _offset: u16, _size: u8) -> u32 {
        0
    }
    fn write(&self, _offset: u16, _size: u8, value: u32) -> Option<Effect> {
        // Never 0: a guest that succeeded says so by an odd code.
        Some(Effect::DebugExit((value << 1) as u8 | 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PortBus;
    use std::sync::Arc;

    #[test]
    fn the_code_is_twice_the_value_and_one() {
        let mut bus = PortBus::new();
        let device = Arc::new(DebugExit { ports: 4 });
        bus.register(0xf4, 4, device).unwrap();
        assert_eq!(bus.read(0xf4, 4), 0);
        for (size, value, code) in [
            (1, 0, 1),
            (1, 0x10, 0x21),
            (4, 0x31, 0x63),
            (2, 0x1ff, 0xff),
        ] {
            let effect = bus.write(0xf4, size, value);
            assert_eq!(effect, Some(Effect::DebugExit(code)), "{value:#x}");
        }
    }
}
