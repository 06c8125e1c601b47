//! The controller and the schema.

use super::{Controller, From};
use crate::i8042::keyboard::Keyboard;
use crate::i8042::mouse::Mouse;
use state::devices::KeyboardByte;

fn byte_of(byte: Option<(u8, From)>) -> Option<KeyboardByte> {
    byte.map(|(value, from)| KeyboardByte {
        value,
        mouse: from == From::Mouse,
    })
}

fn byte_to(byte: &Option<KeyboardByte>) -> Option<(u8, From)> {
    byte.as_ref().map(|b| match b.mouse {
        true => (b.value, From::Mouse),
        false => (b.value, From::Keyboard),
    })
}

impl Controller {
    /// What a saved state says of controller, keyboard and mouse.
    pub fn saved(&self, levels: [bool; 2]) -> state::devices::I8042 {
        let mut saved = state::devices::I8042 {
            ctr: self.ctr,
            out: byte_of(self.out),
            answer: byte_of(self.answer),
            last: self.last,
            last_was_command: self.last_was_command,
            waiting: self.waiting,
            output_port: self.output_port,
            levels,
            ..state::devices::I8042::default()
        };
        self.keyboard.save(&mut saved);
        self.mouse.save(&mut saved);
        saved
    }

    /// What a saved state describes; `None` if there is none such.
    pub fn from_saved(saved: &state::devices::I8042) -> Option<Self> {
        Some(Self {
            keyboard: Keyboard::from_saved(saved)?,
            mouse: Mouse::from_saved(saved)?,
            ctr: saved.ctr,
            out: byte_to(&saved.out),
            answer: byte_to(&saved.answer),
            last: saved.last,
            last_was_command: saved.last_was_command,
            waiting: saved.waiting,
            output_port: saved.output_port,
        })
    }
}
