//! The 8042 (IBM PS/2 Technical Reference, "Keyboard/auxiliary device
//! controller"): a keyboard on the first port, a mouse on the second.

mod saved;

use super::keyboard::Keyboard;
use super::mouse::Mouse;
use crate::Effect;

mod status {
    pub const OBF: u8 = 1 << 0;
    pub const SYS: u8 = 1 << 2;
    pub const COMMAND: u8 = 1 << 3;
    pub const UNLOCKED: u8 = 1 << 4;
    pub const AUX_OBF: u8 = 1 << 5;
}

mod ctr {
    pub const KBD_INT: u8 = 1 << 0;
    pub const AUX_INT: u8 = 1 << 1;
    pub const SYS: u8 = 1 << 2;
    pub const KBD_OFF: u8 = 1 << 4;
    pub const AUX_OFF: u8 = 1 << 5;
    pub const TRANSLATE: u8 = 1 << 6;
}

mod command {
    pub const READ_CTR: u8 = 0x20;
    pub const WRITE_CTR: u8 = 0x60;
    pub const AUX_OFF: u8 = 0xa7;
    pub const AUX_ON: u8 = 0xa8;
    pub const AUX_TEST: u8 = 0xa9;
    pub const SELF_TEST: u8 = 0xaa;
    pub const KBD_TEST: u8 = 0xab;
    pub const KBD_OFF: u8 = 0xad;
    pub const KBD_ON: u8 = 0xae;
    pub const READ_INPUT: u8 = 0xc0;
    pub const READ_OUTPUT: u8 = 0xd0;
    pub const WRITE_OUTPUT: u8 = 0xd1;
    pub const KBD_ECHO: u8 = 0xd2;
    pub const AUX_ECHO: u8 = 0xd3;
    pub const AUX_WRITE: u8 = 0xd4;
    /// 0xf0..=0xff pulse the output lines whose bit is 0.
    pub const PULSE: u8 = 0xf0;
}

/// Output port: bit 0 is the (active low) reset line, bit 1 gates A20.
const OUTPUT_RESET: u8 = 1 << 0;
const OUTPUT_A20: u8 = 1 << 1;
/// Interface test result: no error.
const TEST_PASSED: u8 = 0x00;

/// Which port a byte in the output buffer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    /// The keyboard, or the controller itself.
    Keyboard,
    /// The mouse.
    Mouse,
}

/// The controller and its devices.
#[derive(Clone, Debug)]
pub struct Controller {
    /// The keyboard on the first port.
    pub keyboard: Keyboard,
    /// The mouse on the second port.
    pub mouse: Mouse,
    ctr: u8,
    /// Byte in the output buffer.
    out: Option<(u8, From)>,
    /// Answer of the controller itself; goes before the devices' bytes.
    answer: Option<(u8, From)>,
    /// Last byte read, which empty reads repeat.
    last: u8,
    last_was_command: bool,
    /// Command that waits for a byte at the data port.
    waiting: Option<u8>,
    output_port: u8,
}

impl Default for Controller {
    fn default() -> Self {
        Self {
            keyboard: Keyboard::new(),
            mouse: Mouse::default(),
            ctr: ctr::KBD_INT | ctr::AUX_INT | ctr::SYS | ctr::TRANSLATE,
            out: None,
            answer: None,
            last: 0,
            last_was_command: false,
            waiting: None,
            output_port: OUTPUT_RESET | OUTPUT_A20,
        }
    }
}

impl Controller {
    /// Level of IRQ 1.
    pub fn irq(&self) -> bool {
        self.ctr & ctr::KBD_INT != 0 && self.holds(From::Keyboard)
    }

    /// Level of IRQ 12.
    pub fn mouse_irq(&self) -> bool {
        self.ctr & ctr::AUX_INT != 0 && self.holds(From::Mouse)
    }

    fn holds(&self, from: From) -> bool {
        self.out.is_some_and(|out| out.1 == from)
    }

    /// Reads the status port.
    pub fn read_status(&self) -> u8 {
        let full = match self.out {
            None => 0,
            Some((_, From::Keyboard)) => status::OBF,
            Some((_, From::Mouse)) => status::OBF | status::AUX_OBF,
        };
        let sys = if self.ctr & ctr::SYS != 0 {
            status::SYS
        } else {
            0
        };
        let command = if self.last_was_command {
            status::COMMAND
        } else {
            0
        };
        full | sys | command | status::UNLOCKED
    }

    /// Reads the data port and empties the output buffer. The next byte
    /// enters it with [`Self::refill`], after the interrupt lines have been
    /// seen low.
    pub fn read_data(&mut self) -> u8 {
        if let Some((byte, _)) = self.out.take() {
            self.last = byte;
        }
        self.last
    }

    /// Moves the next waiting byte into an empty output buffer.
    pub fn refill(&mut self) {
        if self.out.is_some() {
            return;
        }
        self.out = self.answer.take();
        if self.out.is_none() && self.ctr & ctr::KBD_OFF == 0 {
            let byte = self.keyboard.take();
            self.out = byte.map(|byte| (self.translated(byte), From::Keyboard));
        }
        if self.out.is_none() && self.ctr & ctr::AUX_OFF == 0 {
            self.out = self.mouse.take().map(|byte| (byte, From::Mouse));
        }
    }

    /// Writes the command port.
    pub fn write_command(&mut self, value: u8) -> Option<Effect> {
        self.last_was_command = true;
        self.waiting = None;
        match value {
            command::READ_CTR => self.reply(self.ctr),
            command::AUX_OFF => self.ctr |= ctr::AUX_OFF,
            command::AUX_ON => self.ctr &= !ctr::AUX_OFF,
            command::AUX_TEST => self.reply(TEST_PASSED),
            command::SELF_TEST => self.self_test(),
            command::KBD_TEST => self.reply(TEST_PASSED),
            command::KBD_OFF => self.ctr |= ctr::KBD_OFF,
            command::KBD_ON => self.ctr &= !ctr::KBD_OFF,
            command::READ_INPUT => self.reply(0x80),
            command::READ_OUTPUT => self.reply(self.output_port),
            command::WRITE_CTR
            | command::WRITE_OUTPUT
            | command::KBD_ECHO
            | command::AUX_ECHO
            | command::AUX_WRITE => self.waiting = Some(value),
            command::PULSE.. if value & OUTPUT_RESET == 0 => return Some(Effect::Reset),
            _ => {}
        }
        self.refill();
        None
    }

    /// Writes the data port.
    pub fn write_data(&mut self, value: u8) -> Option<Effect> {
        self.last_was_command = false;
        match self.waiting.take() {
            None => {
                // Talking to the keyboard switches its clock on.
                self.ctr &= !ctr::KBD_OFF;
                self.keyboard.command(value);
            }
            Some(command::WRITE_CTR) => self.ctr = value,
            Some(command::WRITE_OUTPUT) => {
                self.output_port = value | OUTPUT_RESET;
                if value & OUTPUT_RESET == 0 {
                    return Some(Effect::Reset);
                }
            }
            Some(command::KBD_ECHO) => self.reply(value),
            Some(command::AUX_ECHO) => {
                self.reply(value);
                self.answer = Some((value, From::Mouse));
            }
            Some(_) => {
                self.ctr &= !ctr::AUX_OFF;
                self.mouse.command(value);
            }
        }
        self.refill();
        None
    }

    fn reply(&mut self, byte: u8) {
        self.out = None;
        self.answer = Some((byte, From::Keyboard));
    }

    fn self_test(&mut self) {
        self.ctr |= ctr::SYS;
        self.reply(0x55);
    }

    /// Set 2 to set 1. Only the ID byte needs it as long as key presses are
    /// delivered in set 1.
    fn translated(&self, byte: u8) -> u8 {
        match byte {
            0x83 if self.ctr & ctr::TRANSLATE != 0 => 0x41,
            _ => byte,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(c: &mut Controller) -> Option<u8> {
        c.refill();
        let full = c.read_status() & status::OBF != 0;
        full.then(|| c.read_data())
    }

    #[test]
    fn self_tests() {
        let mut c = Controller::default();
        c.write_command(0xaa);
        assert_eq!(answer(&mut c), Some(0x55));
        c.write_command(0xab);
        assert_eq!(answer(&mut c), Some(0x00));
        assert_eq!(answer(&mut c), None);
    }

    #[test]
    fn control_register_reads_back() {
        let mut c = Controller::default();
        c.write_command(0x60);
        assert_eq!(c.read_status() & 0x08, 0x08);
        c.write_data(0x74);
        assert_eq!(c.read_status() & 0x08, 0);
        c.write_command(0x20);
        assert_eq!(answer(&mut c), Some(0x74));
    }

    #[test]
    fn three_ways_to_reset() {
        let mut c = Controller::default();
        assert_eq!(c.write_command(0xfe), Some(Effect::Reset));
        assert_eq!(c.write_command(0xff), None);
        assert_eq!(c.write_command(0xf0), Some(Effect::Reset));
        c.write_command(0xd1);
        assert_eq!(c.write_data(0xdf), None);
        c.write_command(0xd1);
        assert_eq!(c.write_data(0xde), Some(Effect::Reset));
    }

    #[test]
    fn keyboard_answers_raise_irq_1() {
        let mut c = Controller::default();
        c.write_data(0xf2);
        assert!(c.irq());
        assert_eq!(answer(&mut c), Some(0xfa));
        assert!(!c.irq());
        assert_eq!(answer(&mut c), Some(0xab));
        assert_eq!(answer(&mut c), Some(0x41));
        assert_eq!(answer(&mut c), None);
        // An empty buffer repeats its last byte.
        assert_eq!(c.read_data(), 0x41);
    }

    #[test]
    fn the_mouse_answers_on_the_second_port() {
        let mut c = Controller::default();
        c.write_command(0xa9);
        assert_eq!(answer(&mut c), Some(0x00));
        c.write_command(0xd3);
        c.write_data(0x5a);
        assert!(c.mouse_irq() && !c.irq());
        assert_eq!(c.read_status() & 0x21, 0x21);
        assert_eq!(answer(&mut c), Some(0x5a));
        c.write_command(0xd4);
        c.write_data(0xf2);
        assert!(c.mouse_irq());
        assert_eq!(answer(&mut c), Some(0xfa));
        assert_eq!(answer(&mut c), Some(0x00));
        assert_eq!(answer(&mut c), None);
        assert!(!c.mouse_irq());
    }

    #[test]
    fn a_switched_off_mouse_is_silent_until_spoken_to() {
        let mut c = Controller::default();
        c.write_command(0xd4);
        c.write_data(0xf4);
        assert_eq!(answer(&mut c), Some(0xfa));
        c.write_command(0xa7);
        assert!(c.mouse.report(1, 1, 0));
        assert_eq!(answer(&mut c), None);
        c.write_command(0xa8);
        assert_eq!(answer(&mut c), Some(0x08));
    }

    #[test]
    fn a_switched_off_keyboard_is_silent() {
        let mut c = Controller::default();
        c.write_command(0xad);
        assert!(c.keyboard.press(&[0x1e]));
        assert_eq!(answer(&mut c), None);
        c.write_command(0xae);
        assert_eq!(answer(&mut c), Some(0x1e));
    }
}
