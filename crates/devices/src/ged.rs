//! Generic event device (ACPI 6.5, 5.6.9.1) and the sleep and reset registers
//! of hardware-reduced ACPI (4.8.3.7, 4.8.3.6), at the places of QEMU's
//! `microvm`. The DSDT's `_EVT` reads which events happened.

use crate::{Effect, IrqLine, MmioDevice, PowerButton, Stateful};
use parking_lot::Mutex;
use state::{Image, Result, devices::Ged as Saved};
use std::sync::Arc;

/// Guest-physical address of the event selector, 32 bits.
pub const EVENTS: u64 = 0xfea0_0000;
/// Bytes of the selector.
pub const EVENTS_LEN: u64 = 4;
/// Guest-physical address of sleep control, sleep status and reset.
pub const REGISTERS: u64 = 0xfea0_0200;
/// One byte each.
pub const REGISTERS_LEN: u64 = 3;
/// Offsets in [`REGISTERS`].
pub const SLEEP_CONTROL: u64 = 0;
/// See [`SLEEP_CONTROL`].
pub const SLEEP_STATUS: u64 = 1;
/// See [`SLEEP_CONTROL`].
pub const RESET: u64 = 2;
/// What resets when written to [`RESET`].
pub const RESET_VALUE: u8 = 0x42;
/// SLP_TYP value of S5.
pub const SLP_TYP_S5: u8 = 5;
/// Selector: the power button was pressed.
pub const POWER_BUTTON: u32 = 1 << 1;

const SLP_TYP_SHIFT: u32 = 2;
const SLP_EN: u8 = 1 << 5;

/// The event selector.
pub struct Ged {
    events: Mutex<u32>,
    /// Edge-triggered.
    line: Arc<dyn IrqLine>,
}

impl Ged {
    /// No events yet.
    pub fn new(line: Arc<dyn IrqLine>) -> Self {
        Self {
            events: Mutex::new(0),
            line,
        }
    }
}

impl PowerButton for Ged {
    fn press_power_button(&self) {
        let mut events = self.events.lock();
        *events |= POWER_BUTTON;
        self.line.set_level(true);
        self.line.set_level(false);
    }
}

impl MmioDevice for Ged {
    /// Reading the selector takes the events.
    fn read(&self, offset: u64, size: u8) -> u64 {
        match (offset, size) {
            (0, 4) => std::mem::take(&mut *self.events.lock()).into(),
            _ => 0,
        }
    }

    fn write(&self, _offset: u64, _size: u8, _value: u64) -> Option<Effect> {
        None
    }
}

impl Stateful for Ged {
    fn save(&self, instance: &str, image: &mut Image) -> Result<()> {
        let events = *self.events.lock();
        image.put(instance, &Saved { events });
        Ok(())
    }

    fn restore(&self, instance: &str, image: &mut Image) -> Result<()> {
        let saved: Saved = image.take(instance)?;
        *self.events.lock() = saved.events;
        Ok(())
    }
}

/// Sleep control, sleep status and reset.
#[derive(Clone, Copy, Debug, Default)]
pub struct SleepRegisters;

impl MmioDevice for SleepRegisters {
    fn read(&self, _offset: u64, _size: u8) -> u64 {
        0
    }

    fn write(&self, offset: u64, size: u8, value: u64) -> Option<Effect> {
        let value = value as u8;
        match offset {
            SLEEP_CONTROL if value & SLP_EN != 0 => {
                let kind = value >> SLP_TYP_SHIFT & 7;
                (kind == SLP_TYP_S5).then_some(Effect::PowerOff)
            }
            RESET if size == 1 && value == RESET_VALUE => Some(Effect::Reset),
            _ => None,
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
    fn the_button_is_an_edge_and_is_read_once() {
        let line = Arc::new(Levels::default());
        let ged = Ged::new(line.clone());
        assert_eq!(ged.read(0, 4), 0);
        ged.press_power_button();
        assert_eq!(*line.0.lock(), [true, false]);
        assert_eq!(ged.read(0, 1), 0, "only whole words take events");
        assert_eq!(ged.read(0, 4), 2);
        assert_eq!(ged.read(0, 4), 0);
    }

    #[test]
    fn a_saved_event_is_read_after_it_is_restored() {
        let before = Ged::new(Arc::new(Levels::default()));
        before.press_power_button();
        let mut image = Image::default();
        before.save("", &mut image).unwrap();
        let line = Arc::new(Levels::default());
        let after = Ged::new(line.clone());
        after.restore("", &mut image).unwrap();
        assert!(image.finish().is_ok());
        assert!(line.0.lock().is_empty(), "the edge was before");
        assert_eq!(after.read(0, 4), 2);
    }

    #[test]
    fn sleep_and_reset() {
        let registers = SleepRegisters;
        let write = |offset, value| registers.write(offset, 1, value);
        assert_eq!(write(SLEEP_CONTROL, 0x34), Some(Effect::PowerOff));
        assert_eq!(write(SLEEP_CONTROL, 0x14), None, "without SLP_EN");
        assert_eq!(write(SLEEP_CONTROL, 0x24), None, "no such state");
        assert_eq!(write(SLEEP_STATUS, 0x34), None);
        assert_eq!(write(RESET, 0x41), None);
        assert_eq!(write(RESET, 0x42), Some(Effect::Reset));
        assert_eq!(registers.read(SLEEP_STATUS, 1), 0);
    }
}
