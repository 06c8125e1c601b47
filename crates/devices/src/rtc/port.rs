//! The RTC on ports 0x70 (index) and 0x71 (data).

use super::core::RtcCore;
use super::memory_size::MemorySize;
use crate::stateful::impossible;
use crate::timed::{Timed, Waker};
use crate::{Clock, Effect, IrqLine, PortDevice, Stateful};
use parking_lot::Mutex;
use state::{Image, Result};
use std::sync::Arc;

/// First of the two ports.
const BASE: u16 = 0x70;
/// Register C.
const FLAGS: u8 = 0x0c;

/// The chip with its index latch, clock and interrupt line.
pub struct Rtc {
    /// See [`crate::uart::SerialPort`] for the lock order.
    state: Mutex<State>,
    irq: Arc<dyn IrqLine>,
    clock: Arc<dyn Clock>,
    waker: Waker,
}

struct State {
    chip: RtcCore,
    index: u8,
    level: bool,
}

impl Rtc {
    /// Number of the first port; the device has two.
    pub const PORT: u16 = BASE;

    /// A running clock.
    pub fn new(
        memory: MemorySize,
        irq: Arc<dyn IrqLine>,
        clock: Arc<dyn Clock>,
        waker: Waker,
    ) -> Self {
        let chip = RtcCore::new(memory, clock.wall_ns());
        let state = State {
            chip,
            index: 0,
            level: false,
        };
        Self {
            state: Mutex::new(state),
            irq,
            clock,
            waker,
        }
    }

    fn with<R>(&self, act: impl FnOnce(&mut State, u64) -> R) -> R {
        let mut state = self.state.lock();
        let result = act(&mut state, self.clock.wall_ns());
        let level = state.chip.irq();
        if level != state.level {
            state.level = level;
            self.irq.set_level(level);
        }
        result
    }
}

impl Timed for Rtc {
    fn run_due(&self) -> Option<u64> {
        let wait = self.with(|state, now| state.chip.run_due(now))?;
        Some(self.clock.monotonic_ns().saturating_add(wait))
    }
}

impl PortDevice for Rtc {
    fn read(&self, offset: u16, _size: u8) -> u32 {
        if offset == 0 {
            return 0xff;
        }
        let (value, armed) = self.with(|state, now| {
            let value = state.chip.read(state.index, now);
            // Reading the flags lets the next interrupt come.
            (value, state.index & 0x7f == FLAGS)
        });
        if armed {
            self.waker.wake();
        }
        value.into()
    }

    fn write(&self, offset: u16, _size: u8, value: u32) -> Option<Effect> {
        if offset == 0 {
            self.state.lock().index = value as u8;
            return None;
        }
        self.with(|state, now| state.chip.write(state.index, value as u8, now));
        self.waker.wake();
        None
    }
}

impl Stateful for Rtc {
    fn save(&self, instance: &str, image: &mut Image) -> Result<()> {
        let state = self.state.lock();
        let saved = state::devices::Rtc {
            index: state.index,
            level: state.level,
            ..state.chip.saved()
        };
        image.put(instance, &saved);
        Ok(())
    }

    fn restore(&self, instance: &str, image: &mut Image) -> Result<()> {
        let saved = image.take(instance)?;
        let chip = RtcCore::from_saved(&saved);
        let chip = chip.ok_or_else(|| impossible("rtc", instance, "no such time or memory"))?;
        *self.state.lock() = State {
            chip,
            index: saved.index,
            level: saved.level,
        };
        self.irq.restore_level(saved.level);
        self.waker.wake();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ManualClock, NoIrq};

    #[test]
    fn index_then_data() {
        let clock = Arc::new(ManualClock::at(1_700_000_000));
        let rtc = Rtc::new(
            MemorySize::default(),
            Arc::new(NoIrq),
            clock.clone(),
            Waker::default(),
        );
        rtc.write(0, 1, 0x80);
        assert_eq!(rtc.read(1, 1), 0x20);
        clock.advance_ns(1_000_000_000);
        assert_eq!(rtc.read(1, 1), 0x21);
        rtc.write(0, 1, 0x0c);
        assert_eq!(rtc.read(1, 1), 0x50);
        rtc.write(0, 1, 0x0b);
        rtc.write(1, 1, 0x12);
        assert_eq!(rtc.run_due(), Some(2_000_000_000));
    }
}
