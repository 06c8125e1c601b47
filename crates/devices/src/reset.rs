//! The chipset's reset ports: 0xcf9 (PIIX3/ICH reset control) and 0x92
//! (system control port A: fast A20 and INIT).

use crate::{Effect, PortDevice, Stateful};
use state::{Image, Result};
use std::sync::atomic::{AtomicU8, Ordering};

/// Reset control register, port 0xcf9 (Intel ICH datasheet, RST_CNT): bit 1
/// chooses a hard reset, a write with bit 2 set starts it.
#[derive(Debug, Default)]
pub struct ResetControl(AtomicU8);

/// Port of [`ResetControl`].
pub const RESET_CONTROL_PORT: u16 = 0xcf9;
const RST_CPU: u8 = 1 << 2;

impl PortDevice for ResetControl {
    fn read(&self, _offset: u16, _size: u8) -> u32 {
        self.0.load(Ordering::Relaxed).into()
    }
    fn write(&self, _offset: u16, _size: u8, value: u32) -> Option<Effect> {
        let value = value as u8;
        // Bit 2 starts the reset and reads back as 0.
        self.0.store(value & 0x0a, Ordering::Relaxed);
        (value & RST_CPU != 0).then_some(Effect::Reset)
    }
}

/// System control port A, port 0x92: bit 0 pulses INIT, bit 1 gates A20. The
/// A20 line itself is always open; the bit reads back as written.
#[derive(Debug)]
pub struct FastA20(AtomicU8);

/// Port of [`FastA20`].
pub const FAST_A20_PORT: u16 = 0x92;
const FAST_RESET: u8 = 1 << 0;
const A20: u8 = 1 << 1;

impl Default for FastA20 {
    fn default() -> Self {
        Self(AtomicU8::new(A20))
    }
}

impl PortDevice for FastA20 {
    fn read(&self, _offset: u16, _size: u8) -> u32 {
        self.0.load(Ordering::Relaxed).into()
    }
    fn write(&self, _offset: u16, _size: u8, value: u32) -> Option<Effect> {
        let old = self.0.swap(value as u8 & !FAST_RESET, Ordering::Relaxed);
        // Only the 0-to-1 edge of bit 0 resets; it never stays set here.
        (value as u8 & !old & FAST_RESET != 0).then_some(Effect::Reset)
    }
}

impl ResetControl {
    pub(crate) fn value(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set_value(&self, value: u8) {
        self.0.store(value & 0x0a, Ordering::Relaxed);
    }
}

impl Stateful for FastA20 {
    fn save(&self, instance: &str, image: &mut Image) -> Result<()> {
        let value = self.0.load(Ordering::Relaxed);
        image.put(instance, &state::devices::FastA20 { value });
        Ok(())
    }

    fn restore(&self, instance: &str, image: &mut Image) -> Result<()> {
        let saved: state::devices::FastA20 = image.take(instance)?;
        self.0.store(saved.value & !FAST_RESET, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_control_needs_bit_2() {
        let port = ResetControl::default();
        assert_eq!(port.write(0, 1, 0x02), None);
        assert_eq!(port.read(0, 1), 0x02);
        assert_eq!(port.write(0, 1, 0x06), Some(Effect::Reset));
        assert_eq!(port.read(0, 1) & 0x04, 0);
    }

    #[test]
    fn fast_a20() {
        let port = FastA20::default();
        assert_eq!(port.read(0, 1), 2);
        assert_eq!(port.write(0, 1, 0x02), None);
        assert_eq!(port.write(0, 1, 0x00), None);
        assert_eq!(port.read(0, 1), 0);
        assert_eq!(port.write(0, 1, 0x01), Some(Effect::Reset));
    }
}
