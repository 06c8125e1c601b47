//! An AT keyboard (IBM PS/2 Technical Reference, "Keyboard commands"). It
//! answers commands; key presses come from the host.

use std::collections::VecDeque;

/// Bytes the keyboard keeps before it drops key presses.
const BUFFER: usize = 16;

mod answer {
    pub const ACK: u8 = 0xfa;
    pub const RESEND: u8 = 0xfe;
    pub const ECHO: u8 = 0xee;
    pub const TEST_PASSED: u8 = 0xaa;
    pub const ID: [u8; 2] = [0xab, 0x83];
}

/// The keyboard.
#[derive(Clone, Debug, Default)]
pub struct Keyboard {
    out: VecDeque<u8>,
    /// A command that waits for its parameter.
    waiting: Option<u8>,
    scan_set: u8,
    disabled: bool,
}

impl Keyboard {
    /// After power-on: scan code set 2, scanning.
    pub fn new() -> Self {
        Self {
            scan_set: 2,
            ..Self::default()
        }
    }

    /// What a saved state says of it.
    pub fn save(&self, saved: &mut state::devices::I8042) {
        saved.keyboard_out = self.out.iter().copied().collect();
        saved.keyboard_waiting = self.waiting;
        saved.scan_set = self.scan_set;
        saved.keyboard_disabled = self.disabled;
    }

    /// What a saved state describes; `None` if its buffer holds too much.
    pub fn from_saved(saved: &state::devices::I8042) -> Option<Self> {
        (saved.keyboard_out.len() <= BUFFER).then(|| Self {
            out: saved.keyboard_out.iter().copied().collect(),
            waiting: saved.keyboard_waiting,
            scan_set: saved.scan_set,
            disabled: saved.keyboard_disabled,
        })
    }

    /// The next byte for the controller.
    pub fn take(&mut self) -> Option<u8> {
        self.out.pop_front()
    }

    /// Scan codes of key presses, all or nothing.
    pub fn press(&mut self, codes: &[u8]) -> bool {
        let fits = !self.disabled && self.out.len() + codes.len() <= BUFFER;
        if fits {
            self.out.extend(codes);
        }
        fits
    }

    /// A byte from the controller.
    pub fn command(&mut self, byte: u8) {
        // A new command cancels what was still to be sent.
        self.out.clear();
        match self.waiting.take() {
            Some(command) => self.parameter(command, byte),
            None => self.first_byte(byte),
        }
    }

    fn first_byte(&mut self, byte: u8) {
        match byte {
            0xed | 0xf0 | 0xf3 => self.waiting = Some(byte),
            0xee => return self.out.push_back(answer::ECHO),
            0xf2 => {
                self.out.push_back(answer::ACK);
                return self.out.extend(answer::ID);
            }
            0xf4 => self.disabled = false,
            0xf5 => self.disabled = true,
            0xf6 => *self = Self::new(),
            0xff => {
                *self = Self::new();
                return self.out.extend([answer::ACK, answer::TEST_PASSED]);
            }
            _ => return self.out.push_back(answer::RESEND),
        }
        self.out.push_back(answer::ACK);
    }

    fn parameter(&mut self, command: u8, byte: u8) {
        self.out.push_back(answer::ACK);
        match (command, byte) {
            (0xf0, 0) => self.out.push_back(self.scan_set),
            (0xf0, 1..=3) => self.scan_set = byte,
            // Lights and the repeat rate change nothing here.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(keyboard: &mut Keyboard, byte: u8) -> Vec<u8> {
        keyboard.command(byte);
        std::iter::from_fn(|| keyboard.take()).collect()
    }

    #[test]
    fn answers() {
        let mut kbd = Keyboard::new();
        assert_eq!(ask(&mut kbd, 0xff), [0xfa, 0xaa]);
        assert_eq!(ask(&mut kbd, 0xf2), [0xfa, 0xab, 0x83]);
        assert_eq!(ask(&mut kbd, 0xed), [0xfa]);
        assert_eq!(ask(&mut kbd, 0x07), [0xfa]);
        assert_eq!(ask(&mut kbd, 0xee), [0xee]);
        assert_eq!(ask(&mut kbd, 0x00), [0xfe]);
        assert_eq!(ask(&mut kbd, 0xf0), [0xfa]);
        assert_eq!(ask(&mut kbd, 0x00), [0xfa, 0x02]);
    }

    #[test]
    fn a_disabled_or_full_keyboard_drops_keys() {
        let mut kbd = Keyboard::new();
        assert!(kbd.press(&[0x1c; 16]));
        assert!(!kbd.press(&[0x1c]));
        ask(&mut kbd, 0xf5);
        assert!(!kbd.press(&[0x1c]));
        ask(&mut kbd, 0xf4);
        assert!(kbd.press(&[0x1c]));
    }
}
