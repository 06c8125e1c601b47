//! The 8042 (IBM PS/2 Technical Reference, "Keyboard/auxiliary device
//! controller"). There is a keyboard on the first port and nothing on the
//! second.

use super::keyboard::Keyboard;
use crate::Effect;

mod status {
    pub const OBF: u8 = 1 << 0;
    pub const SYS: u8 = 1 << 2;
    pub const COMMAND: u8 = 1 << 3;
    pub const UNLOCKED: u8 = 1 << 4;
}

mod ctr {
    pub const KBD_INT: u8 = 1 << 0;
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
/// Interface test result "clock line stuck low": no such device.
const CLOCK_STUCK: u8 = 0x01;

/// The controller and its keyboard.
#[derive(Clone, Debug)]
pub struct Controller {
    /// The keyboard on the first port.
    pub keyboard: Keyboard,
    ctr: u8,
    /// Byte in the output buffer.
    out: Option<u8>,
    /// Answer of the controller itself; goes before keyboard bytes.
    answer: Option<u8>,
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
            ctr: ctr::KBD_INT | ctr::SYS | ctr::AUX_OFF | ctr::TRANSLATE,
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
        self.out.is_some() && self.ctr & ctr::KBD_INT != 0
    }

    /// Reads the status port.
    pub fn read_status(&self) -> u8 {
        let full = if self.out.is_some() { status::OBF } else { 0 };
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
    /// enters it with [`Self::refill`], after IRQ 1 has been seen low.
    pub fn read_data(&mut self) -> u8 {
        if let Some(byte) = self.out.take() {
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
            self.out = self.keyboard.take().map(|byte| self.translated(byte));
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
            command::AUX_TEST => self.reply(CLOCK_STUCK),
            command::SELF_TEST => self.self_test(),
            command::KBD_TEST => self.reply(0),
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
            // Without a second port the byte comes back as the keyboard's,
            // which tells a driver that there is none.
            Some(command::KBD_ECHO | command::AUX_ECHO) => self.reply(value),
            // The second port's device does not answer: it is not there.
            Some(_) => {}
        }
        self.refill();
        None
    }

    fn reply(&mut self, byte: u8) {
        self.out = None;
        self.answer = Some(byte);
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
    fn there_is_no_second_port() {
        let mut c = Controller::default();
        c.write_command(0xa9);
        assert_eq!(answer(&mut c), Some(0x01));
        c.write_command(0xd3);
        c.write_data(0x5a);
        // The byte comes back without the auxiliary flag (bit 5).
        assert_eq!(c.read_status() & 0x21, 0x01);
        assert_eq!(answer(&mut c), Some(0x5a));
        c.write_command(0xd4);
        c.write_data(0xf2);
        assert_eq!(answer(&mut c), None);
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
