//! The keyboard controller on its two ports.

use super::controller::Controller;
use crate::stateful::impossible;
use crate::{Effect, IrqLine, PortDevice, Stateful};
use parking_lot::Mutex;
use state::{Image, Result};
use std::sync::Arc;

/// The controller behind port 0x60; [`CommandPort`] is its port 0x64.
pub struct I8042 {
    /// See [`crate::uart::SerialPort`] for the lock order.
    state: Mutex<State>,
    /// IRQ 1 and IRQ 12.
    irqs: [Arc<dyn IrqLine>; 2],
}

#[derive(Default)]
struct State {
    controller: Controller,
    /// Levels last driven.
    levels: [bool; 2],
}

impl I8042 {
    /// After power-on. The lines are the keyboard's and the mouse's.
    pub fn new(keyboard_irq: Arc<dyn IrqLine>, mouse_irq: Arc<dyn IrqLine>) -> Self {
        Self {
            state: Mutex::default(),
            irqs: [keyboard_irq, mouse_irq],
        }
    }

    /// Presses or releases keys: scan codes of set 1. False if the keyboard
    /// is off or its buffer full.
    pub fn press(&self, codes: &[u8]) -> bool {
        self.with(|c| {
            let taken = c.keyboard.press(codes);
            c.refill();
            taken
        })
    }

    /// Moves the mouse; see [`super::Mouse::report`].
    pub fn move_mouse(&self, dx: i16, dy: i16, buttons: u8) -> bool {
        self.with(|c| {
            let taken = c.mouse.report(dx, dy, buttons);
            c.refill();
            taken
        })
    }

    fn with<R>(&self, act: impl FnOnce(&mut Controller) -> R) -> R {
        let mut state = self.state.lock();
        let result = act(&mut state.controller);
        self.drive(&mut state);
        result
    }

    fn drive(&self, state: &mut State) {
        let now = [state.controller.irq(), state.controller.mouse_irq()];
        for ((level, now), irq) in state.levels.iter_mut().zip(now).zip(&self.irqs) {
            if now != *level {
                *level = now;
                irq.set_level(now);
            }
        }
    }
}

impl PortDevice for I8042 {
    fn read(&self, _offset: u16, _size: u8) -> u32 {
        let mut state = self.state.lock();
        let byte = state.controller.read_data();
        // The lines are edge-triggered: they must fall between two bytes.
        self.drive(&mut state);
        state.controller.refill();
        self.drive(&mut state);
        byte.into()
    }
    fn write(&self, _offset: u16, _size: u8, value: u32) -> Option<Effect> {
        self.with(|c| c.write_data(value as u8))
    }
}

impl Stateful for I8042 {
    fn save(&self, instance: &str, image: &mut Image) -> Result<()> {
        let state = self.state.lock();
        image.put(instance, &state.controller.saved(state.levels));
        Ok(())
    }

    fn restore(&self, instance: &str, image: &mut Image) -> Result<()> {
        let saved = image.take(instance)?;
        let controller = Controller::from_saved(&saved);
        let controller =
            controller.ok_or_else(|| impossible("i8042", instance, "no such buffers"))?;
        let levels = saved.levels;
        *self.state.lock() = State { controller, levels };
        for (irq, level) in self.irqs.iter().zip(levels) {
            irq.restore_level(level);
        }
        Ok(())
    }
}

/// Port 0x64 of an [`I8042`].
pub struct CommandPort(pub Arc<I8042>);

impl PortDevice for CommandPort {
    fn read(&self, _offset: u16, _size: u8) -> u32 {
        self.0.with(|c| c.read_status()).into()
    }
    fn write(&self, _offset: u16, _size: u8, value: u32) -> Option<Effect> {
        self.0.with(|c| c.write_command(value as u8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoIrq;
    use crate::irq::tests::Levels;

    #[test]
    fn every_byte_is_an_edge() {
        let levels = Arc::new(Levels::default());
        let device = Arc::new(I8042::new(levels.clone(), Arc::new(NoIrq)));
        let command = CommandPort(device.clone());
        assert_eq!(command.read(0, 1), 0x14);
        assert!(device.press(&[0x1e, 0x9e]));
        assert_eq!(device.read(0, 1), 0x1e);
        assert_eq!(device.read(0, 1), 0x9e);
        assert_eq!(*levels.0.lock(), [true, false, true, false]);
        assert_eq!(command.write(0, 1, 0xfe), Some(Effect::Reset));
    }
}
