//! A three-button PS/2 mouse (IBM PS/2 Technical Reference, "Mouse
//! commands"). It answers commands; movement comes from the host.

use std::collections::VecDeque;

/// Bytes the mouse keeps before it drops reports.
const BUFFER: usize = 48;

mod answer {
    pub const ACK: u8 = 0xfa;
    pub const RESEND: u8 = 0xfe;
    pub const TEST_PASSED: u8 = 0xaa;
    /// Standard three-button mouse.
    pub const ID: u8 = 0x00;
}

mod status {
    pub const SCALING_2: u8 = 1 << 4;
    pub const REPORTING: u8 = 1 << 5;
    pub const REMOTE: u8 = 1 << 6;
}

/// The mouse.
#[derive(Clone, Debug)]
pub struct Mouse {
    out: VecDeque<u8>,
    /// A command that waits for its parameter.
    waiting: Option<u8>,
    /// Status bits but the buttons.
    status: u8,
    /// Log2 of counts per mm.
    resolution: u8,
    /// Reports per second.
    rate: u8,
    /// Left, right, middle in bits 0..=2.
    buttons: u8,
}

impl Default for Mouse {
    fn default() -> Self {
        Self {
            out: VecDeque::new(),
            waiting: None,
            status: 0,
            resolution: 2,
            rate: 100,
            buttons: 0,
        }
    }
}

impl Mouse {
    /// What a saved state says of it.
    pub fn save(&self, saved: &mut state::devices::I8042) {
        saved.mouse_out = self.out.iter().copied().collect();
        saved.mouse_waiting = self.waiting;
        saved.mouse_status = self.status;
        saved.resolution = self.resolution;
        saved.rate = self.rate;
        saved.buttons = self.buttons;
    }

    /// What a saved state describes; `None` if there is none such.
    pub fn from_saved(saved: &state::devices::I8042) -> Option<Self> {
        let fits = saved.mouse_out.len() <= BUFFER && saved.resolution <= 3;
        fits.then(|| Self {
            out: saved.mouse_out.iter().copied().collect(),
            waiting: saved.mouse_waiting,
            status: saved.mouse_status,
            resolution: saved.resolution,
            rate: saved.rate,
            buttons: saved.buttons & 7,
        })
    }

    /// The next byte for the controller.
    pub fn take(&mut self) -> Option<u8> {
        self.out.pop_front()
    }

    /// The mouse moved (right and up are positive) or a button changed. False
    /// if the report was dropped.
    pub fn report(&mut self, dx: i16, dy: i16, buttons: u8) -> bool {
        self.buttons = buttons & 7;
        let streams = self.status & (status::REPORTING | status::REMOTE) == status::REPORTING;
        if !streams || self.waiting.is_some() || self.out.len() + 3 > BUFFER {
            return false;
        }
        self.push_packet(dx, dy);
        true
    }

    /// A byte from the controller.
    pub fn command(&mut self, byte: u8) {
        // A new command cancels what was still to be sent.
        self.out.clear();
        self.out.push_back(answer::ACK);
        match self.waiting.take() {
            Some(0xe8) => self.resolution = byte & 3,
            Some(_) => self.rate = byte,
            None => self.first_byte(byte),
        }
    }

    fn first_byte(&mut self, byte: u8) {
        match byte {
            0xe6 => self.status &= !status::SCALING_2,
            0xe7 => self.status |= status::SCALING_2,
            0xe8 | 0xf3 => self.waiting = Some(byte),
            0xe9 => {
                let first = self.status | status_buttons(self.buttons);
                self.out.extend([first, self.resolution, self.rate]);
            }
            0xea => self.status &= !status::REMOTE,
            0xeb => self.push_packet(0, 0),
            0xf0 => self.status |= status::REMOTE,
            0xf2 => self.out.push_back(answer::ID),
            0xf4 => self.status |= status::REPORTING,
            0xf5 => self.status &= !status::REPORTING,
            0xf6 | 0xff => {
                let out = std::mem::take(&mut self.out);
                *self = Self {
                    out,
                    ..Self::default()
                };
                if byte == 0xff {
                    self.out.extend([answer::TEST_PASSED, answer::ID]);
                }
            }
            _ => {
                self.out.clear();
                self.out.push_back(answer::RESEND);
            }
        }
    }

    /// Buttons and signs, then the low eight bits of both distances.
    fn push_packet(&mut self, dx: i16, dy: i16) {
        let (dx, dy) = (dx.clamp(-255, 255), dy.clamp(-255, 255));
        let sign = |value: i16, bit: u8| if value < 0 { bit } else { 0 };
        let first = self.buttons | 1 << 3 | sign(dx, 1 << 4) | sign(dy, 1 << 5);
        self.out.extend([first, dx as u8, dy as u8]);
    }
}

/// Packets have left, right, middle in bits 0..=2; the status byte has right,
/// middle, left there.
fn status_buttons(buttons: u8) -> u8 {
    let bit = |from: u8, to: u8| (buttons >> from & 1) << to;
    bit(0, 2) | bit(1, 0) | bit(2, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(mouse: &mut Mouse, byte: u8) -> Vec<u8> {
        mouse.command(byte);
        std::iter::from_fn(|| mouse.take()).collect()
    }

    #[test]
    fn answers() {
        let mut mouse = Mouse::default();
        assert_eq!(ask(&mut mouse, 0xff), [0xfa, 0xaa, 0x00]);
        assert_eq!(ask(&mut mouse, 0xf2), [0xfa, 0x00]);
        assert_eq!(ask(&mut mouse, 0xe9), [0xfa, 0x00, 2, 100]);
        assert_eq!(ask(&mut mouse, 0xf3), [0xfa]);
        assert_eq!(ask(&mut mouse, 200), [0xfa]);
        assert_eq!(ask(&mut mouse, 0xe8), [0xfa]);
        assert_eq!(ask(&mut mouse, 3), [0xfa]);
        assert_eq!(ask(&mut mouse, 0xe7), [0xfa]);
        assert_eq!(ask(&mut mouse, 0xe9), [0xfa, 0x10, 3, 200]);
        assert_eq!(ask(&mut mouse, 0x12), [0xfe]);
        assert_eq!(ask(&mut mouse, 0xf6), [0xfa]);
        assert_eq!(ask(&mut mouse, 0xe9), [0xfa, 0x00, 2, 100]);
    }

    #[test]
    fn reports_only_when_asked_to_stream() {
        let mut mouse = Mouse::default();
        assert!(!mouse.report(1, 1, 0));
        ask(&mut mouse, 0xf4);
        assert!(mouse.report(-3, 5, 0b001));
        let packet: Vec<u8> = std::iter::from_fn(|| mouse.take()).collect();
        assert_eq!(packet, [0x19, 0xfd, 0x05]);
        (0..16).for_each(|_| assert!(mouse.report(0, 0, 0)));
        assert!(!mouse.report(0, 0, 0));
        ask(&mut mouse, 0xf0);
        assert!(!mouse.report(1, 0, 0));
        assert_eq!(ask(&mut mouse, 0xeb), [0xfa, 0x08, 0, 0]);
    }

    #[test]
    fn the_status_byte_orders_buttons_its_own_way() {
        let mut mouse = Mouse::default();
        // Left, middle, right are bits 2, 1, 0 of the status byte.
        for (report, status) in [(1, 4), (2, 1), (4, 2)] {
            mouse.report(0, 0, report);
            assert_eq!(ask(&mut mouse, 0xe9)[1], status);
        }
    }
}
